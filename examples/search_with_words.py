"""
Search photos with words
========================

"A red circle" is a query like any photo, if the network was trained on pictures and their
captions, as CLIP and SigLIP were. This example uses a very small one, which knows four shapes and
four colors and ships with the source; for your photos use ``"open_clip/ViT-B-32"``, which is
downloaded once.
"""

# %%
# Index pictures
# --------------
#
# The pictures are drawings. ``local-dir:`` names the folder of a network of open_clip.

from pathlib import Path

from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.datasets import make_shapes

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
drawings, kinds = make_shapes(200, n_classes=8, random_state=1)
folder = here / "../tests/data/shapes_clip"
network = CNNFeatureExtractor(f"open_clip/local-dir:{folder}", weights="pretrained", loss=None)
search = make_pipeline(network, NeighborsRetriever(n_neighbors=5))
search.fit(drawings)

# %%
# Say what you look for
# ---------------------
#
# :class:`~sklearn_cbir.Text` says that a query is words; a plain ``str`` would be the path of a
# photo.

import matplotlib.pyplot as plt

from sklearn_cbir import Text
from sklearn_cbir.display import RetrievalDisplay

queries = [Text("a red circle"), Text("a blue triangle"), Text("a yellow cross")]
RetrievalDisplay.from_estimator(search, queries, gallery_images=drawings, captions=["distance"])
plt.show()

# %%
# Add and subtract
# ----------------
#
# A query may be a sum. What is added is sought, what is subtracted is avoided, and pictures and
# words can be mixed: like this drawing, but blue.

green_square = drawings[next(i for i, kind in enumerate(kinds) if kind == 1)]
changed = [
    Text("a red circle") - Text("red") + Text("green"),
    green_square - Text("green") + Text("blue"),
]
print(changed[0])
RetrievalDisplay.from_estimator(
    search,
    changed,
    images=[Text("a red circle - red + green"), green_square],
    gallery_images=drawings,
    captions=["distance"],
)
plt.show()

# %%
# Distances to words are larger than those to pictures, though the order is right: do not compare
# the two. :doc:`/guide/words` says why, and which networks know words.
