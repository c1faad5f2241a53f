from sklearn_cbir.model_selection._folds import ClassDisjointKFold as ClassDisjointKFold
from sklearn_cbir.model_selection._protocols import (
    PROTOCOLS as PROTOCOLS,
    split_protocol as split_protocol,
)
from sklearn_cbir.model_selection._scorer import retrieval_scorer as retrieval_scorer
