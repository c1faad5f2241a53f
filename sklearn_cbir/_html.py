"""Tables for notebooks: text escaped, photos as thumbnails inside of the page, bounded in size."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sklearn_cbir._validation import printable
from sklearn_cbir.images import ImageReadError, Images

Pixels: TypeAlias = NDArray[np.uint8]

SIDE = 96  # px, the longer side of a thumbnail
LONGEST_TEXT = 60  # characters of a label or an id
LONGEST_REASON = 160
RIGHT, WRONG = "#009E73", "#D55E00"  # bluish green and vermilion of Okabe and Ito
CELL = "padding:4px;text-align:center;vertical-align:top;background:none"
BOX = f"width:{SIDE}px;height:{SIDE}px;box-sizing:border-box;padding:4px;margin:auto;"
BOX += "font-size:11px;line-height:1.3;overflow:hidden;overflow-wrap:anywhere;white-space:normal;"


def pixels_or_faults(images: Images, size: int) -> Sequence[Pixels | ImageReadError]:
    """Return pixels (H, W, 3) per image, at the images' own size if they have one, or its fault."""
    side = None if images.image_shape else size
    try:
        return list(images.read(slice(None), side))
    except ImageReadError:
        return [_pixels_of_one(images, row, side) for row in range(len(images))]


def _pixels_of_one(images: Images, row: int, side: int | None) -> Pixels | ImageReadError:
    try:
        return images.read([row], side)[0]
    except ImageReadError as fault:
        return fault


def escaped(value: object, longest: int = LONGEST_TEXT) -> str:
    """Return text on one line that HTML takes for text, cut where it is too long."""
    text = printable(value)
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    return html.escape(text)


def thumbnail(pixels: Pixels, description: str, color: str | None = None) -> str:
    """Return an image as a small JPEG inside of the page, with a frame of a color."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    scale = SIDE / max(image.size)  # what is smaller is enlarged
    width, height = (max(1, round(side * scale)) for side in image.size)
    style = _frame(color) + ("image-rendering:pixelated;" if scale >= 2 else "")
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return (
        f'<img src="data:image/jpeg;base64,{data}" alt="{escaped(description)}" '
        f'width="{width}" height="{height}" style="margin:auto;display:block;{style}">'
    )


def box(text: object, color: str | None = None) -> str:
    """Return text in the place of an image."""
    return f'<div style="{BOX}{_frame(color)}">{escaped(text, LONGEST_REASON)}</div>'


def missing(fault: ImageReadError, color: str | None = None) -> str:
    """Return what stands in the place of an image that cannot be read: the reason."""
    reason = escaped((fault.reason or "cannot be read").split(" (")[0], LONGEST_REASON)
    style = f"{BOX}background:#F2F2F2;color:#595959;"
    return f'<div style="{style}{_frame(color)}">{reason}</div>'


def _frame(color: str | None) -> str:
    return "border:1px solid #4D4D4D;" if color is None else f"border:3px solid {color};"


def cell(*parts: str) -> str:
    """Return a cell of a table; the parts are HTML."""
    return f'<td style="{CELL}">{"".join(parts)}</td>'


def lines(texts: Iterable[str]) -> str:
    """Return lines below an image; the texts are HTML."""
    style = f"width:{SIDE}px;margin:auto;font-size:11px;line-height:1.3;overflow-wrap:anywhere;"
    return f'<div style="{style}white-space:normal">{"<br>".join(texts)}</div>'


def table(rows: Iterable[str], titles: Sequence[object] = ()) -> str:
    """Return a table, which scrolls where it is wider than the page; rows are HTML."""
    head = "".join(f'<th style="{CELL};font-weight:normal">{escaped(t)}</th>' for t in titles)
    head = f"<thead><tr>{head}</tr></thead>" if titles else ""
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;margin:0">'
        f"{head}<tbody>{body}</tbody></table></div>"
    )


def paragraph(text: object, longest: int = 300) -> str:
    """Return a paragraph of plain text."""
    return f'<p style="margin:4px 0">{escaped(text, longest)}</p>'


def page(*parts: str) -> str:
    """Return what a notebook shows."""
    return f'<div class="sklearn-cbir">{"".join(parts)}</div>'
