"""The sheet that a search is drawn on: a grid of square images with captions, in inches."""

from __future__ import annotations

import itertools
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from sklearn_cbir._validation import check_boolean, printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Bluish green and vermilion of Okabe and Ito: told apart with any color vision.
RIGHT, WRONG, NEUTRAL = "#009E73", "#D55E00", "#4D4D4D"
BLACK, GRAY, PAPER = "#1A1A1A", "#595959", "#F2F2F2"

# Inches and points at the natural size of the sheet.
GAP, QUERY_GAP, HEADER, LINE, ROW_GAP, LEGEND, MARGIN = 0.13, 0.30, 0.22, 0.15, 0.13, 0.30, 0.10
POINTS = 8.0
CHARACTER = 0.62  # width of a character, as a share of the font size
WIDE = 1.65  # width of a wide one, which is as wide as high, in characters

# Vertices, and 1 = move there, 2 = draw there.
TICK = [(-1, 0), (-0.25, -0.7), (1, 0.75)], [1, 2, 2]
CROSS = [(-1, -1), (1, 1), (-1, 1), (1, -1)], [1, 2, 1, 2]


def pyplot() -> ModuleType:
    """Return matplotlib's pyplot, or say how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Drawing needs matplotlib. Install it with: pip install 'sklearn-cbir[plot]'."
        ) from error
    return plt


def new_axes(width: float, height: float = 4.0) -> Axes:
    """Return the axes of a new figure, whose sides are in inches."""
    return pyplot().subplots(figsize=(width, height), layout="constrained")[1]


def check_drawing(draw: bool, ax: Axes | None) -> None:
    """Raise before anything is computed that could not be drawn."""
    if check_boolean(draw, "draw"):
        pyplot()
    elif ax is not None:
        raise ValueError("draw=False draws nothing into ax. Leave out one of them.")


def is_open(figure: Any) -> bool:
    """Whether pyplot holds a figure, which a notebook then shows at the end of the cell."""
    if figure is None:
        return False
    from matplotlib._pylab_helpers import Gcf

    whole = figure.figure  # of a part of one
    return any(manager.canvas.figure is whole for manager in Gcf.get_all_fig_managers())


def drawable(text: str) -> str:
    """Return text on one line, with a box for every letter that the font in use does not have.

    matplotlib would draw boxes too, and warn of each letter whenever the figure is drawn.
    """
    text = printable(text)
    if text.isascii():
        return text
    from matplotlib.font_manager import FontProperties, findfont, get_font

    families = FontProperties().get_family()
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in families]

    def has(character: str) -> bool:
        return any(font.get_char_index(ord(character)) for font in fonts)

    joiners = "\u200c\u200d\ufe0e\ufe0f"  # they have no shape of their own
    return "".join(c if has(c) else "" if c in joiners else "\u25a1" for c in text)


def shorten(text: str, width: int) -> str:
    """Cut `text` to `width` characters, in the middle where it ends like a file name.

    A letter of China, Japan or Korea, or an emoji, is as wide as `WIDE` others.
    """
    if _width_of(text) <= width:
        return text
    dot = text.rfind(".")
    tail = text[dot - 2 :] if dot > 1 and 1 <= len(text) - dot <= 6 else ""
    if not 0 < _width_of(tail) < width - 2:
        return _cut(text, width - 1) + "…"
    return _cut(text, width - 1 - _width_of(tail)) + "…" + tail


def told_apart(texts: Sequence[str], width: int) -> list[str]:
    """Cut texts to `width` characters: folders that all share first, then what is in the middle."""
    if all(_width_of(text) <= width for text in texts):
        return list(texts)
    n_common = sum(itertools.accumulate((len(set(of)) == 1 for of in zip(*texts)), min))
    start = max(texts[0].rfind(slash, 0, n_common) for slash in "/\\") + 1
    return [_cut_middle(("…" if start else "") + text[start:], width) for text in texts]


def _cut_middle(text: str, width: int) -> str:
    """Return the beginning and the end of a text that is too wide."""
    if _width_of(text) <= width:
        return text
    tail = _cut(text[::-1], width // 2)[::-1]
    return _cut(text, width - 1 - _width_of(tail)) + "…" + tail


def _width_of(text: str) -> float:
    """Return the width of a text in characters of common width."""
    if text.isascii():
        return len(text)
    return sum(WIDE if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _cut(text: str, width: float) -> str:
    """Return as much of a text as has room."""
    widths = itertools.accumulate(_width_of(letter) for letter in text)
    return "".join(letter for letter, end in zip(text, widths) if end <= width)


class Sheet:
    """Cells in rows, the first of each row set apart; everything scales with the axes given."""

    figure: Figure
    canvas: Axes

    def __init__(
        self, n_rows: int, n_results: int, n_lines: int, cell: float, has_legend: bool
    ) -> None:
        self.cell = cell
        self.row_height = cell + n_lines * LINE + ROW_GAP
        self.legend_height = LEGEND if has_legend else 0
        self.width = 2 * MARGIN + cell * (1 + n_results) + QUERY_GAP + GAP * (n_results - 1)
        self.height = MARGIN + HEADER + n_rows * self.row_height + self.legend_height

    def open(self, ax: Axes | None = None) -> None:
        """Make a figure of the natural size, or fit into `ax`."""
        if ax is None:
            self.figure = pyplot().figure(figsize=(self.width, self.height))
            ax = self.figure.add_axes((0, 0, 1, 1))
        else:
            self.figure = cast("Figure", ax.figure)  # a part of one has all that is used
        ax.set_axis_off()
        self.canvas = ax
        box = ax.get_window_extent().transformed(self.figure.dpi_scale_trans.inverted())
        self.scale = min(box.width / self.width, box.height / self.height)
        # Shares of `ax` per inch of the sheet, which stands in its middle.
        self.per_inch = self.scale / box.width, self.scale / box.height
        self.left = (1 - self.width * self.per_inch[0]) / 2
        self.top = (1 + self.height * self.per_inch[1]) / 2

    def image(
        self,
        row: int,
        column: int,
        pixels: NDArray[np.uint8],
        color: str = NEUTRAL,
        line_width: float = 1.0,
    ) -> Axes:
        """Show pixels (H, W, 3) in a framed square, whole and in proportion; return its axes."""
        x, y = self._corner(row, column)
        left, bottom = self._place(x, y + self.cell)
        across, down = (self.cell * share for share in self.per_inch)
        ax = self.canvas.inset_axes((left, bottom, across, down))
        height, width = pixels.shape[:2]
        side = max(height, width)
        is_enlarged = side < 1.5 * self.cell * self.scale * self.figure.dpi
        ax.imshow(pixels, interpolation="nearest" if is_enlarged else "antialiased")
        ax.set(
            xlim=((width - side) / 2 - 0.5, (width + side) / 2 - 0.5),
            ylim=((height + side) / 2 - 0.5, (height - side) / 2 - 0.5),
            xticks=[],
            yticks=[],
            facecolor=PAPER,
        )
        for spine in ax.spines.values():
            spine.set(color=color, linewidth=line_width * self.scale)
        return ax

    def result(self, row: int, column: int, pixels: NDArray[np.uint8], right: bool | None) -> Axes:
        """Show a result; the color of its frame and a sign say whether it is right."""
        if right is None:
            return self.image(row, column, pixels)
        ax = self.image(row, column, pixels, RIGHT if right else WRONG, 3.0)
        inset = 8.5 / 72 / self.cell  # share of the cell
        self._sign(ax, inset, 1 - inset, right)
        return ax

    def missing(self, row: int, column: int, reason: str, right: bool | None = None) -> Axes:
        """Draw a cell without its image, and why; return its axes."""
        ax = self.result(row, column, self._paper(), right)
        self._fill(ax, reason, GRAY)
        return ax

    def words(self, row: int, column: int, words: str) -> Axes:
        """Draw a cell that holds words in the place of an image; return its axes."""
        ax = self.image(row, column, self._paper())
        self._fill(ax, words, BLACK)
        return ax

    def _paper(self) -> NDArray[np.uint8]:
        return np.full((8, 8, 3), 242, dtype=np.uint8)

    def _fill(self, ax: Axes, text: str, color: str) -> None:
        """Write text in the middle of a cell, on as many lines as it has room for."""
        text = drawable(text)
        room = int(self.cell * 72 / (POINTS * CHARACTER)) - 2
        width = max(int(room * len(text) / _width_of(text)), 4)
        lines = textwrap.wrap(text, width, max_lines=5, placeholder=" …")
        style: dict[str, Any] = {"ha": "center", "va": "center", "color": color}
        style["fontsize"] = POINTS * self.scale
        ax.text(0.5, 0.5, "\n".join(lines), transform=ax.transAxes, parse_math=False, **style)

    def caption(self, row: int, column: int, lines: Sequence[str]) -> None:
        """Write lines below a cell."""
        x, y = self._corner(row, column)
        room = int((self.cell + GAP) * 72 / (POINTS * CHARACTER))
        for i, line in enumerate(lines):
            below = y + self.cell + 0.06 + i * LINE
            color = GRAY if i else BLACK
            self._write(x + self.cell / 2, below, shorten(drawable(line), room), color, va="top")

    def titles(self, titles: Iterable[object]) -> None:
        """Write the titles of the columns."""
        for column, title in enumerate(titles):
            x, y = self._corner(0, column)
            self._write(x + self.cell / 2, y - 0.07, str(title), GRAY, va="bottom")

    def legend(self, texts: Iterable[str]) -> None:
        """Write the meaning of the tick and the cross."""
        x, y = MARGIN + 0.09, self.height - self.legend_height / 2
        for right, text in zip((True, False), texts):
            self._sign(self.canvas, *self._place(x, y), right)
            self._write(x + 0.14, y, text, BLACK, ha="left", va="center")
            x += 0.45 + len(text) * POINTS * 0.5 / 72

    def note(self, text: str) -> None:
        """Write something on the right of the legend."""
        x, y = self.width - MARGIN, self.height - self.legend_height / 2
        self._write(x, y, text, GRAY, ha="right", va="center")

    def _corner(self, row: int, column: int) -> tuple[float, float]:
        """Return the top left corner of a cell, in inches from that of the sheet."""
        x = MARGIN + column * (self.cell + GAP) + (QUERY_GAP - GAP if column else 0)
        return x, MARGIN + HEADER + row * self.row_height

    def _place(self, x: float, y: float) -> tuple[float, float]:
        """Turn inches from the top left corner into coordinates of the axes drawn on."""
        return self.left + x * self.per_inch[0], self.top - y * self.per_inch[1]

    def _sign(self, ax: Axes, x: float, y: float, right: bool) -> None:
        """Draw a tick or a cross on a disk of its color, at `x`, `y` of `ax`."""
        from matplotlib.path import Path

        style: dict[str, Any] = {"transform": ax.transAxes, "clip_on": False}
        style |= {"linestyle": "none", "zorder": 5}
        disk: dict[str, Any] = {"markersize": 12 * self.scale, "color": RIGHT if right else WRONG}
        ax.plot(x, y, marker="o", markeredgecolor="white", **disk, **style)
        stroke: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 1.6 * self.scale}
        shape = Path(*(TICK if right else CROSS))
        stroke |= {"markerfacecolor": "none", "markersize": 5.5 * self.scale}
        ax.plot(x, y, marker=shape, **stroke, **style)

    def _write(
        self, x: float, y: float, text: str, color: str, *, ha: str = "center", va: str
    ) -> None:
        """Write at a point given in inches; file names may hold dollar signs, so no formulas."""
        style: dict[str, Any] = {"ha": ha, "va": va, "color": color}
        style["fontsize"] = POINTS * self.scale
        x, y = self._place(x, y)
        self.canvas.text(x, y, text, transform=self.canvas.transAxes, parse_math=False, **style)
