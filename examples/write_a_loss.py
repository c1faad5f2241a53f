"""
Train with a loss of your own
=============================

You have an idea for a loss. It is a function of what the network says of a batch and of its
labels, and returns one number that becomes small when all is well. Any torch module of this form
can be trained, tuned and compared with those that are there.
"""

# %%
# The loss
# --------
#
# For every photo, the nearest of its class in the batch should be nearer than the nearest of
# another class, by a margin. ``outputs`` are the rows of the batch, of unit length, and ``y`` the
# numbers of their classes.

from pathlib import Path

import torch


class NearestOfTheClass(torch.nn.Module):
    """Hinge of the nearest distances, within the class and to others."""

    def __init__(self, margin=0.5):
        super().__init__()
        self.margin = margin

    def forward(self, outputs, y):
        distances = 1 - outputs @ outputs.T
        same = y[:, None] == y
        itself = torch.eye(len(y), dtype=torch.bool)
        near = distances.masked_fill(~same | itself, 2).amin(dim=1)
        far = distances.masked_fill(same, 2).amin(dim=1)
        return (near - far + self.margin).clamp(min=0).mean()


# %%
# Train with it
# -------------
#
# ``loss=`` takes the object. Batches hold several photos of each of several classes, unless the
# loss says otherwise.

from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/clothing")
network = CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None)
rows = network.fit_transform(photos.data)
train, test, y_train, y_test, photos_train, photos_test = train_test_split(
    rows, photos.target, photos.data, test_size=0.3, stratify=photos.target, random_state=0
)


def search_with(loss):
    """Train on rows, and index them."""
    learner = CNNFeatureExtractor(None, loss=loss, n_components=64, max_epochs=20, random_state=0)
    search = make_pipeline(learner, NeighborsRetriever())
    return search.fit(train, y_train, neighborsretriever__ids=photos_train)


untrained = NeighborsRetriever().fit(train, y_train)
print(f"untrained: {untrained.score(test, y_test):.2f}")
searches = {"triplet": search_with("triplet"), "own": search_with(NearestOfTheClass(margin=0.5))}
for name, search in searches.items():
    print(f"{name}: {search.score(test, y_test):.2f}")

# %%
# Did it train?
# -------------
#
# :class:`~sklearn_cbir.display.TrainingCurveDisplay` draws the loss of every epoch, of the network
# in a search, too. Losses have scales of their own, so compare the shapes of the curves only.

import matplotlib.pyplot as plt

from sklearn_cbir.display import RetrievalDisplay, TrainingCurveDisplay

ax = plt.figure(layout="constrained").subplots()
for name, search in searches.items():
    TrainingCurveDisplay.from_estimator(search, name=name, ax=ax)
plt.show()

# %%
# What photos that were not trained on find with it:

# sphinx_gallery_thumbnail_number = 2
RetrievalDisplay.from_estimator(searches["own"], test, y_test, images=photos_test, n_queries=3)
plt.show()

# %%
# A loss may also ask for its kind of batches, own parameters that are trained, or be told the
# epoch: the attributes are listed in :doc:`/guide/losses`.
