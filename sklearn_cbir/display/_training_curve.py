"""TrainingCurveDisplay: losses, and scores if there are any, epoch by epoch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from sklearn_cbir._typing import Estimator, Floats
from sklearn_cbir._unwrapped import unwrapped
from sklearn_cbir._validation import printable, shortened
from sklearn_cbir.display._sheet import GRAY, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D

History: TypeAlias = Sequence[Mapping[str, Any]]

SCORES = (
    "scores of TrainingCurveDisplay"  # the id of their axes, shared by all curves of one picture
)
HEAD = "head alone"
STYLES = [":", "-.", (0, (1, 1)), (0, (5, 1, 1, 1))]  # of scores


class TrainingCurveDisplay:
    """Curve of the losses of training and validation over the epochs.

    Scores of each epoch, such as those of scikit-learn's `ScoringMonitor`,
    have their own axis on the right. Epochs that trained only the head are
    shaded. An epoch without a validation loss leaves a gap.

    Use `from_estimator` to make one.

    Parameters
    ----------
    history : sequence of dict
        One dict per epoch, as in the ``history_`` of an estimator: "loss", and
        "valid_loss" and "phase" if they are known.

    scores : dict of str to ndarray of shape (n_epochs,), default=None
        Scores of every epoch by their name; NaN where there is none.

    name : str, default=None
        Text in the legend before "training" and "validation".

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        The curves of the last `plot`: the training loss, the validation loss if
        there is one, and the scores.

    ax_ : matplotlib Axes
        Axes of the losses.

    score_ax_ : matplotlib Axes or None
        Axes of the scores; None without scores.

    figure_ : matplotlib Figure
        The figure of both.

    See Also
    --------
    PrecisionRecallDisplay : How well a fitted estimator searches.

    Examples
    --------
    >>> from sklearn_cbir import CNNFeatureExtractor
    >>> from sklearn_cbir.datasets import make_shapes
    >>> from sklearn_cbir.display import TrainingCurveDisplay
    >>> images, y = make_shapes(40, random_state=0)
    >>> extractor = CNNFeatureExtractor("small", weights=None, max_epochs=3, random_state=0)
    >>> display = TrainingCurveDisplay.from_estimator(extractor.fit(images, y))
    >>> display.lines_[0].get_xdata()
    array([1, 2, 3])
    """

    lines_: list[Line2D]
    ax_: Axes
    score_ax_: Axes | None
    figure_: Figure | SubFigure

    def __init__(
        self,
        history: History,
        *,
        scores: Mapping[str, Floats] | None = None,
        name: str | None = None,
    ) -> None:
        self.history: History = history
        self.scores: Mapping[str, Floats] | None = scores
        self.name: str | None = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Estimator,
        *,
        scores: Mapping[str, ArrayLike] | None = None,
        name: str | None = None,
        ax: Axes | None = None,
        **line_options: Any,
    ) -> Self:
        """Draw the curve of a training.

        Parameters
        ----------
        estimator : CNNFeatureExtractor, DeepHasher, CPFEmbedder, Pipeline or search over them
            Fitted; a fitted Pipeline with one of them among its steps; or a grid
            search that was refitted.

        scores : dict of str to array-like of shape (n_epochs,), default=None
            Scores of every epoch by their name, such as a column of the log of
            scikit-learn's `ScoringMonitor`; NaN where there is none.

        name : str, default=None
            Text in the legend before "training" and "validation", to tell curves on
            the same axes apart.

        ax : matplotlib Axes, default=None
            As for `plot`.

        **line_options : dict
            As for `plot`.

        Returns
        -------
        TrainingCurveDisplay
            The curve, drawn.

        Raises
        ------
        ValueError
            If nothing was trained, or there is not one score per epoch.
        """
        history = _history_of(estimator)
        display = cls(history, scores=_check_scores(scores, len(history)), name=name)
        return display.plot(ax, **line_options)

    def plot(self, ax: Axes | None = None, *, name: str | None = None, **line_options: Any) -> Self:
        """Draw the curve, without changing the data.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.

        name : str, default=None
            Text in the legend before "training" and "validation"; None takes the name
            of the display.

        **line_options : dict
            Passed to matplotlib's `Axes.plot` for every curve, such as ``linewidth``.

        Returns
        -------
        TrainingCurveDisplay
            The display itself.

        Raises
        ------
        ImportError
            Without matplotlib, which the extra ``[plot]`` installs.
        """
        if ax is None:
            ax = new_axes(6.0)
        from matplotlib.ticker import MaxNLocator

        name = self.name if name is None else name
        before = "" if name is None else f"{printable(name)}, "
        epochs = np.arange(1, len(self.history) + 1)
        curves: list[Any] = [(ax, f"{before}training", "-", _values(self.history, "loss"))]
        validation = _values(self.history, "valid_loss")
        if np.isfinite(validation).any():
            curves.append((ax, f"{before}validation", "--", validation))
        right = _score_axes(ax, self.scores)
        for style, (score, values) in zip(itertools.cycle(STYLES), (self.scores or {}).items()):
            curves.append((right, f"{before}{printable(score)} (right)", style, values))
        self.lines_ = [
            _draw(
                epochs,
                curve,
                len(ax.lines) + (0 if right is None else len(right.lines)),
                line_options,
            )
            for curve in curves
        ]
        _shade_head(ax, self.history)
        ax.set(xlabel="Epoch", ylabel="Loss")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.25, linewidth=0.6)
        _draw_legend(ax, right)
        self.ax_ = ax
        self.score_ax_ = right if self.scores else None
        self.figure_ = ax.figure
        return self


def _history_of(estimator: object) -> History:
    """Return the history of the estimator, or of the last step that has one."""
    found = unwrapped(estimator)
    check_is_fitted(found)
    steps = [step for _, step in found.steps] if isinstance(found, Pipeline) else [found]
    histories = [step.history_ for step in steps if hasattr(step, "history_")]
    if not histories:
        raise ValueError(
            f"{type(found).__name__} trains no network. Pass a fitted CNNFeatureExtractor, "
            "DeepHasher or CPFEmbedder, or a fitted Pipeline with one of them."
        )
    if not histories[-1]:
        raise ValueError(
            "There is nothing to draw: the network was not trained, history_ is empty."
        )
    return histories[-1]


def _check_scores(
    scores: Mapping[str, ArrayLike] | None, n_epochs: int
) -> dict[str, Floats] | None:
    """Return one float per epoch for every score."""
    if scores is None:
        return None
    if not isinstance(scores, Mapping):
        raise ValueError(
            f"scores={shortened(scores)} must be a dict of one sequence per score, such as "
            "{'map': [0.3, 0.5]}."
        )
    found = {str(name): np.asarray(values) for name, values in scores.items()}
    for name, values in found.items():
        if values.shape != (n_epochs,) or values.dtype.kind not in "iuf":
            raise ValueError(
                f"scores[{name!r}] has shape {values.shape} and dtype {values.dtype}, but there "
                f"were {n_epochs} epochs. Pass one number per epoch, NaN where there is none."
            )
    return {name: values.astype(np.float64) for name, values in found.items()}


def _values(history: History, key: str) -> Floats:
    """Return a value of every epoch, NaN where it has none."""
    return np.array([epoch.get(key, np.nan) for epoch in history], dtype=np.float64)


def _score_axes(ax: Axes, scores: Mapping[str, Floats] | None) -> Axes | None:
    """Return the axes on the right of `ax`, which are made for the first curve with scores."""
    for other in ax.figure.axes:
        if other.get_gid() == SCORES and ax.get_shared_x_axes().joined(ax, other):
            return other
    if not scores:
        return None
    right = ax.twinx()
    right.set(gid=SCORES, ylabel="Score")
    return right


def _draw(
    epochs: NDArray[np.int64],
    curve: tuple[Any, str, Any, Floats],
    number: int,
    options: dict[str, Any],
) -> Line2D:
    """Draw one curve in the next color, with its own style."""
    ax, label, style, values = curve
    looks: dict[str, Any] = {"color": f"C{number}", "linestyle": style, "marker": "."}
    (line,) = ax.plot(epochs, values, **looks | {"label": label} | options)
    return line


def _shade_head(ax: Axes, history: History) -> None:
    """Shade the epochs in which the head was trained alone."""
    label = HEAD
    for phase, epochs in itertools.groupby(enumerate(history), lambda one: one[1].get("phase")):
        numbers = [number for number, _ in epochs]
        if phase == "head":
            span = numbers[0] + 0.5, numbers[-1] + 1.5
            ax.axvspan(*span, color=GRAY, alpha=0.12, linewidth=0, label=label)
            label = f"_{label}"  # once in the legend


def _draw_legend(ax: Axes, right: Axes | None) -> None:
    """Draw one legend for both axes, in front of all curves."""
    front = ax if right is None else right
    if right is not None and (legend := ax.get_legend()) is not None:
        legend.remove()
    both = [one.get_legend_handles_labels() for one in (ax, right) if one is not None]
    entries = [entry for handles, texts in both for entry in zip(handles, texts)]
    heads = [entry for entry in entries if entry[1] == HEAD]  # one of every training
    entries = [entry for entry in entries if entry[1] != HEAD] + heads[:1]
    place = "best" if right is None else "center right"  # losses are low there, scores high
    front.legend(*zip(*entries), loc=place, framealpha=0.85, edgecolor="none")
