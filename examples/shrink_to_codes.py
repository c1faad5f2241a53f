"""
Shrink photos to codes of 48 bits
=================================

A row of 1,280 numbers takes 5,120 bytes, a code of 48 bits takes six. A million photos are then 6
MB instead of 5 GB, and are compared by counting the bits that differ. The codes are learned from
labels, so that photos of one class differ in few bits.
"""

# %%
# Rows and codes
# --------------
#
# The rows of an untrained network are what we start from. :class:`~sklearn_cbir.DeepHasher` with
# ``backbone=None`` learns codes on them; with a backbone it would train that, too.

from pathlib import Path

from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, DeepHasher, NeighborsRetriever
from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/clothing")
network = CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None)
rows = network.fit_transform(photos.data)
train, test, y_train, y_test, photos_train, photos_test = train_test_split(
    rows, photos.target, photos.data, test_size=0.3, stratify=photos.target, random_state=0
)

search = make_pipeline(
    DeepHasher(48, backbone=None, loss="dfeh", max_epochs=30, random_state=0),
    NeighborsRetriever(metric="hamming"),
)
search.fit(train, y_train, neighborsretriever__ids=photos_train)
codes = search[0].transform(test)
print(codes.shape, codes.dtype)
print("".join(map(str, codes[0])))

# %%
# What does it cost?
# ------------------
#
# Codes of labels against rows that know no labels. Fewer bits find less, so try several lengths.

floats = NeighborsRetriever().fit(train, y_train)
print(f"rows, 5,120 bytes: {floats.score(test, y_test):.2f}")
scores = {}
for n_bits in (8, 16, 32, 48):
    hasher = DeepHasher(n_bits, backbone=None, loss="dfeh", max_epochs=30, random_state=0)
    short = make_pipeline(hasher, NeighborsRetriever(metric="hamming")).fit(train, y_train)
    scores[n_bits] = short.score(test, y_test)
    print(f"codes, {n_bits // 8} bytes: {scores[n_bits]:.2f}")

# %%

import matplotlib.pyplot as plt

figure, ax = plt.subplots(layout="constrained")
ax.plot(list(scores), list(scores.values()), "o-", label="codes")
ax.axhline(floats.score(test, y_test), color="gray", linestyle="--", label="untrained rows")
ax.set(xlabel="bits", ylabel="mean average precision", ylim=(0, 1), xticks=list(scores))
ax.legend()
plt.show()

# %%
# Results of queries that were not trained on, with the number of bits in which they differ. Many
# results differ in equally many bits; the score takes the mean over all their orders.

from sklearn_cbir.display import RetrievalDisplay

# sphinx_gallery_thumbnail_number = 2
RetrievalDisplay.from_estimator(search, test, y_test, images=photos_test, n_queries=3)
plt.show()

# %%
# :doc:`/guide/hashing` has the other losses, codes that need no labels, and how codes are stored.
