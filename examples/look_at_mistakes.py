"""
Look at the mistakes of a search
================================

A score says how often a search is wrong, and not why. Look at the queries that did worst. Often it
is the network, sometimes the photo, and sometimes the label: in this folder a skirt lies among the
dresses.
"""

# %%
# Every photo asks
# ----------------
#
# :meth:`~sklearn_cbir.NeighborsRetriever.evaluate` without queries lets every photo of the gallery
# search the others. It returns the score of all, of each class, and of each query.

from pathlib import Path

from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/clothing")
search = make_pipeline(
    CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None),
    NeighborsRetriever(),
)
search.fit(photos.data, photos.target, neighborsretriever__ids=photos.data)
result = search[-1].evaluate()
print(f"mean average precision: {result.score:.2f}")

# %%
# Which classes are hard?
# -----------------------

import matplotlib.pyplot as plt

order = result.per_class.argsort()
figure, ax = plt.subplots(layout="constrained")
ax.barh(result.classes[order], result.per_class[order])
ax.set(xlabel="mean average precision", title="Hard classes below, easy ones above")
plt.show()
print("hardest:", result.classes[order[0]])

# %%
# Which photos did worst?
# -----------------------
#
# ``worst`` holds the positions of all queries, the worst first. The colors of a background often
# matter more to this network than the clothes before it. The first is that skirt: among the
# dresses it finds none that looks like it.

from sklearn_cbir.display import RetrievalDisplay

# sphinx_gallery_thumbnail_number = 2
print(photos.data[result.worst[0]])
RetrievalDisplay.from_estimator(search, None, queries=result.worst[:3])
plt.show()

# %%
# Labels that may be wrong
# ------------------------
#
# Where the five nearest photos agree on one label, and it is not that of the photo, look at the
# label first.

import numpy as np

_, nearest = search[-1].kneighbors(n_neighbors=5)
labels = photos.target[nearest]
agree = (labels == labels[:, :1]).sum(axis=1)
doubtful = np.flatnonzero((labels[:, 0] != photos.target) & (agree >= 4))
for row in doubtful:
    print(f"{photos.data[row]} looks like {labels[row, 0]}")
RetrievalDisplay.from_estimator(search, None, queries=doubtful[:3])
plt.show()

# %%
# A label that is wrong is mended in the folder. What is hard for the network is learned from
# labels: :doc:`train_on_labels`. :doc:`/guide/metrics` says what exactly is measured, and
# :doc:`/guide/display` what can be drawn.
