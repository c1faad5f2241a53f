"""A search over folders of photos that you can keep up to date: `PhotoCollection`.

A collection is a folder with three kinds of files. The table decides which rows are valid::

    collection.sqlite   the table, one line per photo: its place, its facts and its row; and the
                        number of rows
    rows-*.npy          the rows, in segments; rows past that number do not count. They may be on
                        a server instead
    extractor.cbir      the extractor that makes rows of photos

Data flow one way, and one module owns each step::

    folders -> _listing   lists the photos below the roots, with their size and time of change
            -> _sync      finds new, changed, moved and removed photos; embeds only new ones
            -> _photo     reads one file: its hash, its size, when it was taken
            -> _keeper    appends rows, for good: to files of `_segments`, or by `_server` to Milvus
            -> _table     commits their number, and from then on they exist
    query   -> _collection   searches the committed rows with a `NeighborsRetriever`
            -> _where        among the rows that a condition matches
            -> Hit           and names their photos from the table

So a process may die at any moment: all commits are there, and the next process overwrites the rest.
Readers see the last commit. A writer holds the lock of `_lock`, which ends with its process.
"""

from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
