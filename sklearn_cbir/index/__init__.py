"""Search engines: rows in, distances and positions out; no labels, no ids, no torch.

``ENGINES[algorithm](metric, **options)`` makes one; `_engine.Engine` declares the methods of all.
"""

from sklearn_cbir._kinds import of_kind  # noqa: F401, pickles look for it here
from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
