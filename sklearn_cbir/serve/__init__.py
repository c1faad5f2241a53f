"""A local page and a JSON interface over a collection: `create_app` and `run`.

Data flow one way, and one module owns each step::

    request -> _guard     may it ask: Host, Origin, token; and what every answer carries
            -> _app       which address it is, and what is read of its body
            -> _query     a body of JSON, checked
            -> _search    asks the `PhotoCollection`, one call at a time, off the event loop
            -> _catalog   what is known of all photos, read once for every version
            -> _pictures  photos are decoded by two workers, and leave without EXIF
    upload  -> _uploads   kept in memory, so much and no more
    sync    -> _jobs      work in a thread of its own, with a connection of its own

The extra ``serve`` brings what it needs; ``/health`` alone asks for no token.
"""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
