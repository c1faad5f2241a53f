"""Images to feature shards on disk: on many processes or machines, and resumable.

The folder holds ``manifest.json``, which describes the images and the estimator, and two files per
shard: a ``.json`` file, which describes the rows, and a ``.npy`` file with the rows. The ``.npy``
file is written last: a shard that has it is finished.
"""

from sklearn_cbir.extraction._extract import extract
from sklearn_cbir.extraction._features import FeatureShards, load_features

__all__ = ["FeatureShards", "extract", "load_features"]
