"""Compiled loops that link one row after the other into a graph; imported when needed."""

import numpy as np

from sklearn_cbir._compiled import compiled, fast
from sklearn_cbir.index._graph_kernels import square


@compiled
def spanning_tree(starts, edges, entry_points):
    """Return for every node one that leads to it, on a way from an entry point; -1 for those."""
    n = len(starts) - 1
    parents = np.full(n, -1, dtype=np.int32)
    reached = np.zeros(n, dtype=np.bool_)
    waiting = np.empty(n, dtype=np.int64)
    size = done = 0
    for node in entry_points:
        if not reached[node]:
            reached[node] = True
            waiting[size] = node
            size += 1
    while done < size:
        node = waiting[done]
        done += 1
        for other in edges[starts[node] : starts[node + 1]]:
            if not reached[other]:
                reached[other] = True
                parents[other] = node
                waiting[size] = other
                size += 1
    return parents


@compiled
def unused_place(starts, edges, head):
    """Return the first place of a node that holds itself, -1 if there is none."""
    place = starts[head + 1]
    while place > starts[head] and edges[place - 1] == head:
        place -= 1
    return place if place < starts[head + 1] else -1


@fast
def is_hidden(rows, indexed, node, far, kept):
    """Say whether a kept node is nearer to `node` than the square `far`."""
    for near in kept:
        if indexed[near] >= 0 and square(rows[indexed[near]], rows[indexed[node]]) < far:
            return True
    return False


@fast
def add_edge(rows, indexed, starts, edges, parents, head, node, is_sure):
    """Add an edge from `head` to `node`, and say whether it is there now.

    If no place is left, the edges of `head` are pruned, and the new one with them: an edge goes if
    another node that stays is nearer to its end than `head` is. An edge of the tree stays, and so
    does the new one if it `is_sure`, unless all places have edges of the tree.
    """
    place = unused_place(starts, edges, head)
    if place >= 0:
        edges[place] = node
        return True
    start, n_places = starts[head], starts[head + 1] - starts[head]
    others = np.empty(n_places + 1, dtype=np.int32)
    others[:n_places], others[n_places] = edges[start : start + n_places], node
    stays = np.empty(n_places + 1, dtype=np.bool_)
    squares = np.full(n_places + 1, np.inf, dtype=rows.dtype)  # so are those of removed rows
    n_to_stay = 0
    for item in range(n_places + 1):
        other = others[item]
        stays[item] = is_sure if item == n_places else parents[other] == head
        n_to_stay += stays[item]
        if indexed[other] >= 0:
            squares[item] = square(rows[indexed[head]], rows[indexed[other]])
    if n_to_stay > n_places:
        return False
    kept = np.empty(n_places, dtype=np.int32)
    size, is_there = 0, False
    for item in np.argsort(squares):
        other, wanted = others[item], stays[item]
        if not wanted and indexed[other] >= 0 and size + n_to_stay < n_places:
            wanted = not is_hidden(rows, indexed, other, squares[item], kept[:size])
        if wanted:
            n_to_stay -= stays[item]
            kept[size] = other
            size += 1
            is_there |= other == node
    edges[start : start + size] = kept[:size]
    edges[start + size : start + n_places] = head
    return is_there


@fast
def link(rows, indexed, starts, edges, parents, node, near, squares, degree, alpha):
    """Give a new node edges to some of the nodes near it, nearest first, and edges back.

    A node is left out if a chosen one is nearer to it than the new one is by the factor `alpha`, in
    squares. The tree gets an edge to the new node. If no node takes one, nothing is changed.
    Returns whether it is linked.
    """
    start, size = starts[node], 0
    for item in range(len(near)):
        wanted = near[item] >= 0
        for place in range(start, start + size):
            between = square(rows[indexed[edges[place]]], rows[indexed[near[item]]])
            if alpha * between < squares[item]:
                wanted = False
                break
        if wanted:
            edges[start + size] = near[item]
            size += 1
            if size == degree:
                break
    parent = -1
    for head in edges[start : start + size]:
        if add_edge(rows, indexed, starts, edges, parents, head, node, parent < 0) and parent < 0:
            parent = head
    if parent < 0:
        for head in near:
            if head >= 0 and add_edge(rows, indexed, starts, edges, parents, head, node, True):
                parent = head
                break
    if parent < 0:
        edges[start : start + size] = node
    parents[node] = parent
    return parent >= 0


@fast
def compare(rows, indexed, queries, n_nodes, start, stop, nearest):
    """Take the squared distances of the nodes from `start` to `stop` into the `nearest`, sorted.

    `nearest` is (n_queries, k). Query i is compared with the first ``n_nodes[i]`` nodes only.
    """
    last = nearest.shape[1] - 1
    for node in range(start, stop):
        if indexed[node] < 0:
            continue
        row = rows[indexed[node]]
        for i in range(len(queries)):
            if node < n_nodes[i]:
                between = square(queries[i], row)
                if between < nearest[i, last]:
                    place = last
                    while place > 0 and nearest[i, place - 1] > between:
                        nearest[i, place] = nearest[i, place - 1]
                        place -= 1
                    nearest[i, place] = between


@fast
def is_far(rows, indexed, starts, edges, node, far, share):
    """Say whether a `share` of the edges of a node are shorter than the square `far`."""
    n_edges = n_shorter = 0
    for other in edges[starts[node] : starts[node + 1]]:
        if other != node and other < len(indexed) and indexed[other] >= 0:
            n_edges += 1
            n_shorter += square(rows[indexed[node]], rows[indexed[other]]) < far
    return n_shorter >= share * n_edges
