from collections.abc import Callable
from typing import Any, Self, TypeVar

Method = TypeVar("Method", bound=Callable[..., Any])

def with_callbacks(method: Method) -> Method: ...

class CallbackSupportMixin:
    def set_callbacks(self, *callbacks: object) -> Self: ...
    def _init_callback_context(self, *arguments: Any, **options: Any) -> Any: ...
