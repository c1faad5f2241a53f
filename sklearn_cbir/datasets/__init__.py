"""Images with labels: any folder, data sets as they are distributed, and drawn shapes.

Nothing is downloaded. Loaders return paths; estimators read the images.
"""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
