"""Images with labels: any folder, data sets as they are distributed, and drawn shapes.

Nothing is downloaded, and paths stay paths until an estimator reads them.
"""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
