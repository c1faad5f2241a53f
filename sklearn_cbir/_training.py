"""Network + loss + batches -> trained network. The only module that knows skorch."""

import contextlib
import hashlib
import io
import math
import multiprocessing
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from skorch import NeuralNet
from skorch.helper import predefined_split
from torch import nn
from torch.utils.data import DataLoader, Dataset

from sklearn_cbir._files import replace_file
from sklearn_cbir._validation import resolve

CHECKPOINT_FORMAT = 1


# Devices and seeds ---------------------------------------------------------------------------


def resolve_device(device):
    """Return the torch device that `device` stands for now; "auto" prefers a GPU."""
    if device != "auto":
        try:
            return torch.device(device)
        except RuntimeError as error:
            raise ValueError(
                f"device={device!r} is not known to torch. Use 'auto', 'cpu', 'cuda' or 'mps'."
            ) from error
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


_lock = threading.RLock()


def _renew_lock():
    global _lock
    _lock = threading.RLock()


# A lock that another thread held at the fork would stay locked in the child.
os.register_at_fork(after_in_child=_renew_lock)


@contextlib.contextmanager
def seeded(seed, device):
    """Seed torch inside the block; its global generators are untouched afterwards.

    They are shared by all threads, so that one block runs at a time.
    """
    devices = range(torch.cuda.device_count()) if device.type == "cuda" else []
    with _lock, torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def derived_seed(*parts):
    """Return a seed that depends on every one of the integers `parts`."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


# Batches -------------------------------------------------------------------------------------


class ArraySource:
    """Feature rows (n, n_features) as batches of their own floating type."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def read(self, indices, rng=None):
        """Return the rows at `indices` as a tensor; rows are never augmented."""
        return torch.from_numpy(np.array(self.rows[indices], order="C"))

    def subset(self, indices):
        """Return a source of some of the rows."""
        return ArraySource(self.rows[indices])


class ImageSource:
    """Images as batches of uint8 tensors (n, 3, height, width)."""

    def __init__(self, images, size, resize, augment=None):
        self.images = images
        self.size = size
        self.resize = resize
        self.augment = augment

    def __len__(self):
        return len(self.images)

    def read(self, indices, rng=None):
        """Return the images at `indices`, augmented if a generator is given."""
        batch = self.images.read(indices, self.size, resize=self.resize)
        if rng is not None and self.augment is not None:
            batch = self.augment(batch, rng)
        # (n, H, W, 3) memory seen as (n, 3, H, W): torch's channels-last layout, no copy.
        return torch.from_numpy(np.ascontiguousarray(batch)).permute(0, 3, 1, 2)

    def subset(self, indices):
        """Return a source of some of the images."""
        return ImageSource(self.images[indices], self.size, self.resize, self.augment)


class Batches(Dataset):
    """One epoch of `(inputs, targets)` at a time, the same for any number of workers.

    `plan(rng, embed)` gives the epoch's list of index arrays, equally many in every epoch;
    `embed(indices)` are embeddings under the network as it is, and None before the training.
    Every batch draws its augmentation and its mixup from a generator of its own, made from the
    seed, the epoch and the number of the batch.
    """

    def __init__(self, source, y, plan, *, seed, augmented, mixup=0.0, num_workers=0):
        self.source = source
        self.y = y
        self.plan = plan
        self.seed = seed
        self.augmented = augmented
        self.mixup = mixup
        self.num_workers = num_workers
        self.start_epoch(0)

    def start_epoch(self, epoch, embed=None):
        """Choose the order of the images of this epoch."""
        self.epoch = epoch
        self.indices = self.plan(np.random.default_rng((self.seed, epoch)), embed)

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, number):
        indices = self.indices[number]
        if not self.augmented:
            return self.source.read(indices), torch.from_numpy(self.y[indices])
        rng = np.random.default_rng((self.seed, self.epoch, number))
        inputs = self.source.read(indices, rng)
        if not self.mixup:
            return inputs, torch.from_numpy(self.y[indices])
        targets = torch.from_numpy(self.y[indices])
        if targets.ndim == 1:
            targets = nn.functional.one_hot(targets, int(self.y.max()) + 1).float()
        return mix(inputs, targets, self.mixup, rng)

    def __iter__(self):
        # Loader workers cannot be started from joblib's own workers.
        if self.num_workers == 0 or multiprocessing.parent_process() is not None:
            return (self[number] for number in range(len(self)))
        return self._from_workers()

    def _from_workers(self):
        loader = DataLoader(
            _Guarded(self), batch_size=None, num_workers=self.num_workers, collate_fn=_as_it_is
        )
        for batch in loader:
            if isinstance(batch, Exception):
                raise batch
            yield batch


