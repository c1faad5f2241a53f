"""
Search 20,000 rows, and let Milvus hold them
============================================

Where does this piece come from? 208 photos are cut into 20,000 pieces, and each becomes a row. The
gallery lies in a file of `Milvus <https://milvus.io>`_, a vector database: the same lines work
with a server, when a gallery outgrows one machine. The answers stay those of the exact search in
memory.
"""

# %%
# 20,000 pieces
# -------------
#
# Each piece of 24 x 24 pixels is described by the colors of its 4 x 4 parts, less their mean, so
# that light does not matter.

from pathlib import Path

import numpy as np
from PIL import Image

from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
rng = np.random.default_rng(0)
folders = here / "photos/clothing", here / "photos/grocery"
paths = [path for folder in folders for path in load_image_folder(folder).data]
photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
origin = rng.integers(0, len(photos), 20_000)
pieces = np.empty((20_000, 24, 24, 3), dtype=np.uint8)
for i, number in enumerate(origin):
    top, left = (rng.integers(0, side - 23) for side in photos[number].shape[:2])
    pieces[i] = photos[number][top : top + 24, left : left + 24]
parts = pieces.reshape(-1, 4, 6, 4, 6, 3).mean(axis=(2, 4)).reshape(len(pieces), -1)
rows = (parts - parts.mean(axis=1, keepdims=True)).astype(np.float32)
print(rows.shape)

# %%
# In memory, and in Milvus
# ------------------------
#
# Only ``algorithm`` and ``uri`` differ. With ``"https://milvus.example.org:19530"`` the rows would
# lie on a cluster.

import tempfile

from sklearn_cbir import NeighborsRetriever

folder = tempfile.mkdtemp()
uri = str(Path(folder, "pieces.db"))
memory = NeighborsRetriever(n_neighbors=5).fit(rows, origin)
milvus = NeighborsRetriever(n_neighbors=5, algorithm="milvus", uri=uri).fit(rows, origin)

queries = np.arange(0, 20_000, 100)
distances, positions = memory.kneighbors(rows[queries])
same = milvus.kneighbors(rows[queries])
print("the same answers:", np.array_equal(positions, same[1]))

# %%
# It grows
# --------
#
# Rows are added and removed without building anew.

milvus.remove(np.arange(10))
milvus.partial_fit(rows[:10], origin[:10])
print(milvus.n_samples_fit_, "rows")

# %%
# What it finds
# -------------
#
# Pieces, and the five nearest among all others. A tick marks a piece of the same photo.

import matplotlib.pyplot as plt

from sklearn_cbir.display import RetrievalDisplay

RetrievalDisplay.from_estimator(
    memory, None, queries=[50, 4_000, 9_100, 15_000], gallery_images=pieces, captions=["distance"]
)
plt.show()

# %%
# :doc:`/guide/external_gallery` says more on Milvus, :doc:`/guide/search_engines` on engines that
# are faster where there are millions of rows, and :doc:`/guide/scale` on galleries larger than
# memory.

import shutil

del milvus  # which closes its file
shutil.rmtree(folder)
