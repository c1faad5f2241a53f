"""Network + loss + batches -> trained network. The only module that knows skorch."""

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from skorch import NeuralNet
from skorch.helper import predefined_split
from torch import nn

from sklearn_cbir._batches import shared_workers
from sklearn_cbir._devices import derived_seed, generator_of, use_one_thread_if_forked
from sklearn_cbir._hidden_state import (
    NotKept,
    hidden_state,
    kept_state,
    restored_state,
    set_hidden_state,
    unkept,
)
from sklearn_cbir._module_state import copied_state, load_values
from sklearn_cbir._randomness import Draws
from sklearn_cbir._validation import resolve, shortened, warn_user
from sklearn_cbir.backbones._probe import in_float32, name_of
from sklearn_cbir.losses._base import call_of, name_of_loss

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

    @property
    def n_epochs(self):
        """Epochs of all phases."""
        return self.head_epochs + self.max_epochs

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
        way_out = (
            f"Use one of {sorted(OPTIMIZERS)}, or a class called as "
            "optimizer(groups, lr=..., weight_decay=...)."
        )
        try:
            optimizer = make(groups, lr=self.lr, weight_decay=self.weight_decay)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"optimizer={shortened(self.optimizer)} could not be made: {error}. {way_out}"
            ) from error
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(
                f"optimizer={shortened(self.optimizer)} made {type(optimizer).__name__}, which is "
                f"no torch optimizer. {way_out}"
            )
        return optimizer


class _Net(NeuralNet):
    """skorch's loop over ready-made batches, network, loss and optimizer."""

    def __init__(self, *args, settings=None, head_only=False, n_steps=1, step=0, **kwargs):
        super().__init__(*args, **kwargs)
        self.settings = settings
        self.head_only = head_only
        self.n_steps = n_steps
        self.step = step
        self.has_learned = False
        self.trunk_has_learned = False
        self.outputs_have_gradients = False

    def train_epoch(self, epoch, batches):
        """Train on the batches of one epoch, then score the held-out images, if there are any."""
        self.epoch = epoch
        _start_epoch(self.criterion_, epoch, self.settings.n_epochs)
        # Not partial_fit: that one swallows Ctrl-C.
        self.fit_loop(batches, epochs=1)
        self.check_progress()

    def run_single_epoch(self, iterator, training, *args, **kwargs):
        if training or iterator is None:
            return super().run_single_epoch(iterator, training, *args, **kwargs)
        # Under one setting for all epochs: losses of different ones cannot be compared.
        _start_epoch(self.criterion_, self.settings.n_epochs - 1, self.settings.n_epochs)
        super().run_single_epoch(iterator, training, *args, **kwargs)
        _start_epoch(self.criterion_, self.epoch, self.settings.n_epochs)

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

    def train_step_single(self, batch, **fit_params):
        self._set_training(True)
        inputs, targets = batch
        outputs = self.infer(inputs, **fit_params)
        self.outputs_have_gradients |= outputs.requires_grad
        loss = self.get_loss(outputs, targets, X=inputs, training=True)
        # A batch without anything to compare may give a constant: it moves no weight.
        if loss.requires_grad:
            self._backward(loss)
        return {"loss": loss, "y_pred": outputs}

    def _backward(self, loss):
        try:
            loss.backward()
        except Exception as error:
            error.add_note(
                f"Raised by the gradients of loss={_name_of(self.criterion_)} and "
                f"backbone={self._backbone()}."
            )
            raise
        self.has_learned = True
        if not self.trunk_has_learned:
            trained = self.module_.trunk.parameters()
            self.trunk_has_learned = any(p.grad is not None for p in trained)

    def _backbone(self):
        return name_of(self.module_.trunk.spec["backbone"])

    def train_step(self, batch, **fit_params):
        # The middle of the step: at its ends a schedule may be 0, and one step must train too.
        factor = SCHEDULES[self.settings.schedule]((self.step + 0.5) / self.n_steps)
        for group in self.optimizer_.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.step += 1
        try:
            return super().train_step(batch, **fit_params)
        except RuntimeError as error:
            if "without overflow" not in str(error):  # of a rate times a decay, say
                raise
            self._stop("The step became infinite")

    def get_loss(self, y_pred, y_true, X=None, training=False):
        y_true, weights = y_true
        options = {}
        if weights is not None:
            self.history.record_batch(f"{_part(training)}_weight", float(weights.sum()))
            options["sample_weight"] = weights.to(y_pred.device)
        try:
            loss = self.criterion_(y_pred, y_true.to(y_pred.device), **options)
        except Exception as error:
            what = (
                f"loss={_name_of(self.criterion_)} failed on outputs {tuple(y_pred.shape)} and y "
                f"{tuple(y_true.shape)} of {y_true.dtype}"
            )
            if isinstance(error, (TypeError, ValueError, IndexError, RuntimeError)):
                raise ValueError(f"{what}: {error}") from error
            error.add_note(f"{what}.")
            raise
        value = _number(loss)
        if value is None:
            raise ValueError(
                f"loss={_name_of(self.criterion_)} returned {_describe(loss)} for outputs "
                f"{tuple(y_pred.shape)} and y {tuple(y_true.shape)}. It must return one number, a "
                "tensor that depends on the outputs: use reduction='mean' or its mean."
            )
        if not math.isfinite(value):
            self._stop(f"The loss became {value}")
        return loss.reshape(())

    def check_progress(self):
        """Raise if no batch has moved a weight, or if the last step has broken the weights."""
        if not self.has_learned and not self.outputs_have_gradients:
            raise ValueError(
                f"The outputs of backbone={self._backbone()} have no gradients, as after "
                "torch.no_grad(), detach() or whole numbers in its forward, and nothing else is "
                "there to be trained. Take that out, add a layer by n_components, or use it as it "
                "is, with loss=None."
            )
        if not self.has_learned:
            loss = self.history[-1]["batches"][-1]["train_loss"]
            raise ValueError(
                f"loss={_name_of(self.criterion_)} returned a constant, such as {loss:.4g}, for "
                "every batch of an epoch. It must return one number that depends on the outputs: "
                "no .item(), .detach() or torch.tensor(...) in between, and batches with something "
                "to compare."
            )
        self._warn_of_idle_trunk()
        for value in self.module_.state_dict().values():
            if isinstance(value, torch.Tensor) and not torch.isfinite(value).all():
                self._stop("The weights became NaN or infinite")

    def _warn_of_idle_trunk(self):
        parameters = self.module_.trunk.parameters()
        if self.head_only or self.trunk_has_learned or not any(p.requires_grad for p in parameters):
            return
        self.trunk_has_learned = True  # said once
        warn_user(
            f"No weight of backbone={self._backbone()} is trained: none has a gradient, as after "
            "torch.no_grad(), detach() or whole numbers in its forward. Take that out, or say by "
            "backbone.requires_grad_(False) that it is to stay as it is."
        )

    def _stop(self, what):
        rates = sorted({group["lr"] for group in self.optimizer_.param_groups})
        raise FloatingPointError(
            f"{what} at epoch {len(self.history)}, batch {len(self.history[-1]['batches'])}, "
            f"learning rate {', '.join(f'{rate:.3g}' for rate in rates)}. Lower lr, or check the "
            "images and labels."
        )


