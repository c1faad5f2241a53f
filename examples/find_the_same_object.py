"""
Find the same object again, and re-rank
=======================================

You have one photo of a carton, and look for all photos of this very carton, not of any carton.
They were taken from other sides, so some are far from the query; but they are near to other photos
of the carton. Re-ranking uses that: it reorders the first results by what they have in common.
"""

# %%
# Rows with GeM pooling
# ---------------------
#
# For single objects, generalized-mean pooling is a good choice: it listens more to the places of a
# photo where much is found than to the mean of all places. Every photo will search the others.

from pathlib import Path

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/grocery")
network = CNNFeatureExtractor(
    "timm/tf_efficientnet_lite0", weights="packaged", loss=None, pooling="gem"
)
rows = network.fit_transform(photos.data)
print(rows.shape)

# %%
# Four ways to re-rank
# --------------------
#
# ``rerank`` is a parameter of :class:`~sklearn_cbir.NeighborsRetriever`, and can be changed on a
# fitted one. ``rerank_depth`` says how many of the first results are reordered.

from sklearn_cbir import NeighborsRetriever

search = NeighborsRetriever(rerank_depth=40)
search.fit(rows, photos.target, ids=photos.data)
results = {}
for rerank in (None, "query_expansion", "k_reciprocal", "diffusion"):
    results[rerank] = search.set_params(rerank=rerank).evaluate()
    print(f"{rerank}: {results[rerank].score:.3f}")

# %%
# Not each of them helps: the mean of a query and its first results is no better a query if some of
# these are wrong.
#
# Six photos of a product leave five to be found. Parameters of a re-ranker are set through an
# object; how many neighbors it looks at should not exceed that.

from sklearn_cbir.reranking import KReciprocalReranker

search.set_params(rerank=KReciprocalReranker(n_neighbors=5, n_averaged=2))
results["tuned"] = search.evaluate()
print(f"k_reciprocal, 5 neighbors: {results['tuned'].score:.3f}")

# %%
# The three queries that gained most: before, and after.

import matplotlib.pyplot as plt

from sklearn_cbir.display import RetrievalDisplay

# sphinx_gallery_thumbnail_number = 2
most = (results[None].per_query - results["tuned"].per_query).argsort()[:3]
for rerank in (None, KReciprocalReranker(n_neighbors=5, n_averaged=2)):
    search.set_params(rerank=rerank)
    RetrievalDisplay.from_estimator(search, None, queries=most, captions=["distance"])
plt.show()

# %%
# The distances under the results stay those of the rows; only the order is new.
# :doc:`/guide/reranking` explains the methods, and which one suits is a question for a
# :doc:`grid search <tune_a_search>`.
