"""Scoring of binary codes without a matrix of distances."""

from typing import Literal, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike

from sklearn_cbir._typing import (
    Denominator,
    Floats,
    LabelsLike,
    NoHits,
    Ranked,
    Ties,
)
from sklearn_cbir.codes import HammingDistances, pack_codes
from sklearn_cbir.metrics._precision import mean_average_precision

__all__ = ["hamming_mean_average_precision"]


@overload
def hamming_mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    query_codes: ArrayLike,
    gallery_codes: ArrayLike,
    *,
    k: int | None = ...,
    denominator: Denominator = ...,
    no_hits: NoHits = ...,
    per_query: Literal[False] = ...,
    **options: Unpack[Ranked],
) -> float: ...
@overload
def hamming_mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    query_codes: ArrayLike,
    gallery_codes: ArrayLike,
    *,
    k: int | None = ...,
    denominator: Denominator = ...,
    no_hits: NoHits = ...,
    per_query: Literal[True],
    **options: Unpack[Ranked],
) -> Floats: ...
def hamming_mean_average_precision(
    y_queries: LabelsLike,
    y_gallery: LabelsLike,
    query_codes: ArrayLike,
    gallery_codes: ArrayLike,
    *,
    k: int | None = None,
    denominator: Denominator = "relevant",
    no_hits: NoHits = "zero",
    ties: Ties = "average",
    exclude: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    per_query: bool = False,
) -> float | Floats:
    """Mean average precision of binary codes by Hamming distance.

    Equal to `mean_average_precision` of the distances, but computed from the number
    of codes at each distance: without sorting, and without a matrix. For other
    metrics pass `codes.HammingDistances` instead of the distances.

    Parameters
    ----------
    y_queries : array-like of shape (n_queries,) or (n_queries, n_labels)
        One label per query, or 0/1 columns.

    y_gallery : array-like of shape (n_gallery,) or (n_gallery, n_labels)
        Labels of the gallery; items are relevant to a query if they share a label.

    query_codes : array-like of shape (n_queries, n_bits)
        Zeros and ones.

    gallery_codes : array-like of shape (n_gallery, n_bits)
        Zeros and ones.

    k : int, default=None
        Number of results that count; None means all.

    denominator : {"relevant", "hits", "min_k"}, default="relevant"
        As in `mean_average_precision`.

    no_hits : {"zero", "skip"}, default="zero"
        As in `mean_average_precision`.

    ties : {"average", "stable", "optimistic", "pessimistic"}, default="average"
        As in `mean_average_precision`.

    exclude : array-like, default=None
        Gallery rows that are not ranked, as in `mean_average_precision`.

    sample_weight : array-like of shape (n_queries,), default=None
        Weights of the queries.

    per_query : bool, default=False
        Whether to return one value per query.

    Returns
    -------
    float, or ndarray of shape (n_queries,), float64
        From 0 to 1; NaN as in `mean_average_precision`.

    Raises
    ------
    ValueError
        If the codes are not zeros and ones of one length, and as in
        `mean_average_precision`.

    Examples
    --------
    >>> from sklearn_cbir.metrics import hamming_mean_average_precision
    >>> hamming_mean_average_precision([1], [1, 0], [[0, 1]], [[0, 1], [1, 1]])
    1.0
    """
    n_bits = [np.shape(codes)[-1:] for codes in (query_codes, gallery_codes)]
    if n_bits[0] != n_bits[1]:
        raise ValueError(
            f"query_codes have {n_bits[0][0]} bits, gallery_codes have {n_bits[1][0]}. Use codes "
            "of one length."
        )
    return mean_average_precision(  # pyright: ignore[reportCallIssue]
        y_queries,
        y_gallery,
        HammingDistances(pack_codes(query_codes), pack_codes(gallery_codes)),
        k=k,
        denominator=denominator,
        no_hits=no_hits,
        ties=ties,
        exclude=exclude,
        sample_weight=sample_weight,
        # That a bool is True or False it does not see among so many unions.
        per_query=per_query,  # pyright: ignore[reportArgumentType]
    )
