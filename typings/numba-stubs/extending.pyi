from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

Arguments = ParamSpec("Arguments")

# Numba itself passes the first argument, the typing context; what compiled code calls has the rest.
def intrinsic(
    function: Callable[Concatenate[Any, Arguments], Any],
) -> Callable[Arguments, Any]: ...
def overload(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]: ...
