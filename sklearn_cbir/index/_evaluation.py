"""Results of `evaluate`: dictionaries that show themselves in a notebook."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._bunch import Bunch
from sklearn_cbir._typing import Floats, Labels, Metric, Positions
from sklearn_cbir._validation import shortened
from sklearn_cbir.metrics import mean_over_queries, mean_per_class, worst_queries

MOST_QUERIES = 8  # that are shown, of the worst
FEW_CLASSES = 3  # in one line


class Shown(NamedTuple):
    """Data to show an evaluation besides its values; the lists are of its worst queries."""

    metric: str
    ids: list[str] | None  # None where queries have none
    labels: list[str]


class Evaluation(Bunch):
    """Result of `NeighborsRetriever.evaluate` for a metric."""

    score: float  # the mean
    per_query: Floats
    classes: Labels
    per_class: Floats
    worst: Positions

    def __repr__(self) -> str:
        if not self.keys() >= KEYS:
            return super().__repr__()
        few = lowest_classes(self, FEW_CLASSES)
        rest = f" of {len(self.classes):,}" * (len(self.classes) > len(few))
        lowest = ", ".join(f"{shortened(label)} {mean}" for label, mean in few)
        told = told_of(self, self.__dict__.get("_shown"))
        return f"<{told}; lowest classes{rest}: {lowest}; keys: {', '.join(self)}>"

    def _repr_html_(self) -> str | None:
        from sklearn_cbir.index._report import page_of_evaluation  # reading photos loads Pillow

        return page_of_evaluation(self, self.__dict__.get("_shown"))

    def __setstate__(self, state: Any) -> None:
        # A Bunch forgets what is not among its keys, and earlier versions wrote no more.
        shown = state.get("_shown") if isinstance(state, dict) else None
        if isinstance(shown, Shown):
            self.__dict__["_shown"] = shown


KEYS = frozenset(Evaluation.__annotations__)

if TYPE_CHECKING:
    Results = dict[Any, Evaluation]
else:
    Results = dict


class Evaluations(Results):
    """Evaluations by metric: a dictionary."""

    def _repr_html_(self) -> str | None:
        from sklearn_cbir.index._report import page_of_evaluations

        return page_of_evaluations({metric_name(metric): self[metric] for metric in self})


def summarize_scores(
    y: np.ndarray,
    values: Floats,
    sample_weight: ArrayLike | None,
    metric: str | Metric,
    ids_of: Callable[[Positions], Any] | None,
) -> Evaluation:
    """Return the mean of one value per query, the means of the classes, and the worst queries.

    ``ids_of(positions)`` are the ids of some queries; None if they have none.
    """
    classes, per_class = mean_per_class(y, values)
    worst = worst_queries(values, n=len(values))
    found = Evaluation(
        score=mean_over_queries(values, sample_weight),
        per_query=values,
        classes=classes,
        per_class=per_class,
        worst=worst,
    )
    first = worst[:MOST_QUERIES]
    ids = None if ids_of is None else [_text(value) for value in ids_of(first)]
    labels = [_label(label) for label in y[first]]
    found.__dict__["_shown"] = Shown(metric_name(metric), ids, labels)
    return found


def told_of(result: Mapping[str, Any], shown: Shown | None) -> str:
    """Return the mean of a metric, and over how many queries, as text."""
    n, n_scored = len(result["per_query"]), len(result["worst"])
    name = "score" if shown is None else shown.metric
    text = f"{name} {result['score']:.4f}, the mean over {counted(n_scored, 'query')}"
    if n_scored < n:
        text += f"; left out: {counted(n - n_scored, 'query')} with nothing relevant"
    return text


def lowest_classes(result: Mapping[str, Any], n: int) -> list[tuple[Any, str]]:
    """Return the classes with the lowest means, and these as text."""
    order = np.argsort(result["per_class"], kind="stable")[:n]  # NaN last
    means = [f"{mean:.4f}" for mean in result["per_class"][order]]
    labels = result["classes"][order].tolist()
    return [(label, mean.replace("nan", "-")) for label, mean in zip(labels, means)]


def counted(n: int, what: str) -> str:
    """Return a number and the word for what is counted."""
    several = {"class": "classes", "query": "queries"}
    *before, word = what.split()
    return " ".join([f"{n:,}", *before, word if n == 1 else several.get(word, f"{word}s")])


def ids_by_query(
    ids: Any, gallery_ids: Any, places: Positions | None
) -> Callable[[Positions], Any] | None:
    """Return what gives the ids of some queries: those of the gallery, or those that were given."""
    if gallery_ids is not None and places is not None:
        return lambda queries: gallery_ids.values[np.take(places, queries)]
    return None if ids is None else np.asarray(ids, dtype=object).__getitem__


def metric_name(metric: object) -> str:
    """Return a metric as text."""
    if isinstance(metric, str):
        return metric
    return str(getattr(metric, "__name__", type(metric).__name__))


def _text(value: Any) -> str:
    return os.fsdecode(value) if isinstance(value, (bytes, os.PathLike)) else str(value)


def _label(label: Any) -> str:
    """Return a label as text, or those of a row of 0/1 columns."""
    return ", ".join(map(str, np.flatnonzero(label))) if np.ndim(label) else str(label)
