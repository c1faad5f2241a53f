"""Network + loss + plan -> trained network. The only module that knows skorch.

skorch's callbacks repeat four things that are done here, and could not do them: its LRScheduler
steps before an epoch or after a batch, where a rate must hold in the middle of a step; its
EarlyStopping and Checkpoint pickle, and keep neither what hides in modules nor the generators, so
that a run that was cut off would not go on to equal bits; its EpochScoring predicts anew what the
loop has computed; and its ``fit`` swallows Ctrl-C. Its loop, history, devices and steps are used.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNet
from skorch.helper import predefined_split
from torch import nn

from sklearn_cbir._batches import (
    Batches,
    Embed,
    ImageSource,
    Source,
    make_batches,
    shared_workers,
)
from sklearn_cbir._devices import derived_seed, reseed
from sklearn_cbir._hidden_state import (
    NotKept,
    hidden_state,
    kept_state,
    restored_state,
    set_hidden_state,
    unkept,
)
from sklearn_cbir._module_state import copied_state, load_values
from sklearn_cbir._network import Network, infer
from sklearn_cbir._plan import OPTIMIZERS, SCHEDULES, Plan
from sklearn_cbir._randomness import Draws
from sklearn_cbir._validation import shortened, warn_user
from sklearn_cbir.backbones._probe import in_float32, name_of
from sklearn_cbir.losses._base import call_of, name_of_loss

if TYPE_CHECKING:
    from sklearn_cbir._checkpoint import Checkpoint
    from sklearn_cbir._typing import LossFunction

OWN_LOSSES = "sklearn_cbir.losses."

# Optimization --------------------------------------------------------------------------------


def make_optimizer(
    plan: Plan, network: Network, loss: nn.Module, *, head_only: bool
) -> torch.optim.Optimizer:
    """Return the optimizer of one phase; biases, norms and loss parameters do not decay."""
    named = list(network.named_parameters())
    head = [parameter for name, parameter in named if not name.startswith("trunk.")]
    trunk = [parameter for name, parameter in named if name.startswith("trunk.")]
    matrices, others = _by_decay(head)
    groups = [
        (matrices, plan.lr, plan.weight_decay),
        (others, plan.lr, 0.0),
        (list(loss.parameters()), plan.loss_lr, 0.0),
    ]
    if not head_only:
        matrices, others = _by_decay(trunk)
        groups += [(matrices, plan.trunk_lr, plan.weight_decay), (others, plan.trunk_lr, 0.0)]
    return _optimizer_of(
        plan.optimizer,
        [
            {"params": parameters, "lr": lr, "weight_decay": decay, "base_lr": lr}
            for parameters, lr, decay in groups
            if parameters
        ],
        lr=plan.lr,
        weight_decay=plan.weight_decay,
    )


def _by_decay(parameters: list[nn.Parameter]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return weight matrices, which decay, and the rest."""
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    return matrices, [parameter for parameter in parameters if parameter.ndim <= 1]


def _optimizer_of(
    optimizer: Any, groups: list[dict[str, Any]], **options: float
) -> torch.optim.Optimizer:
    """Return an optimizer of a name or a class, or say why there is none."""
    way_out = (
        f"Use one of {sorted(OPTIMIZERS)}, or a class called as "
        "optimizer(groups, lr=..., weight_decay=...)."
    )
    make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    try:
        made = make(groups, **options)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"optimizer={shortened(optimizer)} could not be made: {error}. {way_out}"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(
            f"optimizer={shortened(optimizer)} made {type(made).__name__}, which is not a torch "
            f"optimizer. {way_out}"
        )
    return made


