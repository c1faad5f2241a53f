"""
Find photos that are there twice
================================

A folder that grew over years holds photos twice: saved smaller, brighter, cut a little, under
another name. :class:`~sklearn_cbir.duplicates.NearDuplicates` groups them and says which one to
keep. It needs no network and no labels.
"""

# %%
# A folder with copies
# --------------------
#
# We put copies of three photos among 100, each changed in another way.

import tempfile
from pathlib import Path

from PIL import Image, ImageEnhance

from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
folder = Path(tempfile.mkdtemp())
paths = list(load_image_folder(here / "photos/clothing").data)
for number, path in enumerate(["hat/2.jpg", "shoes/4.jpg", "shirt/0.jpg"]):
    photo = Image.open(Path(here, "photos/clothing", path))
    edge = photo.crop((3, 3, photo.width - 3, photo.height - 3))
    copies = {
        "small": photo.resize((photo.width // 2, photo.height // 2)),
        "bright": ImageEnhance.Brightness(photo).enhance(1.2),
        "cut": edge,
    }
    for name, copy in copies.items():
        paths.append(str(folder / f"{name}{number}.jpg"))
        copy.save(paths[-1], quality=80)
print(len(paths), "photos")

# %%
# Find them
# ---------
#
# Every photo becomes a code of 152 bits that hardly changes when the photo is saved anew. Two
# photos within ``radius`` bits are linked, and what is linked is a group. ``keep_`` has the one of
# the most pixels of each group, and all photos that are alone.

from sklearn_cbir.duplicates import NearDuplicates

found = NearDuplicates().fit(paths)
print(len(found.groups_), "groups,", found.keep_.sum(), "photos to keep")

# %%
# Look before you delete
# ----------------------
#
# A tick marks what is kept; under the others stands how many bits differ. The last group is a
# false alarm: two pairs of trousers that differ in 23 bits, where the copies differ in at most 14.
# A smaller ``radius`` leaves it out. Similar is not the same, and only you know which photos you
# need: the package never deletes any.

import matplotlib.pyplot as plt

from sklearn_cbir.display import DuplicatesDisplay

DuplicatesDisplay.from_estimator(found, paths)
plt.show()

# %%
# The folder of the copies is not needed any more.

import shutil

shutil.rmtree(folder)

# %%
# :doc:`/guide/duplicates` says which radius suits thousands of photos, and finds test photos that
# leak into training.
