"""Scoring of binary codes without a matrix of distances."""

from sklearn_cbir.codes import HammingDistances, pack_codes
from sklearn_cbir.metrics.precision import mean_average_precision

__all__ = ["hamming_mean_average_precision"]


def hamming_mean_average_precision(y_queries, y_gallery, query_codes, gallery_codes, **options):
    """Mean average precision of binary codes by Hamming distance.

    Equal to `mean_average_precision` of the distances.

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

    **options : dict
        `k`, `denominator`, `ties`, `exclude`, `sample_weight` and `per_query` of
        `mean_average_precision`.

    Returns
    -------
    float, or ndarray of shape (n_queries,), float64
        From 0 to 1.

    Examples
    --------
    >>> from sklearn_cbir.metrics import hamming_mean_average_precision
    >>> hamming_mean_average_precision([1], [1, 0], [[0, 1]], [[0, 1], [1, 1]])
    1.0
    """
    distances = HammingDistances(pack_codes(query_codes), pack_codes(gallery_codes))
    return mean_average_precision(y_queries, y_gallery, distances, **options)
