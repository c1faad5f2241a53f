from sklearn_cbir.index._engines import ENGINES as ENGINES, choose_algorithm as choose_algorithm
