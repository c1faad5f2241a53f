"""
Train a search on labels
========================

Untrained, a photo of a skirt finds shorts: they look alike. If you know what is on your photos, a
search can learn which differences matter. Here the folder of a photo is its label, and training
takes some seconds.
"""

# %%
# Photos to train on, and others to ask with
# ------------------------------------------
#
# Three of ten photos of every class are queries. They are not trained on, so they tell how well
# the search works on photos that it has not seen.

from pathlib import Path

from sklearn.model_selection import train_test_split

from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/clothing")
gallery, queries, y_gallery, y_queries = train_test_split(
    photos.data, photos.target, test_size=0.3, stratify=photos.target, random_state=0
)
print(len(gallery), "photos to train on and to search,", len(queries), "to ask with")

# %%
# Before training
# ---------------
#
# The score is the *mean average precision*: 1 if every query finds all photos of its class before
# any other, and about 0.15 by chance, since one photo of ten is of its class.

from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever

network = CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None)
untrained = make_pipeline(network, NeighborsRetriever()).fit(gallery, y_gallery)
print(f"untrained: {untrained.score(queries, y_queries):.2f}")

# %%
# Train
# -----
#
# A second extractor behind the first learns on its rows: ``backbone=None`` means that it gets rows
# and not photos. It ends in 64 numbers per photo, and its loss draws photos of one class together
# and pushes others apart.

trained = make_pipeline(
    network,
    CNNFeatureExtractor(None, loss="contrastive", n_components=64, max_epochs=20, random_state=0),
    NeighborsRetriever(),
)
trained.fit(gallery, y_gallery)
print(f"trained: {trained.score(queries, y_queries):.2f}")

# %%
# The three queries that gained most, before and after training. A tick marks a result of the
# query's class.

import matplotlib.pyplot as plt

from sklearn_cbir.display import RetrievalDisplay

# sphinx_gallery_thumbnail_number = 2
before, after = (
    search[-1].evaluate(search[:-1].transform(queries), y_queries)
    for search in (untrained, trained)
)
most = (before.per_query - after.per_query).argsort()[:3]
for search in (untrained, trained):
    RetrievalDisplay.from_estimator(
        search, queries, y_queries, gallery_images=gallery, queries=most
    )
plt.show()

# %%
# With more photos and time, train the whole network, ``timm/tf_efficientnet_lite0`` with
# ``head_epochs=5, max_epochs=10`` in the place of ``loss=None``. On two cores this takes minutes
# for a hundred photos; a GPU is many times faster. :doc:`/guide/losses` compares the losses, and
# :doc:`/guide/backbones` says how training goes. To use the trained search without torch, pass all
# of it to :func:`sklearn_cbir.to_onnx`: both networks become one file.
