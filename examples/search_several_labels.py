"""
Search photos that have several labels
======================================

A photo of Granny Smith apples is fruit, an apple, and a Granny Smith. What shares all three should
come first, then other apples, then other fruit. So labels are columns of 0 and 1 here, and the
more of them two photos share, the nearer they should be.
"""

# %%
# Columns of labels
# -----------------
#
# The folders are named ``fruit_apple_granny-smith``, ``carton_milk_arla-standard-milk`` and so on.

from pathlib import Path

from sklearn.preprocessing import MultiLabelBinarizer

from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/grocery")
binarizer = MultiLabelBinarizer()
labels = binarizer.fit_transform([name.split("_") for name in photos.target])
print(labels.shape, "three of them are 1 in every row:", set(labels.sum(axis=1).tolist()))

# %%
# Train on all of them
# --------------------
#
# The loss ``"multilevel"`` of :class:`~sklearn_cbir.DeepHasher` gives photos nearer codes the more
# labels they share. A third of the photos ask and are not trained on.

import numpy as np
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, DeepHasher, NeighborsRetriever

network = CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None)
rows = network.fit_transform(photos.data)
asks = np.arange(len(rows)) % 3 == 0
search = make_pipeline(
    DeepHasher(64, backbone=None, loss="multilevel", lr=0.003, max_epochs=100, random_state=0),
    NeighborsRetriever(metric="hamming", scoring="ndcg@10"),
)
search.fit(rows[~asks], labels[~asks], neighborsretriever__ids=photos.data[~asks])

# %%
# Score by degree
# ---------------
#
# Mean average precision would count another fruit as a full success. ``"ndcg@10"`` counts how many
# labels are shared, and that the best stand first; 1 is perfect. ``"acg@5"`` is plain: how many
# labels the first five share with the query, 3 at most.

untrained = NeighborsRetriever().fit(rows[~asks], labels[~asks])
codes = search[0].transform(rows[asks])
for name in ("ndcg@10", "acg@5"):
    before = untrained.evaluate(rows[asks], labels[asks], scoring=name).score
    after = search[-1].evaluate(codes, labels[asks], scoring=name).score
    print(f"{name}: untrained rows {before:.2f}, codes of 8 bytes {after:.2f}")

# %%
# Every result has its labels and the number of bits in which it differs. A tick means one label or
# more in common.

import matplotlib.pyplot as plt

from sklearn_cbir.display import RetrievalDisplay

RetrievalDisplay.from_estimator(
    search,
    rows[asks],
    labels[asks],
    images=photos.data[asks],
    class_names=list(binarizer.classes_),
    n_queries=3,
    n_neighbors=4,
)
plt.show()

# %%
# :doc:`/guide/losses` says which losses see how many labels are shared, and :doc:`/guide/metrics`
# has all metrics of that kind.
