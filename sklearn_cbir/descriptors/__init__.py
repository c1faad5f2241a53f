"""Classical image descriptors: images to feature rows or codes, without training."""

from sklearn_cbir.descriptors._gist import GISTDescriptor
from sklearn_cbir.descriptors._perceptual_hash import PerceptualHash

__all__ = ["GISTDescriptor", "PerceptualHash"]
