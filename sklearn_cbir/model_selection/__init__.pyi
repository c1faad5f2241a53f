from sklearn_cbir.model_selection._folds import ClassDisjointKFold as ClassDisjointKFold
from sklearn_cbir.model_selection._protocols import (
    PROTOCOLS as PROTOCOLS,
    split_protocol as split_protocol,
)
from sklearn_cbir.model_selection._scorer import retrieval_scorer as retrieval_scorer
from sklearn_cbir.model_selection._tuning import (
    split_group_folds as split_group_folds,
    split_multilabel as split_multilabel,
    split_unseen_products as split_unseen_products,
)
