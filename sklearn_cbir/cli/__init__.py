"""The command line `cbir`: a folder of photos as a search, without Python.

Data flow one way, and one module owns each step::

    words of the shell -> _parser      which command, with which options
                       -> _place       where the index is
                       -> _query       what is asked: a photo or words, among which photos
                       -> _extractors  what makes rows of photos, for a new index
                       -> _commands    what is done, by `PhotoCollection`
                       -> _printing    results on standard output, all else on standard error
                       -> _main        errors, interruptions and closed pipes become exit codes

Nothing is imported before it is needed, so that help comes at once.
"""

from sklearn_cbir.cli._main import main

__all__ = ["main"]
