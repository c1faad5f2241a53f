"""Whether two objects are the same: for names of checkpoints, folders of shards, hashes of images.

A fingerprint depends on the content of an object and on its code: the user's own functions and
classes with everything that they name, call and read, equally in every process. It does not depend
on names alone, addresses, line numbers, files of code, or the order of sets. Installed libraries
are identified by name and version.

Objects without a readable content are an error, `Unknown`: compiled or dynamic code, and open
files. Data that code reads from files, from the environment or over a network do not count, except
files whose names are attributes.
"""

from sklearn_cbir._fingerprint._fitted import fitted_parts
from sklearn_cbir._fingerprint._libraries import library_of
from sklearn_cbir._fingerprint._walk import Unknown, fingerprint

KEY_VERSION = 2  # 1 looked at names of classes and at the code of functions alone

__all__ = ["KEY_VERSION", "Unknown", "fingerprint", "fitted_parts", "library_of"]