def mix(inputs, targets, alpha, rng):
    """Mix every row with its mirror image in the batch, by a share from Beta(alpha, alpha)."""
    shares = rng.beta(alpha, alpha, size=(len(inputs) + 1) // 2)
    # Both rows of a pair have one share; the middle row of an odd batch is its own mirror image.
    shares = torch.from_numpy(np.concatenate([shares, shares[: len(inputs) // 2][::-1]]))

    def blend(rows):
        share = shares.to(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
        return share * rows + (1 - share) * rows.flip(0)

    # Not rounded to uint8: the network takes floats from 0 to 255 as well.
    return blend(inputs if inputs.is_floating_point() else inputs.float()), blend(targets)


class _Guarded(Dataset):
    """Batches, or the error of reading them: a worker would wrap it and lose what it carries."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        try:
            return self.batches[number]
        except Exception as error:
            return error


def _as_it_is(batch):
    return batch


# Optimization --------------------------------------------------------------------------------


def _sgd(groups, lr, weight_decay):
    return torch.optim.SGD(groups, lr=lr, weight_decay=weight_decay, momentum=0.9, nesterov=True)


OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": _sgd}


def _one_cycle(done):
    """Linear rise over the first quarter, then a half cosine down to zero."""
    return 4 * done if done < 0.25 else (1 + math.cos(math.pi * (4 * done - 1) / 3)) / 2


# Share of the phase that is done, 0 to 1 -> factor of the learning rate.
SCHEDULES = {
    "one_cycle": _one_cycle,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}


@dataclass(frozen=True)
class Settings:
    """What one training is asked to do; the estimators' parameters of the same names."""

    optimizer: object
    lr: float
    trunk_lr: float
    loss_lr: float
    weight_decay: float
    schedule: str
    head_epochs: int
    max_epochs: int
    batch_size: int
    n_iter_no_change: int | None
    tol: float
    autocast: bool

    def make_optimizer(self, network, loss, head_only):
        """Return the optimizer of one phase; biases, norms and loss parameters do not decay."""
        parts = [(network.head_parameters(), self.lr), (loss.named_parameters(), self.loss_lr)]
        if not head_only:
            parts.append((network.trunk.named_parameters(), self.trunk_lr))
        groups = []
        for position, (named, lr) in enumerate(parts):
            by_decay = {True: [], False: []}
            for _, parameter in named:
                by_decay[parameter.ndim > 1 and position != 1].append(parameter)
            for decays, parameters in by_decay.items():
                if parameters:
                    decay = self.weight_decay if decays else 0.0
                    group = {"params": parameters, "lr": lr, "weight_decay": decay, "base_lr": lr}
                    groups.append(group)
        make = resolve(self.optimizer, OPTIMIZERS, "optimizer", own="a torch optimizer class")
        try:
            return make(groups, lr=self.lr, weight_decay=self.weight_decay)
        except TypeError as error:
            raise ValueError(
                f"optimizer={self.optimizer!r} could not be made: {error}. Use one of "
                f"{sorted(OPTIMIZERS)}, or a class called as "
                "optimizer(groups, lr=..., weight_decay=...)."
            ) from error


class _Net(NeuralNet):
    """skorch's loop over ready-made batches, network, loss and optimizer."""

    def __init__(self, *args, settings=None, head_only=False, n_steps=1, step=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.head_only = head_only
        self.n_steps = n_steps
        self.step = step

    def get_iterator(self, dataset, training=False):
        return dataset

    def initialize_optimizer(self, triggered_directly=None):
        self.optimizer_ = self.settings.make_optimizer(
            self.module_, self.criterion_, self.head_only
        )
        return self

    def infer(self, x, **fit_params):
        if not self.settings.autocast:
            return super().infer(x, **fit_params)
        device = torch.device(self.device).type
        with torch.autocast(device, dtype=torch.bfloat16):
            return super().infer(x, **fit_params).float()

    def train_step(self, batch, **fit_params):
        # The middle of the step: at its ends a schedule may be 0, and one step must train too.
        factor = SCHEDULES[self.settings.schedule]((self.step + 0.5) / self.n_steps)
        for group in self.optimizer_.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.step += 1
        return super().train_step(batch, **fit_params)

    def get_loss(self, y_pred, y_true, X=None, training=False):
        try:
            loss = super().get_loss(y_pred, y_true, X, training)
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"loss={_name_of(self.criterion_)} failed on outputs {tuple(y_pred.shape)} and y "
                f"{tuple(y_true.shape)} of {y_true.dtype}: {error}"
            ) from error
        if not torch.isfinite(loss):
            self._stop(f"The loss became {loss.item()}")
        return loss

    def check_weights(self):
        """Raise if the last step, which no loss has seen yet, broke the weights."""
        values = self.module_.state_dict().values()
        if not all(torch.isfinite(value).all() for value in values if value.is_floating_point()):
            self._stop("The weights became NaN or infinite")

    def _stop(self, what):
        rates = sorted({group["lr"] for group in self.optimizer_.param_groups})
        raise FloatingPointError(
            f"{what} at epoch {len(self.history)}, batch {len(self.history[-1]['batches'])}, "
            f"learning rate {', '.join(f'{rate:.3g}' for rate in rates)}. Lower lr, or check the "
            "images and labels."
        )


def _name_of(loss):
    function = getattr(loss, "function", loss)
    return getattr(function, "__qualname__", type(function).__name__)


class _CallableLoss(nn.Module):
    """A plain function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, outputs, y):
        return self.function(outputs, y)


# Checkpoints ---------------------------------------------------------------------------------


class Checkpoint:
    """The state after the last finished epoch, in one file that is replaced atomically."""

    def __init__(self, folder, name, key):
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        self.path = Path(folder) / f"{name}-{digest}.pt"

    def load(self):
        """Return the saved state, or None if there is none."""
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError(
                f"The checkpoint {str(self.path)!r} is truncated or corrupt. Delete it to train "
                "from the start."
            ) from error
        if state["format"] != CHECKPOINT_FORMAT:
            raise ValueError(
                f"The checkpoint {str(self.path)!r} has format {state['format']}, this version "
                f"reads {CHECKPOINT_FORMAT}. Delete it to train from the start."
            )
        return state

    def save(self, **state):
        """Write the state; a failure leaves the previous file as it was."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save({"format": CHECKPOINT_FORMAT, **state}, buffer)
        replace_file(self.path, buffer.getbuffer())


# Training ------------------------------------------------------------------------------------


def train(
    network, loss, batches, valid_batches, settings, *, seed, device, checkpoint, state, on_epoch
):
    """Train in place: the head alone, then everything; return one dict per epoch.

    `state` is what the checkpoint holds of an earlier run, or None. `on_epoch(record)` is called
    after every epoch of this call; True ends the training.
    """
    loss = loss if isinstance(loss, nn.Module) else _CallableLoss(loss)
    network.to(device, memory_format=torch.channels_last)
    loss.to(device)
    run = _Run(network, loss, settings.n_iter_no_change, settings.tol)
    if state is not None:
        run.restore(state)

    def embed(indices):
        return infer(network, batches.source.subset(indices), settings.batch_size, device)

    start = 0
    for n_epochs, head_only in ((settings.head_epochs, True), (settings.max_epochs, False)):
        epochs = range(max(start, len(run.history)), start + n_epochs)
        if epochs and not run.stopped:
            network.freeze_trunk(head_only)
            net = _make_net(run, settings, batches, valid_batches, n_epochs, head_only, device)
            if len(run.history) > start:
                net.optimizer_.load_state_dict(state["optimizer"])
                net.step = (len(run.history) - start) * len(batches)
            _train_phase(net, run, epochs, batches, embed, seed, checkpoint, on_epoch)
        start += n_epochs
    network.freeze_trunk(False)
    run.restore_best()
    network.cpu()
    return run.history


def _make_net(run, settings, batches, valid_batches, n_epochs, head_only, device):
    """Return skorch's net for one phase, initialized."""
    return _Net(
        run.network,
        criterion=run.loss,
        train_split=None if valid_batches is None else predefined_split(valid_batches),
        callbacks="disable",
        verbose=0,
        device=str(device),
        settings=settings,
        head_only=head_only,
        n_steps=n_epochs * len(batches),
    ).initialize()


def _train_phase(net, run, epochs, batches, embed, seed, checkpoint, on_epoch):
    """Run the epochs of one phase until one of them stops the run."""
    for epoch in epochs:
        torch.manual_seed(derived_seed(seed, epoch))
        started = time.perf_counter()
        batches.start_epoch(epoch, embed)
        if hasattr(run.loss, "start_epoch"):
            run.loss.start_epoch(epoch, net.settings.head_epochs + net.settings.max_epochs)
        # Not partial_fit: that one swallows Ctrl-C.
        net.fit_loop(batches, epochs=1)
        net.check_weights()
        run.record(net, epoch, time.perf_counter() - started)
        run.stopped |= bool(on_epoch(run.history[-1]))
        if checkpoint:
            checkpoint.save(seed=seed, optimizer=net.optimizer_.state_dict(), **run.state())
        if run.stopped:
            return


class _Run:
    """History, best weights and the reason to stop: what a checkpoint has to hold."""

    def __init__(self, network, loss, n_iter_no_change, tol):
        self.network = network
        self.loss = loss
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.history = []
        self.best = None
        self.best_loss = float("inf")
        self.waited = 0
        self.stopped = False

    def record(self, net, epoch, seconds):
        """Add the epoch that `net` has just finished and decide whether to stop."""
        row = net.history[-1]
        record = {
            "epoch": epoch + 1,
            "phase": "head" if net.head_only else "all",
            "loss": _epoch_mean(row["batches"], "train"),
            "lr": max(group["lr"] for group in net.optimizer_.param_groups),
            "seconds": seconds,
        }
        if "valid_batch_count" in row:
            record["valid_loss"] = _epoch_mean(row["batches"], "valid")
            if not net.head_only:
                self._watch(record["valid_loss"])
        self.history.append(record)

    def _watch(self, valid_loss):
        improved = valid_loss < self.best_loss - self.tol
        self.waited = 0 if improved else self.waited + 1
        if valid_loss < self.best_loss:
            self.best_loss = valid_loss
            self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.stopped = self.waited >= self.n_iter_no_change

    def restore_best(self):
        if self.best is not None:
            self.network.load_state_dict(self.best)

    def state(self):
        return {
            "network": self.network.state_dict(),
            "loss": self.loss.state_dict(),
            "history": self.history,
            "best": self.best,
            "best_loss": self.best_loss,
            "waited": self.waited,
            "stopped": self.stopped,
        }

    def restore(self, state):
        self.network.load_state_dict(state["network"])
        self.loss.load_state_dict(state["loss"])
        for name in ("history", "best", "best_loss", "waited", "stopped"):
            setattr(self, name, state[name])


def _epoch_mean(batches, prefix):
    """Mean loss of an epoch; a batch counts with its size."""
    rows = [row for row in batches if f"{prefix}_loss" in row]
    losses = [row[f"{prefix}_loss"] for row in rows]
    return float(np.average(losses, weights=[row[f"{prefix}_batch_size"] for row in rows]))


def infer(network, source, batch_size, device, ticks=None):
    """Return `network.embed` of every row of `source`, float32 (n, d), in order."""
    with _lock:  # one thread must not move the network away under another
        network.to(device, memory_format=torch.channels_last).eval()
    starts = range(0, len(source), batch_size)
    outputs = []
    with torch.inference_mode():
        for start in starts if ticks is None else ticks(starts):
            indices = np.arange(start, min(start + batch_size, len(source)))
            rows = network.embed(source.read(indices).to(device)).float().cpu().numpy()
            bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(bad):
                raise ValueError(
                    f"X[{start + bad[0]}]: the network gave NaN or infinity. Check its weights."
                )
            outputs.append(rows)
    return np.concatenate(outputs)
