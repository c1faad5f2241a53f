"""The comparisons of the papers, one module a family; `benchmarks/papers.py` runs them."""
