from sklearn_cbir.codes._packing import pack_codes as pack_codes, unpack_codes as unpack_codes
from sklearn_cbir.codes._search import (
    HammingDistances as HammingDistances,
    hamming_distances as hamming_distances,
    hamming_radius as hamming_radius,
    hamming_top_k as hamming_top_k,
)
