"""
Tune a search by grid search
============================

Which loss, how many numbers per photo, which distance? You need not know: try all, and let photos
that were held out decide. A search is a scikit-learn pipeline, so
:class:`~sklearn.model_selection.GridSearchCV` tunes all of its steps.
"""

# %%
# Photos become rows once
# -----------------------
#
# The network is not changed here, so each photo goes through it once, before the grid search.

from pathlib import Path

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import load_image_folder

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
photos = load_image_folder(here / "photos/clothing")
network = CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None)
rows = network.fit_transform(photos.data)
print(rows.shape)

# %%
# The grid
# --------
#
# Parameters are named by their step, two underscores, and their name. The splitter shuffles:
# without it, a fold of sorted photos would lack whole classes.

from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline

from sklearn_cbir import NeighborsRetriever

search = Pipeline(
    [
        ("learn", CNNFeatureExtractor(None, max_epochs=10, random_state=0)),
        ("find", NeighborsRetriever()),
    ]
)
grid = {
    "learn__loss": ["softmax", "squared_hinge", "triplet"],
    "learn__n_components": [16, 64],
}
tuned = GridSearchCV(search, grid, cv=StratifiedKFold(2, shuffle=True, random_state=0))
tuned.fit(rows, photos.target, find__ids=photos.data)
print(tuned.best_params_)
print(f"mean average precision: {tuned.best_score_:.2f}")

# %%
# All candidates
# --------------
#
# Folds are few and small here, so candidates that are less than the spread of the folds apart are
# equally good: take the smaller one.

import matplotlib.pyplot as plt
import numpy as np

results = tuned.cv_results_
order = np.argsort(results["mean_test_score"])
names = [f"{p['learn__loss']}, {p['learn__n_components']}" for p in results["params"]]
figure, ax = plt.subplots(layout="constrained")
ax.barh(
    np.array(names)[order],
    results["mean_test_score"][order],
    xerr=results["std_test_score"][order],
    color="tab:blue",
    ecolor="black",
)
ax.set(xlabel="mean average precision of two folds", title="Loss and numbers per photo")
plt.show()

# %%
# The best candidate was trained again on all photos, and is ready to search.

from sklearn_cbir.display import RetrievalDisplay

# sphinx_gallery_thumbnail_number = 2
RetrievalDisplay.from_estimator(tuned, None, n_queries=3)
plt.show()

# %%
# These photos were trained on, so the picture flatters: the number above comes from photos that
# were held out. :doc:`/guide/tuning` shows how a network is trained once per fold and not once per
# candidate, and how to begin with little and give the best candidates more (halving).
