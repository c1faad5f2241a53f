"""Compiled loops over sorted numbers; imported when first needed."""

from sklearn_cbir._compiled import compiled


@compiled
def place_sorted(ordered, values, before, size):
    """Write how many sorted numbers are smaller than each of sorted `values`, and as large."""
    n = len(ordered)
    smaller = 0
    reached = 0
    for place in range(len(values)):
        value = values[place]
        while smaller < n and ordered[smaller] < value:
            smaller += 1
        reached = max(reached, smaller)
        while reached < n and ordered[reached] == value:
            reached += 1
        before[place] = smaller
        size[place] = reached - smaller
