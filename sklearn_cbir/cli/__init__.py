"""The command line `cbir`: a folder of photos as a search, without Python.

Data flow one way, and one module owns each step::

    arguments -> _parser      finds the command and its options
              -> _place       finds the index
              -> _query       reads the query: a photo or words, and conditions on photos
              -> _extractors  makes the extractor of a new index
              -> _commands    runs the command, with `PhotoCollection`
              -> _printing    prints results to standard output, all else to standard error
              -> _main        turns errors, interruptions and closed pipes into exit codes

Modules are imported only when they are needed, so help comes at once.
"""

from sklearn_cbir.cli._main import main

__all__ = ["main"]
