"""What a training learns from: labels and weights of rows, checked against its loss."""

from sklearn_cbir._labels import encode_labels, labeled_rows, unique_labels
from sklearn_cbir._validation import check_sample_weight, shortened, warn_user
from sklearn_cbir.losses import LOSSES, sampling_of, takes_sample_weight


def check_weights(estimator, sample_weight, n, loss):
    """Return one weight per row, or None."""
    if sample_weight is None:
        return None
    if not takes_sample_weight(loss):
        why = "trains nothing" if loss is None else "has no terms of single rows to be weighed"
        raise ValueError(
            f"sample_weight was given, but loss={_shown_loss(estimator)} {why}. Leave "
            "sample_weight out, or use a loss with sample_weight = True, such as one of "
            f"{[name for name, loss in LOSSES.items() if takes_sample_weight(loss)]}."
        )
    return check_sample_weight(sample_weight, n)


def check_target(estimator, data, y, weights, loss):
    """Return what counts: images or rows, labels encoded, and weights; and the classes."""
    name = type(estimator).__name__
    if y is None:
        raise ValueError(
            f"{name} requires y to be passed, but the target y is None. "
            f"loss={_shown_loss(estimator)} learns from labels: pass one per image."
        )
    y, classes = encode_labels(y, n=len(data))
    counting = labeled_rows(y)
    if weights is not None:
        counting = counting[weights[counting] > 0]
    if len(counting) < len(y):
        data, y = data[counting], y[counting]
        weights = None if weights is None else weights[counting]
        if y.ndim == 1:
            present, y = unique_labels(y)
            classes = classes[present]
    if y.ndim == 2:
        _check_columns(name, y, _need_of_pairs(estimator, loss))
    else:
        _check_classes(name, y, classes, _need_of_pairs(estimator, loss))
    return data, y, weights, classes


def _shown_loss(estimator):
    return shortened(getattr(estimator, "loss", "cpf"))


def _need_of_pairs(estimator, loss):
    """Return what nothing can be done with where no two rows are similar, or None."""
    if sampling_of(loss) != "uniform":
        return f"{type(loss).__name__} has nothing to pull together"
    return "sampling='mined' has no pairs to draw" if estimator.sampling == "mined" else None


def _check_classes(name, y, classes, need):
    """Raise if there is one class, or as many as rows where pairs are needed."""
    if len(classes) < 2:
        raise ValueError(
            f"{name} needs at least 2 classes to train, got 1 class: "
            f"{shortened(classes.tolist()[0])}."
        )
    if need and len(classes) == len(y):
        raise ValueError(
            f"All {len(y)} images have a class of their own, so no two are similar and {need}. "
            "Give at least one class two images."
        )


def _check_columns(name, y, need):
    """Raise if there are no rows of 0/1 columns, no two differ, or none are similar."""
    if not len(y):
        raise ValueError(
            f"{name} learns from labels, but no row of y carries one: all are zeros. Label some "
            "rows."
        )
    if (y == y[0]).all():
        raise ValueError(
            f"{name} needs rows with different labels to train, but all {len(y)} labeled rows of "
            "y are equal."
        )
    if need and y.sum(axis=0).max() < 2:
        raise ValueError(
            f"No two of the {len(y)} images share a label, so {need}. Give at least one label two "
            "images."
        )
    if y.all(axis=0).any():
        warn_user(
            f"Column {int(y.all(axis=0).argmax())} of y is 1 in all rows, so that every two "
            "rows share a label and none are dissimilar. Drop it."
        )
