from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

config: Any
errors: Any
types: Any

def njit(**options: Any) -> Callable[[Function], Function]: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
