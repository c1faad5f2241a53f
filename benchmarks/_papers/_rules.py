"""Rules of all tables: which settings are tried, how many seeds, and when a row is better.

A row is better than another only where the 95 % interval of their difference leaves out 0, in a
bootstrap over seeds and queries (over classes where these were never trained on), after Holm's
correction over the comparisons of the table. Else the two are level. In a simulation of rows that
do not differ (three seeds each, which differ by 0.004, and queries with a standard error of
0.0015), 4 % of single comparisons and 3 % of tables of eleven had a verdict; a plain bootstrap
gave one in 11 % and 25 %.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import ParameterGrid, ParameterSampler

N_SETTINGS = 12  # tried for every row
TRIAL = 8  # a trial is this part of a training
LEVEL = 0.05
ROUNDS = 10_000  # of the bootstrap
ROUNDING = 1e-12
AT_ONCE = 2**22  # counts that fill 32 MB


def draw_settings(ranges, n=N_SETTINGS, seed=0):
    """Return `n` settings, or all where there are fewer, as dictionaries of plain values.

    `ranges` has, by name, a list to choose from or a distribution of scipy. Every n-th part of a
    distribution is drawn from once, and every value of a list about equally often, in an order of
    each name's own (a Latin hypercube). So no part of a range is left out, and rows that share a
    parameter share its values. Numbers are rounded to three digits, so that a setting is what the
    table prints.
    """
    if all(isinstance(values, (list, tuple)) for values in ranges.values()):
        n = min(n, len(ParameterGrid(ranges)))
        drawn = ParameterSampler(dict(sorted(ranges.items())), n, random_state=seed)
    else:
        columns = {name: _draw(name, ranges[name], n, seed) for name in sorted(ranges)}
        drawn = [dict(zip(columns, values)) for values in zip(*columns.values())]
    return [{name: _plain(value) for name, value in setting.items()} for setting in drawn]


def _draw(name, values, n, seed):
    """Return `n` values of one parameter."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    order = rng.permutation(n)
    if isinstance(values, (list, tuple)):
        return [values[place % len(values)] for place in order]
    return values.ppf((order + rng.random(n)) / n)


def _plain(value):
    value = value.item() if isinstance(value, np.generic) else value
    return float(f"{value:.3g}") if isinstance(value, float) else value


def trial_epochs(epochs, share=1):
    """Return the epochs of a trial, at least one, each of this share of a training's images."""
    return max(1, round(epochs / TRIAL / share))


def seeds_needed(first, second):
    """Return 5 where the means of two rows are within two spreads, else 3.

    A row is one score per seed, and a spread the larger standard deviation of the two.
    """
    spread = max(np.std(row, ddof=1) for row in (first, second))
    return 5 if abs(np.mean(first) - np.mean(second)) <= 2 * spread else 3


@dataclass(frozen=True)
class Difference:
    """How much higher a row scores than another, its 95 % interval, and p of no difference."""

    mean: float
    low: float
    high: float
    p: float


def bootstrap_difference(row, other, *, classes=None, n=ROUNDS, seed=0):
    """Return the `Difference` of two rows, over resampled seeds and queries.

    A row holds scores of shape (n_seeds, n_queries), or (n_queries,) of one seed. Both have the
    same queries, which are drawn for both at once; seeds are drawn for each alone. With `classes`
    of shape (n_queries,) classes are drawn in the place of queries, with all their queries.

    Three seeds drawn anew differ by too little: their variance is 2/3 of what three seeds tell
    of all, and its own chance is left out. So what drawn seeds differ by from the mean of the row
    is multiplied by the root of n / (n - 1), and by that of degrees of freedom over a draw of
    chi-squared, as in Student's t.
    """
    row, other = _scores(row), _scores(other)
    n_queries = row.shape[1]
    if other.shape[1] != n_queries:
        raise ValueError(f"One row has {n_queries} queries and the other {other.shape[1]}.")
    number = np.arange(n_queries)
    if classes is not None:
        number = np.unique(classes, return_inverse=True)[1]
        if len(number) != n_queries:
            raise ValueError(f"classes has {len(number)} entries for {n_queries} queries.")
    sizes = np.bincount(number)
    sums = [np.stack([np.bincount(number, scores) for scores in of]) for of in (row, other)]
    rng = np.random.default_rng(seed)
    block = max(1, AT_ONCE // len(sizes))
    found = [_resampled(rng, min(block, n - start), sizes, sums) for start in range(0, n, block)]
    differences = np.concatenate(found)
    differences[np.abs(differences) < ROUNDING] = 0  # counts on either side
    low, high = np.percentile(differences, [2.5, 97.5])
    beyond = min((differences <= 0).sum(), (differences >= 0).sum())
    return Difference(
        mean=float(row.mean() - other.mean()),
        low=float(low),
        high=float(high),
        p=float(min(1, 2 * (beyond + 1) / (n + 1))),
    )


def _scores(row):
    row = np.atleast_2d(np.asarray(row, dtype=np.float64))
    if row.ndim != 2 or not row.size or not np.isfinite(row).all():
        raise ValueError("A row must hold finite scores, one per seed and query.")
    return row


def _resampled(rng, n, sizes, sums):
    """Return `n` differences of means; `sums` of both rows have one column per drawn thing."""
    drawn = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=n)
    n_queries = drawn @ sizes
    freedom = sum(len(of_seeds) - 1 for of_seeds in sums)
    wider = np.sqrt(freedom / rng.chisquare(freedom, size=(n, 1))) if freedom else 1.0
    means = []
    for of_seeds in sums:
        n_seeds = len(of_seeds)
        counts = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=n)
        unbiased = np.sqrt(n_seeds / max(1, n_seeds - 1))
        weights = (1 + unbiased * wider * (counts - 1)) / n_seeds
        means.append((weights * (drawn @ of_seeds.T)).sum(axis=1) / n_queries)
    return means[0] - means[1]


def holm(p):
    """Return Holm's adjusted p-values: below a level at most that often for any false one."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def verdict(difference, adjusted):
    """Return "better", "worse" or "level" of a difference and its adjusted p-value."""
    if adjusted > LEVEL or difference.low <= 0 <= difference.high:
        return "level"
    return "better" if difference.mean > 0 else "worse"


def compare_rows(scores, pairs, **bootstrap):
    """Return ``(row, other, Difference, adjusted p, verdict)`` of every pair of a table.

    `scores` are those of `bootstrap_difference`, by name of the row.
    """
    found = [bootstrap_difference(scores[row], scores[other], **bootstrap) for row, other in pairs]
    adjusted = holm([difference.p for difference in found])
    return [
        (*pair, difference, float(p), verdict(difference, p))
        for pair, difference, p in zip(pairs, found, adjusted)
    ]


def verdicts_table(comparisons):
    """Return the comparisons of a table as Markdown."""
    lines = ["| row | against | difference | 95 % | p, Holm | |", "|---" * 6 + "|"]
    for row, other, difference, p, word in comparisons:
        interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
        lines.append(
            f"| {row} | {other} | {difference.mean:+.4f} | {interval} | {p:.4f} | {word} |"
        )
    return "\n".join(lines)
