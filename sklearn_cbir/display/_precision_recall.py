"""PrecisionRecallDisplay: mean precision over mean recall, rank by rank."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from numpy.typing import ArrayLike
from sklearn.exceptions import UndefinedMetricWarning

from sklearn_cbir._typing import Distances, Estimator, Floats, ImagesLike, LabelsLike, WhereLike
from sklearn_cbir._validation import check_boolean, printable
from sklearn_cbir.display._sheet import GRAY, new_axes, pyplot
from sklearn_cbir.display._steps import split_steps
from sklearn_cbir.metrics import (
    mean_average_precision,
    mean_over_queries,
    precision_recall_curve,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.lines import Line2D


class PrecisionRecallDisplay:
    """Curve of precision over recall, both averaged over queries at every rank.

    The first point is the first result, the last the whole gallery. Results
    at equal distance have no order: precision and recall are their means over
    all orders, as in `sklearn_cbir.metrics.precision_recall_curve`.

    Use `from_estimator` or `from_predictions` to make one.

    Parameters
    ----------
    precision : ndarray of shape (n_ranks,)
        Mean precision of the first 1, 2, ... results.

    recall : ndarray of shape (n_ranks,)
        Mean recall of the same results.

    mean_average_precision : float, default=None
        Score in the legend; None leaves it out.

    name : str, default=None
        Name of the curve in the legend.

    Attributes
    ----------
    line_ : matplotlib Line2D
        The curve of the last `plot`.

    chance_level_ : matplotlib Line2D or None
        The precision of a random order; None without ``plot_chance_level=True``.

    ax_ : matplotlib Axes
        Axes of the last `plot`.

    figure_ : matplotlib Figure
        Its figure.

    See Also
    --------
    RetrievalDisplay : Some queries with their results.
    TrainingCurveDisplay : Losses of the training, epoch by epoch.

    Examples
    --------
    >>> from sklearn_cbir.display import PrecisionRecallDisplay
    >>> display = PrecisionRecallDisplay.from_predictions(
    ...     ["cat", "dog"], ["cat", "dog", "cat"], [[0.1, 0.2, 0.3], [0.4, 0.1, 0.2]]
    ... )
    >>> display.recall
    array([0.75, 0.75, 1.  ])
    """

    line_: Line2D
    chance_level_: Line2D | None
    ax_: Axes
    figure_: Figure | SubFigure

    def __init__(
        self,
        precision: Floats,
        recall: Floats,
        *,
        mean_average_precision: float | None = None,
        name: str | None = None,
    ) -> None:
        self.precision: Floats = precision
        self.recall: Floats = recall
        self.mean_average_precision: float | None = mean_average_precision
        self.name: str | None = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Estimator,
        X: ImagesLike | None,
        y: LabelsLike | None = None,
        *,
        ids: ArrayLike | None = None,
        where: WhereLike | None = None,
        name: str | None = None,
        plot_chance_level: bool = False,
        ax: Axes | None = None,
        **line_options: Any,
    ) -> Self:
        """Rank the whole gallery for every query, exactly, and draw the curve.

        Parameters
        ----------
        estimator : NeighborsRetriever, Pipeline or search over them
            A fitted retriever, a fitted Pipeline that ends in one, or a grid
            search that was refitted; fitted with labels.

        X : images, array-like of shape (n_samples, n_features), or None
            Queries, as the estimator takes them. None: every row of the gallery is
            a query and searches the rest of the gallery.

        y : array-like of shape (n_samples,) or (n_samples, n_labels), default=None
            Labels of the queries; needed unless `X` is None.

        ids : array-like of shape (n_samples,), default=None
            Ids of the queries. A query whose id you also passed to `fit` is left
            out of its own results.

        where : array-like of bool of shape (n_samples_fit_,), or ids, default=None
            Rows of the gallery that may be found, as in the `score` of a
            `NeighborsRetriever`.

        name : str, default=None
            Name of the curve; None takes the class name of the first step.

        plot_chance_level : bool, default=False
            As for `plot`.

        ax : matplotlib Axes, default=None
            As for `plot`.

        **line_options : dict
            As for `plot`.

        Returns
        -------
        PrecisionRecallDisplay
            The curve, drawn.

        Raises
        ------
        ValueError
            If the labels of the queries or of the gallery are missing.
        """
        pyplot()
        steps, retriever = split_steps(estimator)
        vectors: Any = X if X is None or steps is None else steps.transform(X)
        curve = _Curve()
        vectors = cast(Any, vectors)
        average = retriever.evaluate(vectors, y, scoring=curve, ids=ids, where=where).score
        if name is None:
            name = type(retriever if steps is None else steps[0]).__name__
        display = cls(curve.precision, curve.recall, mean_average_precision=average, name=name)
        return display.plot(ax, plot_chance_level=plot_chance_level, **line_options)

    @classmethod
    def from_predictions(
        cls,
        y_queries: LabelsLike,
        y_gallery: LabelsLike,
        distances: Distances,
        *,
        exclude: ArrayLike | None = None,
        name: str | None = None,
        plot_chance_level: bool = False,
        ax: Axes | None = None,
        **line_options: Any,
    ) -> Self:
        """Draw the curve of distances that were computed before.

        Parameters
        ----------
        y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
            One label per query, or 0/1 columns.

        y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
            Labels of the gallery; items are relevant to a query if they share
            a label.

        distances : array-like of shape (n_queries, n_gallery)
            Smaller is nearer; also any object that returns rows of it for a
            slice.

        exclude : array-like, default=None
            Gallery rows that are not ranked, as in
            `sklearn_cbir.metrics.mean_average_precision`.

        name : str, default=None
            Name of the curve in the legend.

        plot_chance_level : bool, default=False
            As for `plot`.

        ax : matplotlib Axes, default=None
            As for `plot`.

        **line_options : dict
            As for `plot`.

        Returns
        -------
        PrecisionRecallDisplay
            The curve, drawn.
        """
        pyplot()
        curve = _Curve()
        average = mean_over_queries(curve(y_queries, y_gallery, distances, exclude=exclude))
        display = cls(curve.precision, curve.recall, mean_average_precision=average, name=name)
        return display.plot(ax, plot_chance_level=plot_chance_level, **line_options)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        name: str | None = None,
        plot_chance_level: bool = False,
        **line_options: Any,
    ) -> Self:
        """Draw the curve, without changing the data.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None makes a figure.

        name : str, default=None
            Name in the legend; None takes the name of the display.

        plot_chance_level : bool, default=False
            Whether to draw the mean precision of a random order, which is the
            precision of the whole gallery.

        **line_options : dict
            Passed to matplotlib's `Axes.plot`, such as ``color``.

        Returns
        -------
        PrecisionRecallDisplay
            The display itself.

        Raises
        ------
        ImportError
            Without matplotlib, which the extra ``[plot]`` installs.
        """
        check_boolean(plot_chance_level, "plot_chance_level")
        if ax is None:
            ax = new_axes(4.6)
        label = self._label(self.name if name is None else name)
        options: dict[str, Any] = {"label": label} | line_options
        (self.line_,) = ax.plot(self.recall, self.precision, **options)
        self.chance_level_ = None
        if plot_chance_level:
            chance = self.precision[-1]
            self.chance_level_ = ax.axhline(
                chance, color=GRAY, linestyle=":", linewidth=1, label=f"chance ({chance:.3f})"
            )
        ax.set(xlabel="Recall", ylabel="Precision", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
        if any(not text.startswith("_") for text in ax.get_legend_handles_labels()[1]):
            ax.legend(frameon=False)
        self.ax_ = ax
        self.figure_ = ax.figure
        return self

    def _label(self, name: str | None) -> str | None:
        """Return the text of the legend, or None without anything to say."""
        name = None if name is None else printable(name)
        if self.mean_average_precision is None:
            return name
        score = f"mAP = {self.mean_average_precision:.3f}"
        return score if name is None else f"{name} ({score})"


class _Curve:
    """A metric that stores the curve of the data that it scores."""

    precision: Floats
    recall: Floats

    def __call__(
        self,
        y_queries: LabelsLike,
        y_gallery: LabelsLike,
        distances: Distances,
        *,
        exclude: ArrayLike | None = None,
        per_query: Literal[True] = True,
    ) -> Floats:
        ranked = y_queries, y_gallery, distances
        with warnings.catch_warnings():  # the mean of the values will warn of the same queries
            warnings.simplefilter("ignore", UndefinedMetricWarning)
            self.precision, self.recall = precision_recall_curve(*ranked, exclude=exclude)
        return mean_average_precision(*ranked, exclude=exclude, per_query=per_query)
