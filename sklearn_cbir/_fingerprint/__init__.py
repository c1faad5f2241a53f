"""Whether two things are the same: for names of checkpoints, folders of shards, hashes of images.

A fingerprint follows from what a thing holds and from what its code says: functions and classes of
the user's own with everything that they name, call and read, in whatever process. It follows
neither from names alone, nor from addresses, line numbers, files of code, or the order of sets.
Code of installed libraries is known by their name and version.

What cannot be known is an error, `Unknown`: compiled or dynamic code and open files say nothing
about themselves. What code reads from files, from the environment or over a network is not looked
at, but for files whose names are attributes.
"""

from sklearn_cbir._fingerprint._fitted import fitted_parts
from sklearn_cbir._fingerprint._libraries import library_of
from sklearn_cbir._fingerprint._walk import Unknown, fingerprint

KEY_VERSION = 2  # 1 looked at names of classes and at the code of functions alone

__all__ = ["KEY_VERSION", "Unknown", "fingerprint", "fitted_parts", "library_of"]
