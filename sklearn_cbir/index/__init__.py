"""Search engines: rows in, distances and positions out; no labels, no ids, no torch.

An engine is made by ``ENGINES[algorithm](metric, **options)`` and has

- ``build(rows)``: hold a copy of `rows` as the gallery and return the engine;
- ``encode(rows)``: rows in the form in which the engine compares them; every
  query passes through it once, the gallery in this form is ``rows``;
- ``query(queries, k)``: the `k` nearest as ``(distances, positions)``, each
  of shape (n_queries, k), nearest first, equal distances by position;
- ``query_radius(queries, radii)``: all within a radius, one for all queries or one for each,
  as two lists of arrays;
- ``distances(queries)``: exact distances to the whole gallery, for scoring;
- ``cut_off(k)``, where reading the whole gallery is dear: an engine whose ``distances``
  are infinite beyond the `k`-th nearest row and its ties, for metrics of the first `k`;
  and ``block_size``, how many queries to ask for at once;
- ``add(rows)`` and ``remove(positions)``: a new engine with the rows appended
  or taken out; later positions move up;
- ``relocate(place)``: an engine whose rows, if they are in a file or on a server,
  are found at another place; None if they are in memory;
- ``exact``: an engine over the same rows that answers exactly, whose
  ``metric`` names the distance; ``name``: the algorithm that answers;
  ``recall``: the share of true neighbors it finds.

Engines are never changed after `build`, so that a search that runs while
another thread adds rows sees one consistent gallery. Engines that follow each
other share memory: arrays grow into room behind them that no earlier one sees.
"""

from sklearn_cbir._kinds import of_kind  # noqa: F401, pickles look for it here
from sklearn_cbir._lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__)
