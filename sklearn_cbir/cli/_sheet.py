"""Results as a picture: `--sheet FILE`."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from sklearn_cbir.collection import Hit
from sklearn_cbir.images import Text

DPI = 120
MOST = 50  # results of one query, or groups, that are drawn


def check_sheet(path: str | None) -> None:
    """Raise before anything is searched if nothing could be drawn."""
    if path is None:
        return
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "--sheet needs matplotlib. Install it with: pip install 'sklearn-cbir[plot]'."
        ) from error
    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.use("agg")  # files need no window
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    ending = os.path.splitext(path)[1].lower().removeprefix(".")
    if ending not in kinds:
        raise ValueError(f"--sheet {path}: write to a file that ends in .png, .jpg, .pdf or .svg.")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"--sheet {path}: there is no folder {folder!r}.")


def draw_hits(path: str, query: str | Text, hits: Sequence[Hit], unit: str | None) -> None:
    """Draw a query with what it has found."""
    from sklearn_cbir.display import RetrievalDisplay

    shown = hits[:MOST]
    distances = [[int(hit.distance) if unit == "bits" else hit.distance for hit in shown]]
    display = RetrievalDisplay.from_predictions(
        [list(range(len(shown)))],
        distances,
        images=[query],
        gallery_images=[hit.path for hit in shown],
        gallery_ids=[f"{hit.number}: {os.path.basename(hit.path)}" for hit in shown],
        unit=unit,
    )
    _save(display.figure_, path)


def draw_groups(path: str, groups: Sequence[Sequence[Hit]], unit: str | None) -> None:
    """Draw groups of photos, the one to keep first."""
    from sklearn_cbir.display import DuplicatesDisplay

    hits = [(number, hit) for number, group in enumerate(groups[:MOST]) for hit in group]
    firsts = {group[0].number for group in groups}
    display = DuplicatesDisplay.from_predictions(
        [number for number, _ in hits],
        images=[hit.path for _, hit in hits],
        keep=[hit.number in firsts for _, hit in hits],
        distances=[int(hit.distance) if unit == "bits" else hit.distance for _, hit in hits],
        unit=unit,
        n_groups=MOST,
    )
    _save(display.figure_, path)


def _save(figure: Any, path: str) -> None:
    import matplotlib.pyplot as plt

    try:
        figure.savefig(path, dpi=DPI, bbox_inches="tight")
    finally:
        plt.close(figure)
