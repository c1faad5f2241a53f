"""
Recognize products that were never trained on
=============================================

A shop gets new products every week, and nobody wants to train anew each time. So train on the
products that you have, and learn what holds for all: how near two photos of one product are. A new
product then needs one photo in the gallery.
"""

# %%
# Products to train on, and new ones
# ----------------------------------
#
# ``photos/grocery`` holds 18 products, six photos of each. We train on 12 of them. The other six
# come later.

from pathlib import Path

import numpy as np

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/grocery")
products = np.unique(photos.target)
new = np.isin(photos.target, products[::3])
network = CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None)
rows = network.fit_transform(photos.data)
print(np.sum(~new), "photos of products to train on,", np.sum(new), "of new ones")

# %%
# One threshold
# -------------
#
# :class:`~sklearn_cbir.CPFEmbedder` learns rows for which one threshold holds: two photos whose
# cosine is above ``threshold_`` show the same product, whatever product it is. It is chosen on
# products that the training leaves out, half of the 12 here.

from sklearn_cbir import CPFEmbedder

embedder = CPFEmbedder(64, backbone=None, max_epochs=10, threshold_fraction=0.5, random_state=0)
embedder.fit(rows[~new], photos.target[~new])
print(f"same product above a cosine of {embedder.threshold_:.2f}")

# %%
# The new products search each other. As a distance, the threshold is ``1 - threshold_``.

from sklearn_cbir import NeighborsRetriever

untrained = NeighborsRetriever().fit(rows[new], photos.target[new])
print(f"mean average precision, untrained: {untrained.score():.2f}")
gallery = NeighborsRetriever()
gallery.fit(embedder.transform(rows[new]), photos.target[new], ids=photos.data[new])
print(f"mean average precision, trained on other products: {gallery.score():.2f}")
distances, positions = gallery.radius_neighbors(radius=1 - embedder.threshold_)
labels = photos.target[new]
right = sum(np.sum(labels[found] == labels[i]) for i, found in enumerate(positions))
print(f"{right} of {sum(map(len, positions))} photos within the threshold are the same product")

# %%
# How well do the two kinds of pairs come apart? Left of the line a pair is taken for one product.
# Twelve products are few to learn from, so some pairs of two products lie within it.

import matplotlib.pyplot as plt

similarity = embedder.transform(rows[new]) @ embedder.transform(rows[new]).T
first, second = np.triu_indices(len(labels), 1)
same = labels[first] == labels[second]
distance = 1 - similarity[first, second]
figure, ax = plt.subplots(layout="constrained")
bins = np.linspace(0, distance.max(), 30)
ax.hist(distance[same], bins, density=True, alpha=0.6, label="the same new product")
ax.hist(distance[~same], bins, density=True, alpha=0.6, label="two new products")
ax.axvline(1 - embedder.threshold_, color="black", label="threshold")
ax.set(xlabel="cosine distance", ylabel="density of pairs")
ax.legend()
plt.show()

# %%
# Photos of the new products and what they find:

from sklearn_cbir.display import RetrievalDisplay

# sphinx_gallery_thumbnail_number = 2
RetrievalDisplay.from_estimator(gallery, None, n_queries=4, captions=["distance"])
plt.show()

# %%
# :doc:`/guide/embedding` says more on the loss, and how to split by class to measure such a
# search.
