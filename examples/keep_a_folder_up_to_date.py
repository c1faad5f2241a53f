"""
Keep the search of a folder up to date
======================================

New photos come, others are renamed or deleted. A :class:`~sklearn_cbir.collection.PhotoCollection`
is a search that lies beside the photos, is opened in a moment on another day, and reads only what
is new.
"""

# %%
# Make it once
# ------------
#
# The photos are copied here, since we will change them. The network learns nothing, so any picture
# will do to fit it.

import shutil
import tempfile
from pathlib import Path

from PIL import Image

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.collection import PhotoCollection

here = Path(__file__).parent if "__file__" in globals() else Path()  # a notebook is no file
folder = Path(tempfile.mkdtemp(), "photos")
for kind in ("hat", "pants", "shoes", "t-shirt"):
    shutil.copytree(Path(here, "photos/clothing", kind), folder / kind)

network = CNNFeatureExtractor("timm/tf_efficientnet_lite0", weights="packaged", loss=None)
network.fit([Image.new("RGB", (64, 64))])
collection = PhotoCollection.create(folder / ".cbir", folder, network, labels="folder")
report = collection.sync()
print(report.added, "photos are new")
collection.close()

# %%
# Another day
# -----------
#
# Ten photos of shirts have come, one photo is gone, and one was moved. ``sync`` looks at all
# files, and reads the photos that it does not know.

shutil.copytree(here / "photos/clothing/shirt", folder / "shirt")
(folder / "hat" / "0.jpg").unlink()
(folder / "shoes" / "1.jpg").rename(folder / "shoes" / "black.jpg")

collection = PhotoCollection.open(folder / ".cbir")
report = collection.sync()
print(
    report.added,
    "new,",
    report.removed,
    "gone,",
    report.moved,
    "moved,",
    report.unchanged,
    "as before",
)

# %%
# Search it
# ---------
#
# ``where`` says which photos may be found: a folder, a label, a size, or the day on which a photo
# was taken.

query = here / "photos/clothing/shirt/3.jpg"
for hit in collection.search([query], k=4, where={"folder": "shirt"})[0]:
    print(f"{hit.distance:.2f}", Path(hit.path).relative_to(folder).as_posix())

# %%
# For everything else there is its retriever, which the displays take, too.

import matplotlib.pyplot as plt

from sklearn_cbir.display import RetrievalDisplay

RetrievalDisplay.from_estimator(collection.retriever(ids="path"), None, n_queries=4)
plt.show()

# %%
# Close it when you are done; here the copies go, too.

collection.close()
shutil.rmtree(folder.parent)

# %%
# :doc:`/guide/collection` has the rest, and :doc:`/guide/command_line` does all of it without
# Python: ``cbir index``, ``cbir sync``.
