"""The trunk for rows of features instead of images."""

from typing import TypedDict

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from sklearn_cbir._validation import check_integer
from sklearn_cbir.images import Resizing


class RowStatistics(TypedDict):
    """Mean and standard deviation to standardize rows with, float64 (n_features,)."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]


class RowSpec(RowStatistics):
    """Arguments of `build_backbone` for rows."""

    backbone: None
    weights: None
    in_features: int


class RowTrunk(nn.Module):
    """Two hidden layers on standardized rows.

    `build_mlp` builds it; it has the same attributes as `Trunk`.

    Parameters
    ----------
    spec : dict
        Arguments of `build_backbone` that build this trunk again, without its
        weights.

    Examples
    --------
    >>> import torch
    >>> from sklearn_cbir.backbones import build_backbone, build_mlp
    >>> trunk = build_mlp(3)
    >>> again = build_backbone(**trunk.spec).eval()
    >>> again(torch.zeros(2, 3)).shape
    torch.Size([2, 256])
    """

    width: int = 256
    image_size: None = None
    resize_size: None = None
    resizing: Resizing = Resizing()

    def __init__(self, spec: RowSpec) -> None:
        super().__init__()
        self.spec: RowSpec = spec
        self.layers: nn.Sequential = nn.Sequential(
            nn.Linear(spec["in_features"], self.width),
            nn.ReLU(),
            nn.Linear(self.width, self.width),
            nn.ReLU(),
        )

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Vectors (n, width) of rows (n, n_features)."""
        mean = torch.as_tensor(self.spec["mean"]).to(rows)
        std = torch.as_tensor(self.spec["std"]).to(rows)
        # The bound is out of reach of sane rows and keeps insane ones finite.
        return self.layers(((rows - mean) / std).clamp(-1e6, 1e6).float())


def build_mlp(
    n_features: int, *, mean: ArrayLike | None = None, std: ArrayLike | None = None
) -> RowTrunk:
    """Build a trunk for rows of features.

    Parameters
    ----------
    n_features : int
        Length of the rows.

    mean, std : array-like of shape (n_features,), default=None
        Mean and standard deviation to standardize rows with, as `row_statistics`
        returns them; None does not standardize.

    Returns
    -------
    RowTrunk
        It takes float32 or float64 rows; float64 keeps small differences of
        large numbers.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> rows = np.array([[1e6, 0.0], [3e6, 0.0]])
    >>> trunk = build_mlp(2, **row_statistics(rows))
    >>> trunk(torch.from_numpy(rows)).shape
    torch.Size([2, 256])
    """
    check_integer(n_features, "n_features", minimum=1)
    spec: RowSpec = {
        "backbone": None,
        "weights": None,
        "in_features": int(n_features),
        "mean": np.zeros(n_features) if mean is None else np.asarray(mean, dtype=np.float64),
        "std": np.ones(n_features) if std is None else np.asarray(std, dtype=np.float64),
    }
    return RowTrunk(spec)


def row_statistics(X: NDArray[np.floating], chunk: int = 4096) -> RowStatistics:
    """Mean and standard deviation of every column, whatever its scale.

    Parameters
    ----------
    X : ndarray of shape (n, n_features)
        Finite rows; they are read in chunks, so a memory map stays on disk.

    chunk : int, default=4096
        Rows read at a time.

    Returns
    -------
    dict of str to ndarray of shape (n_features,)
        "mean" and "std" in float64; the std of a constant column is 1.

    Examples
    --------
    >>> import numpy as np
    >>> row_statistics(np.array([[0.0, 7.0], [2.0, 7.0]]))
    {'mean': array([1., 7.]), 'std': array([1., 1.])}
    """
    parts = [slice(start, start + chunk) for start in range(0, len(X), chunk)]
    largest = np.max([np.abs(X[part]).max(axis=0) for part in parts], axis=0).astype(np.float64)
    # Squares of large numbers overflow: work in units of the largest.
    unit = np.where(largest > 0, largest, 1.0)
    mean = sum((X[part] / unit).sum(axis=0) for part in parts) / len(X)
    variance = sum(((X[part] / unit - mean) ** 2).sum(axis=0) for part in parts) / len(X)
    std = np.sqrt(variance) * unit
    # What is left of a constant column is rounding; float32 rows cannot be divided by less.
    constant = (np.sqrt(variance) <= 1e-12 * np.abs(mean)) | (std < np.finfo(np.float32).tiny)
    return {"mean": mean * unit, "std": np.where(constant, 1.0, std)}
