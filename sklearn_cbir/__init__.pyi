from sklearn_cbir import (
    backbones as backbones,
    cli as cli,
    codes as codes,
    collection as collection,
    datasets as datasets,
    descriptors as descriptors,
    display as display,
    duplicates as duplicates,
    embedding as embedding,
    export as export,
    extraction as extraction,
    features as features,
    hashing as hashing,
    images as images,
    index as index,
    losses as losses,
    metrics as metrics,
    model_selection as model_selection,
    neighbors as neighbors,
    onnx_extractor as onnx_extractor,
    persistence as persistence,
    pooling as pooling,
    reranking as reranking,
    sampling as sampling,
    serve as serve,
    testing as testing,
    whitening as whitening,
)
from sklearn_cbir.embedding import CPFEmbedder as CPFEmbedder
from sklearn_cbir.export import to_onnx as to_onnx
from sklearn_cbir.features import CNNFeatureExtractor as CNNFeatureExtractor
from sklearn_cbir.hashing import DeepHasher as DeepHasher
from sklearn_cbir.images import Text as Text
from sklearn_cbir.neighbors import NeighborsRetriever as NeighborsRetriever
from sklearn_cbir.onnx_extractor import OnnxExtractor as OnnxExtractor

__version__: str
