"""The search engines beside others, one module a task; `benchmarks/search.py` runs them."""
