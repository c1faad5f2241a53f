"""What engines share that compare a query with every row."""

from sklearn_cbir._kinds import Kept
from sklearn_cbir.index._growing import append, delete


class EveryRow(Kept):
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
        room = vars(self).get("_cached_room")
        return self._grown(*append(self.rows, self.encode(rows), room))

    def remove(self, positions):
        """Return an engine without the rows at `positions`."""
        return self._grown(*delete(self.rows, positions))

    def relocate(self, place):
        """Return an engine whose rows are in another place; None if they are in memory."""
        return None

    def as_held(self, queries):
        """Return queries as they would be if they were rows of the gallery."""
        return queries

    def _grown(self, rows, room):
        """Return an engine like this one over other rows, which have room behind them."""
        engine = self._with(rows)
        engine._cached_room = room
        return engine

    def _with(self, rows):
        """Return an engine like this one over other rows."""
        engine = object.__new__(type(self))
        vars(engine).update(self.__getstate__(), rows=rows)  # without what is remembered of others
        return engine
