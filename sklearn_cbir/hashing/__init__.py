"""Hashers: images or features to binary codes, uint8 {0, 1} of shape (n, n_bits)."""

from sklearn_cbir._validation import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "_base": ["HasherMixin"],
        "_bre": ["BREHasher"],
        "_cca_itq": ["CCAITQHasher"],
        "_deep": ["DeepHasher"],
        "_itq": ["ITQHasher"],
        "_ksh": ["KSHHasher"],
        "_lsh": ["LSHHasher"],
        "_mlh": ["MLHHasher"],
        "_spectral": ["SpectralHasher"],
    },
)
