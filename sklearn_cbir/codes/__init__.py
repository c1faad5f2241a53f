"""Binary codes: pack them into 64-bit words and search them by Hamming distance, exactly."""

from sklearn_cbir._validation import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "_packing": ["pack_codes", "unpack_codes"],
        "_search": ["HammingDistances", "hamming_distances", "hamming_radius", "hamming_top_k"],
    },
)
