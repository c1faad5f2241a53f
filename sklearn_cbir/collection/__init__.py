"""A folder of photos as a search that keeps up with it: `PhotoCollection`.

A collection is a folder that holds three kinds of things. Each says what the next may be trusted
for::

    collection.sqlite   one line per photo: where it is, what it is, which row is its own; and how
                        many rows there are
    rows-*.npy          the rows, in segments; what is past that number is not there. They may be
                        on a server instead
    extractor.cbir      what makes rows of photos

Data flow one way, and one module owns each step::

    folders -> _listing   which photos lie below the roots, with their size and time of change
            -> _sync      what is new, changed, moved and gone; only what is new is embedded
            -> _photo     what is in one file: its hash, its size, when it was taken
            -> _keeper    rows are written behind the others and kept for good: in files of
                          `_segments`, or by `_server` in Milvus
            -> _table     and exist from the commit on that counts them
    query   -> _collection   rows that are counted are searched by a `NeighborsRetriever`
            -> _where        of those that a condition leaves in
            -> Hit           and photos are named by the table

So whatever moment a process dies at, what was committed is there, and what was not is written over
by the next one. Whoever reads sees the last commit. Whoever writes holds the lock of `_lock`, which
dies with its process.
"""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