def _number(loss):
    """Return the value of a loss, None if it is no tensor of one real number."""
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or loss.is_complex():
        return None
    if loss.layout != torch.strided:
        return None
    return None if loss.is_meta else float(loss.detach())


def _describe(value):
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__}, no tensor" if value is not None else "None"
    place = f" on {value.device}" if value.is_meta else ""
    place += "" if value.layout == torch.strided else f" in {value.layout}"
    return f"a tensor of shape {tuple(value.shape)} of {value.dtype}{place}"


def _part(training):
    return "train" if training else "valid"


def _name_of(loss):
    return name_of_loss(loss.function if isinstance(loss, _CallableLoss) else loss)


class _CallableLoss(nn.Module):
    """A plain function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, outputs, y, **weights):
        return self.function(outputs, y, **weights)


def as_module(loss):
    """Return a loss as a module in float32; a plain function has no parameters."""
    return in_float32(loss) if isinstance(loss, nn.Module) else _CallableLoss(loss)


def _start_epoch(loss, epoch, n_epochs):
    """Tell a loss that changes as it trains, module or not, which epoch begins."""
    loss = loss.function if isinstance(loss, _CallableLoss) else loss
    if hasattr(loss, "start_epoch"):
        call_of(loss, "start_epoch(epoch, n_epochs)", loss.start_epoch, epoch, n_epochs)


# Training ------------------------------------------------------------------------------------


def train(
    network, loss, batches, valid_batches, settings, *, seed, device, checkpoint, state, on_epoch
):
    """Train in place: the head alone, then everything; return one dict per epoch.

    `state` is what the checkpoint holds of an earlier run, or None. `on_epoch(record)` is called
    after every epoch of this call; True ends the training.
    """
    loss = as_module(loss)
    network.to(device, memory_format=network.memory_format)
    loss.to(device)
    run = _Run(network, loss, settings.n_iter_no_change, settings.tol)
    if checkpoint:
        run.watch_what_is_not_kept()
    if state is not None:
        run.restore(state)

    def embed(indices):
        return infer(network, batches.source.subset(indices), settings.batch_size, device)

    start = 0
    with shared_workers(batches, valid_batches):
        for n_epochs, head_only in ((settings.head_epochs, True), (settings.max_epochs, False)):
            epochs = range(max(start, len(run.history)), start + n_epochs)
            if epochs and not run.stopped:
                network.freeze_trunk(head_only)
                net = _make_net(run, settings, batches, valid_batches, n_epochs, head_only, device)
                if len(run.history) > start:
                    net.optimizer_.load_state_dict(state["optimizer"])
                    set_hidden_state(net.optimizer_, state["hidden_optimizer"])
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
    if checkpoint:
        run.watch_what_is_not_kept(net.optimizer_)
    for epoch in epochs:
        started = time.perf_counter()
        epoch_seed = derived_seed(seed, epoch)
        with Draws(run.network, run.loss).seeded(epoch_seed):
            generator_of(torch.device(net.device)).manual_seed(epoch_seed)
            batches.start_epoch(epoch, embed)
            net.train_epoch(epoch, batches)
        run.record(net, epoch, time.perf_counter() - started)
        run.stopped |= bool(on_epoch(run.history[-1]))
        if checkpoint:
            run.keep(checkpoint, net, seed)
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
        self.best_hidden = None
        self.best_loss = float("inf")
        self.not_kept = {}  # by part, what was there before the first epoch; None ends the keeping
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
            if not net.head_only or not net.settings.max_epochs:
                self._watch(record["valid_loss"])
        self.history.append(record)

    def _watch(self, valid_loss):
        improved = valid_loss < self.best_loss - self.tol
        self.waited = 0 if improved else self.waited + 1
        if valid_loss < self.best_loss:
            self.best_loss = valid_loss
            self.best = copied_state(self.network), copied_state(self.loss)
            self.best_hidden = self._hidden()
        self.stopped = self.waited >= self.n_iter_no_change

    def restore_best(self):
        if self.best is not None:
            for part, state in zip((self.network, self.loss), self.best):
                load_values(part, state)
            self._set_hidden(self.best_hidden)

    def keep(self, checkpoint, net, seed):
        """Save the state, unless something has changed in it that a file cannot hold."""
        if self.not_kept is None:
            return
        changed = [
            name
            for part, before in self.not_kept.items()
            for (_, name), value in self._unkept(part, net.optimizer_).items()
            if before.get((_, name)) != value
        ]
        try:
            state = None if changed else self.state()
        except NotKept:
            state, changed = None, ["the extra state (get_extra_state) of a module"]
        if state is not None:
            optimizer = net.optimizer_
            hidden = {"hidden_optimizer": hidden_state(optimizer)}
            checkpoint.save(seed=seed, optimizer=optimizer.state_dict(), **hidden, **state)
            return
        self.not_kept = None
        warn_user(
            f"checkpoint_dir: {changed[0]} changes in the training, and is no plain value, tensor, "
            "array or container of them, which a checkpoint could hold. So this fit keeps none "
            f"from epoch {len(self.history)} on: it goes on, but could not be continued."
        )

    def watch_what_is_not_kept(self, optimizer=None):
        """Note what a checkpoint cannot hold, as it is before the training of it."""
        if self.not_kept is not None:
            names = self._parts() if optimizer is None else ["optimizer"]
            self.not_kept |= {name: self._unkept(name, optimizer) for name in names}

    def _unkept(self, name, optimizer):
        if name != "optimizer":
            return unkept(self._parts()[name])
        return unkept(optimizer, [*self.network.parameters(), *self.loss.parameters()])

    def _hidden(self):
        return {name: hidden_state(part) for name, part in self._parts().items()}

    def _set_hidden(self, hidden):
        for name, values in hidden.items():
            set_hidden_state(self._parts()[name], values)

    def state(self):
        """Return what a checkpoint holds, or raise NotKept."""
        return {
            "network": kept_state(self.network.state_dict()),
            "loss": kept_state(self.loss.state_dict()),
            "hidden": self._hidden(),
            "history": self.history,
            "best": self.best and tuple(map(kept_state, self.best)),
            "best_hidden": self.best_hidden,
            "best_loss": self.best_loss,
            "waited": self.waited,
            "stopped": self.stopped,
        }

    def _parts(self):
        """Return the modules that may be the user's, with a state of their own."""
        trunk = self.network.trunk
        found = {"features": getattr(trunk, "features", None), "loss": self.loss}
        found["pooling"] = getattr(trunk, "pooling", None)
        return {name: part for name, part in found.items() if part is not None}

    def restore(self, state):
        load_values(self.network, restored_state(state["network"]))
        load_values(self.loss, restored_state(state["loss"]))
        self._set_hidden(state["hidden"])
        for name in ("history", "best_hidden", "best_loss", "waited", "stopped"):
            setattr(self, name, state[name])
        self.best = state["best"] and tuple(map(restored_state, state["best"]))


def _epoch_mean(batches, prefix):
    """Mean loss of an epoch; a batch counts with its size, or the sum of its weights."""
    rows = [row for row in batches if f"{prefix}_loss" in row]
    losses = [row[f"{prefix}_loss"] for row in rows]
    sizes = [row.get(f"{prefix}_weight", row[f"{prefix}_batch_size"]) for row in rows]
    return float(np.average(losses, weights=sizes))


def infer(network, source, batch_size, device, ticks=None):
    """Return `network.embed` of every row of `source`, float32 (n, d), in order."""
    use_one_thread_if_forked()
    starts = range(0, len(source), batch_size)
    outputs = []
    with network.placement.keep(network, device), torch.inference_mode():
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
