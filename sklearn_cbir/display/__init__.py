"""Pictures: queries with their results, precision over recall, trainings, maps, duplicates.

A display is computed first and drawn afterwards, so you can draw it again elsewhere. Drawing needs
matplotlib, the extra ``[plot]``, which is loaded only then.
"""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
