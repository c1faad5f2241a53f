"""Images to feature shards on disk: on many processes or machines, and resumable.

The folder holds ``manifest.json``, which says what was extracted by what, and per shard a ``.json``
file, which says what its rows are, and a ``.npy`` file of rows. The last is written last: a shard
that has it is finished.
"""

from sklearn_cbir.extraction._extract import extract
from sklearn_cbir.extraction._features import FeatureShards, load_features

__all__ = ["FeatureShards", "extract", "load_features"]
