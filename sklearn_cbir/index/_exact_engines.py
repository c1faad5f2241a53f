"""The engines that compare every query with every row: one for each metric and storage."""

from sklearn_cbir.index._engine import EngineFamily
from sklearn_cbir.index._exact import CosineEngine, EuclideanEngine
from sklearn_cbir.index._hamming import HammingEngine
from sklearn_cbir.index._stored import StoredCosineEngine, StoredEuclideanEngine

EXACT = EngineFamily(
    CosineEngine, EuclideanEngine, HammingEngine, StoredCosineEngine, StoredEuclideanEngine
)
