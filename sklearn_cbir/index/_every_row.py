"""What engines share that compare a query with every row."""

import copy

import numpy as np


class EveryRow:
    """Rows in the form that `encode` gives, and nothing else; a subclass searches them."""

    name = "exact"
    recall = 1.0
    in_memory = True  # every row, as it is compared

    def build(self, rows):
        """Hold a copy of `rows`, in the form in which they are compared."""
        self.rows = self.encode(rows)
        return self

    @property
    def exact(self):
        """The engine that answers exactly."""
        return self

    def __len__(self):
        return len(self.rows)

    def __getstate__(self):
        state = vars(self).copy()  # another thread may be remembering something
        return {key: value for key, value in state.items() if not key.startswith("_cached")}

    def add(self, rows):
        """Return an engine with `rows` appended."""
        return self._with(np.concatenate([self.rows, self.encode(rows)]))

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        return self._with(np.delete(self.rows, positions, axis=0))

    def as_held(self, queries):
        """Return queries as they would be if they were rows of the gallery."""
        return queries

    def _with(self, rows):
        """Return an engine like this one over other rows."""
        engine = copy.copy(self)  # without what it remembers of its rows
        engine.rows = rows
        return engine
