"""Paths, PIL images and arrays as checked uint8 batches: lazy, in bounded memory.

Pixels are those that a viewer shows: turned upright by EXIF, 16-bit and float scaled, transparency
on white, first frame of several. A fault of a file is an `ImageReadError` with its row and path.
"""

from sklearn_cbir.images._augmentation import resolve_augmentation
from sklearn_cbir.images._batches import Images
from sklearn_cbir.images._checking import check_images, is_feature_rows
from sklearn_cbir.images._faults import ImageReadError
from sklearn_cbir.images._formats import readable_extensions
from sklearn_cbir.images._pairs import images_of
from sklearn_cbir.images._readable import readable_images
from sklearn_cbir.images._resizing import Resizing
from sklearn_cbir.images._text import Text

__all__ = [
    "ImageReadError",
    "Images",
    "Resizing",
    "Text",
    "check_images",
    "images_of",
    "is_feature_rows",
    "readable_extensions",
    "readable_images",
    "resolve_augmentation",
]
