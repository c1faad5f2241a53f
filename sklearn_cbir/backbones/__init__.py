"""Backbones: from a name or a module to a trunk that turns images, or rows, into vectors."""

from sklearn_cbir.backbones._built_in import BACKBONES
from sklearn_cbir.backbones._enhancement import ENHANCEMENTS
from sklearn_cbir.backbones._rows import RowTrunk, build_mlp, row_statistics
from sklearn_cbir.backbones._trunk import Trunk, build_backbone, freeze_batch_norm
from sklearn_cbir.backbones._weights import read_weights

__all__ = [
    "BACKBONES",
    "ENHANCEMENTS",
    "RowTrunk",
    "Trunk",
    "build_backbone",
    "build_mlp",
    "freeze_batch_norm",
    "read_weights",
    "row_statistics",
]
