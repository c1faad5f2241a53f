"""A local page and a JSON interface over a collection: `create_app` and `run`.

Data flow one way, and one module owns each step::

    request -> _guard     checks Host, Origin and token; adds the headers of every answer
            -> _app       finds the function of the address, and reads the body
            -> _query     checks a JSON body
            -> _search    calls the `PhotoCollection`, one call at a time, off the event loop
            -> _catalog   holds facts about all photos, read once per version
            -> _pictures  decodes photos in two workers, and sends them without EXIF
    upload  -> _uploads   keeps uploads in memory, up to a limit
    sync    -> _jobs      works in its own thread, with its own connection

The extra ``serve`` installs its packages. Only ``/health`` needs no token.
"""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
