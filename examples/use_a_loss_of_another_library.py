"""
Train with a loss of pytorch-metric-learning
============================================

`pytorch-metric-learning <https://kevinmusgrave.github.io/pytorch-metric-learning/>`_ has dozens of
losses. They are called as ours are, so each of them trains a search here: pass the object.
"""

# %%
# Rows of photos
# --------------

from pathlib import Path

from sklearn.model_selection import train_test_split

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/grocery")
network = CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None)
rows = network.fit_transform(photos.data)
train, test, y_train, y_test, photos_train, photos_test = train_test_split(
    rows, photos.target, photos.data, test_size=0.5, stratify=photos.target, random_state=0
)

# %%
# Three of its losses
# -------------------
#
# ``ProxyAnchorLoss`` has parameters of its own, one row for each class. They are trained with the
# network, at the rate ``loss_lr``. The size of the rows, ``embedding_size``, has to be that of the
# network, ``n_components``.

import numpy as np
from pytorch_metric_learning.losses import MultiSimilarityLoss, ProxyAnchorLoss, SupConLoss
from sklearn.pipeline import make_pipeline

from sklearn_cbir import NeighborsRetriever

losses = {
    "multi-similarity": MultiSimilarityLoss(),
    "supervised contrastive": SupConLoss(),
    "proxy anchor": ProxyAnchorLoss(num_classes=len(np.unique(y_train)), embedding_size=64),
}
searches = {}
print(f"untrained: {NeighborsRetriever().fit(train, y_train).score(test, y_test):.2f}")
for name, loss in losses.items():
    learner = CNNFeatureExtractor(
        None, loss=loss, loss_lr=0.01, n_components=64, max_epochs=15, random_state=0
    )
    searches[name] = make_pipeline(learner, NeighborsRetriever())
    searches[name].fit(train, y_train, neighborsretriever__ids=photos_train)
    print(f"{name}: {searches[name].score(test, y_test):.2f}")

# %%
# How precise are the first results?
# ----------------------------------
#
# :class:`~sklearn_cbir.display.PrecisionRecallDisplay` draws all ranks. Further up and to the
# right is better.

import matplotlib.pyplot as plt

from sklearn_cbir.display import PrecisionRecallDisplay

figure, ax = plt.subplots(layout="constrained")
for name, search in searches.items():
    PrecisionRecallDisplay.from_estimator(search, test, y_test, name=name, ax=ax)
plt.show()

# %%
# What queries find with the last of them:

from sklearn_cbir.display import RetrievalDisplay

# sphinx_gallery_thumbnail_number = 2
RetrievalDisplay.from_estimator(
    search, test, y_test, images=photos_test, n_queries=3, n_neighbors=3
)
plt.show()

# %%
# Our own losses need no other library: :doc:`/guide/losses` lists them, and says which few of the
# other library do not train here. A loss of your own is written in ten lines: :doc:`write_a_loss`.
