from typing import Any

# What is compiled is called without the typing context that its Python code takes.
def intrinsic(function: Any) -> Any: ...
