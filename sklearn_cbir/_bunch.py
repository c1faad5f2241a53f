"""scikit-learn's `Bunch` to inherit from: for type checkers a dictionary, as it has no types."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:

    class Bunch(dict[str, Any]):
        """A dictionary whose values are also attributes; subclasses declare them."""
else:
    from sklearn.utils import Bunch

__all__ = ["Bunch"]