class _Net(NeuralNet):
    """skorch's loop over ready-made batches, network, loss and optimizer."""

    def __init__(
        self, *args: Any, plan: Any = None, head_only: bool = False, n_steps: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.plan = plan
        self.head_only = head_only
        self.n_steps = n_steps
        self.step = 0
        self.has_learned = False
        self.trunk_has_learned = False
        self.outputs_have_gradients = False

    def train_epoch(self, epoch: int, batches: Batches, embed: Embed) -> None:
        """Train on the batches of one epoch, then score the held-out images, if there are any."""
        self.epoch, self.embed = epoch, embed
        self.factors = iter(self._rate_factors(len(batches.indices)))
        _start_epoch(self.criterion_, epoch, self.plan.n_epochs)
        # Not partial_fit: that one swallows Ctrl-C.
        self.fit_loop(batches, epochs=1)
        self.check_progress()

    def _rate_factors(self, n_steps: int) -> list[float]:
        """Return what the schedule multiplies the rates of the next steps with."""
        schedule = SCHEDULES[self.plan.schedule]
        # The middle of a step: at its ends a schedule may be 0, and one step must train too.
        return [schedule((self.step + i + 0.5) / self.n_steps) for i in range(n_steps)]

    def run_single_epoch(
        self, iterator: Batches | None, training: bool, *args: Any, **kwargs: Any
    ) -> None:
        if iterator is None:
            return
        if training:  # modes are set once, not before every step
            self._set_training(True)
            iterator.start_epoch(self.epoch, self.embed)
            super().run_single_epoch(iterator, training, *args, **kwargs)
            return
        # Under one setting for all epochs: losses of different ones cannot be compared.
        _start_epoch(self.criterion_, self.plan.n_epochs - 1, self.plan.n_epochs)
        super().run_single_epoch(iterator, training, *args, **kwargs)
        _start_epoch(self.criterion_, self.epoch, self.plan.n_epochs)

    def get_iterator(self, dataset, training=False):
        return dataset

    def initialize_optimizer(self, triggered_directly=None):
        self.optimizer_ = make_optimizer(
            self.plan, self.module_, self.criterion_, head_only=self.head_only
        )
        return self

    def infer(self, x, **fit_params):
        if not self.plan.autocast:
            return super().infer(x, **fit_params)
        device = torch.device(self.device).type
        with torch.autocast(device, dtype=torch.bfloat16):
            return super().infer(x, **fit_params).float()

    def train_step_single(self, batch, **fit_params):
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
        factor = next(self.factors)
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
                "torch.no_grad(), detach() or whole numbers in its forward, and nothing else "
                "can be trained. Remove that, add a layer with n_components, or use it "
                "untrained, with loss=None."
            )
        if not self.has_learned:
            loss = self.history[-1]["batches"][-1]["train_loss"]
            raise ValueError(
                f"loss={_name_of(self.criterion_)} returned a constant, such as {loss:.4g}, for "
                "every batch of an epoch. It must return one number that depends on the "
                "outputs: use no .item(), .detach() or torch.tensor(...) in it, and batches "
                "with images to compare."
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
            f"No weight of backbone={self._backbone()} is trained: none has a gradient, as "
            "after torch.no_grad(), detach() or whole numbers in its forward. Remove that, or "
            "freeze it on purpose with backbone.requires_grad_(False)."
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


def as_module(loss: LossFunction) -> nn.Module:
    """Return a loss as a module in float32; a plain function has no parameters."""
    if not isinstance(loss, nn.Module):
        return _CallableLoss(loss)
    tensors = [*loss.parameters(), *loss.buffers()]
    return in_float32(loss) if any(one.dtype != torch.float32 for one in tensors) else loss


def _start_epoch(loss, epoch, n_epochs):
    """Tell a loss that changes as it trains, module or not, which epoch begins."""
    loss = loss.function if isinstance(loss, _CallableLoss) else loss
    if hasattr(loss, "start_epoch"):
        call_of(loss, "start_epoch(epoch, n_epochs)", loss.start_epoch, epoch, n_epochs)


# Training ------------------------------------------------------------------------------------


def train(
    network: Network,
    loss: LossFunction,
    source: Source,
    y: NDArray[Any],
    plan: Plan,
    on_epoch: OnEpoch,
) -> list[dict[str, Any]]:
    """Train in place: the head alone, then everything; return one dict per epoch.

    `on_epoch` is told of every epoch of this call, and says whether to stop.
    """
    module = as_module(loss)
    # Torch's types do not know the two arguments together.
    network.to(plan.device, memory_format=network.memory_format)  # pyright: ignore[reportCallIssue]
    module.to(plan.device)
    run = _Run(network, module, plan, source)
    batches = make_batches(plan, source, y, plan.train_rows, training=True)
    valid = None
    if len(plan.held_out_rows):
        valid = make_batches(plan, source, y, plan.held_out_rows, training=False)
    with shared_workers(batches, valid) if plan.num_workers else contextlib.nullcontext(), on_epoch:
        for phase in _phases(plan, len(run.history)):
            if run.stopped:
                break
            _train_phase(run, phase, batches, valid, on_epoch)
    network.trunk_is_frozen = False
    run.restore_best()
    network.cpu()
    return run.history


@dataclass(frozen=True)
class _Phase:
    """Epochs under one optimizer and one schedule."""

    head_only: bool
    n_epochs: int
    first: int  # of its epochs, counted over all phases
    done: int  # epochs, over all phases, when it begins here: more than `first` if it goes on

    @property
    def epochs(self) -> range:
        """Epochs that are left of it."""
        return range(self.done, self.first + self.n_epochs)


def _phases(plan: Plan, done: int) -> list[_Phase]:
    """Return the phases that have epochs left after `done`: the head alone, then everything."""
    phases = [
        _Phase(True, plan.head_epochs, 0, done),
        _Phase(False, plan.max_epochs, plan.head_epochs, max(done, plan.head_epochs)),
    ]
    return [phase for phase in phases if phase.epochs]


def _train_phase(
    run: _Run, phase: _Phase, batches: Batches, valid: Batches | None, on_epoch: OnEpoch
) -> None:
    """Run the epochs of one phase until one of them stops the run."""
    plan, network = run.plan, run.network
    network.trunk_is_frozen = phase.head_only
    net = _make_net(run, phase, len(batches.indices), valid)
    if phase.done > phase.first:
        run.restore_optimizer(net, len(batches.indices) * (phase.done - phase.first))
    if plan.checkpoint:
        run.watch_what_is_not_kept(net.optimizer_)

    def embed(indices: NDArray[Any]) -> NDArray[Any]:
        rows = infer(network, source.subset(indices), plan.batch_size, plan.device)
        network.train()
        return rows

    source = batches.reader.source
    for epoch in phase.epochs:
        started = time.perf_counter()
        with run.seeded(epoch):
            net.train_epoch(epoch, batches, embed)
        run.record(net, epoch, time.perf_counter() - started)
        run.stopped |= on_epoch(run.history[-1])
        if plan.checkpoint:
            run.keep(plan.checkpoint, net)
        if run.stopped:
            return


def _make_net(run: _Run, phase: _Phase, n_batches: int, valid: Batches | None) -> _Net:
    """Return skorch's net for one phase, initialized."""
    return _Net(
        run.network,
        criterion=run.loss,
        train_split=None if valid is None else predefined_split(valid),
        callbacks="disable",
        verbose=0,
        device=str(run.plan.device),
        plan=run.plan,
        head_only=phase.head_only,
        n_steps=phase.n_epochs * n_batches,
    ).initialize()


class OnEpoch:
    """What is done after every epoch: a bar is moved on, and scikit-learn's callbacks are told.

    Called with the record of an epoch, it says whether to stop. `given` is what `fit` was given;
    ``snapshot()`` gives fitted attributes of the estimator as it is.
    """

    def __init__(
        self,
        estimator: Any,
        plan: Plan,
        given: dict[str, Any],
        snapshot: Callable[[], dict[str, Any]],
    ) -> None:
        self.name = type(estimator).__name__
        self.n_epochs = plan.n_epochs
        self.given = {"estimator": estimator} | given
        self.snapshot = snapshot
        self.shows = estimator.verbose > 0
        self.task = estimator._init_callback_context(max_subtasks=plan.n_epochs)
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.task.call_on_fit_task_begin(**self.given)
        if self.shows:
            from rich.console import Console
            from rich.progress import Progress

            self.bar = self.stack.enter_context(Progress(console=Console(stderr=True)))
            self.row = self.bar.add_task(f"{self.name}: fit", total=self.n_epochs)
        return self

    def __call__(self, record: dict[str, Any]) -> bool:
        if self.shows:
            losses = [f"{key} {record[key]:.4f}" for key in ("loss", "valid_loss") if key in record]
            text = f"{self.name}: fit, {', '.join(losses)}"
            self.bar.update(self.row, completed=record["epoch"], description=text)
        task = self.task.subcontext(task_name="epoch")
        task.call_on_fit_task_begin(**self.given)
        stops = task.call_on_fit_task_end(**self.given, reconstruction_attributes=self.snapshot)
        return bool(stops)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stack.__exit__(kind, error, traceback)
        if error is None:
            self.task.call_on_fit_task_end(**self.given)


class _Run:
    """History, best weights and the reason to stop: what a checkpoint has to hold."""

    def __init__(self, network: Network, loss: nn.Module, plan: Plan, source: Source) -> None:
        self.network = network
        self.loss = loss
        self.plan = plan
        is_ours = _is_all_ours(network, loss, plan.optimizer, source)
        self.draws = None if is_ours else Draws(network, loss)
        self.history: list[dict[str, Any]] = []
        self.best = None
        self.best_hidden = None
        self.best_loss = float("inf")
        self.not_kept = {}  # by part, what was there before the first epoch; None ends the keeping
        self.waited = 0
        self.stopped = False
        if plan.checkpoint:
            self.watch_what_is_not_kept()
        if plan.state is not None:
            self.restore(plan.state)

    @contextlib.contextmanager
    def seeded(self, epoch: int) -> Iterator[None]:
        """Seed an epoch: torch's generators, and all that code of others can draw from."""
        seed = derived_seed(self.plan.seeds.fit, epoch)
        with contextlib.nullcontext() if self.draws is None else self.draws.seeded(seed):
            reseed(seed, self.plan.device)
            yield

    def record(self, net: _Net, epoch: int, seconds: float) -> None:
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
            if not net.head_only or not self.plan.max_epochs:
                self._watch(record["valid_loss"])
        self.history.append(record)

    def _watch(self, valid_loss):
        improved = valid_loss < self.best_loss - self.plan.tol
        self.waited = 0 if improved else self.waited + 1
        if valid_loss < self.best_loss:
            self.best_loss = valid_loss
            self.best = copied_state(self.network), copied_state(self.loss)
            self.best_hidden = self._hidden()
        self.stopped = self.waited >= self.plan.n_iter_no_change

    def restore_best(self):
        if self.best is not None:
            for part, state in zip((self.network, self.loss), self.best):
                load_values(part, state)
            self._set_hidden(self.best_hidden)

    def keep(self, checkpoint: Checkpoint, net: _Net) -> None:
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
            state |= {"seed": self.plan.seeds.fit, "optimizer": optimizer.state_dict()}
            checkpoint.save(**state, **hidden)
            return
        self.not_kept = None
        warn_user(
            f"checkpoint_dir: {changed[0]} changes in training, and a checkpoint holds only "
            "plain values, tensors, arrays and containers of them. So this fit keeps no "
            f"checkpoints from epoch {len(self.history)} on: it trains to the end, but cannot "
            "be continued if it stops."
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
        """Return the state of this training for a checkpoint, or raise NotKept."""
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

    def restore_optimizer(self, net: _Net, step: int) -> None:
        """Go on with the optimizer of the checkpoint, at a step of its phase."""
        state = cast(dict[str, Any], self.plan.state)
        net.optimizer_.load_state_dict(state["optimizer"])
        set_hidden_state(net.optimizer_, state["hidden_optimizer"])
        net.step = step


def _epoch_mean(batches, prefix):
    """Mean loss of an epoch; a batch counts with its size, or the sum of its weights."""
    rows = [row for row in batches if f"{prefix}_loss" in row]
    losses = [row[f"{prefix}_loss"] for row in rows]
    sizes = [row.get(f"{prefix}_weight", row[f"{prefix}_batch_size"]) for row in rows]
    return float(np.average(losses, weights=sizes))


def _is_all_ours(network: Network, loss: nn.Module, optimizer: object, source: Source) -> bool:
    """Whether no code of others runs in an epoch, which might draw from any generator."""
    spec = network.spec["trunk"]
    if any(isinstance(spec.get(name), nn.Module) for name in ("backbone", "pooling")):
        return False
    is_read = isinstance(source, ImageSource) and source.selected is None
    is_named = isinstance(optimizer, str) and type(loss).__module__.startswith(OWN_LOSSES)
    return is_named and not is_read
