"""Plots of cost against rows, bits or numbers, results, and queries per call."""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

CODES = {
    "rows": ("n", {"bits": 64, "queries": 100, "k": 10}),
    "bits": ("bits", {"n": 60_000, "queries": 100, "k": 10}),
    "results k": ("k", {"n": 60_000, "bits": 64, "queries": 100}),
    "queries per call": ("queries", {"n": 60_000, "bits": 64, "k": 10}),
}
FLOATS = {
    "rows": ("n", {"d": 64, "metric": "cosine", "queries": 100, "k": 10}),
    "numbers per row": ("d", {"n": 10_000, "metric": "cosine", "queries": 100, "k": 10}),
    "results k": ("k", {"n": 60_000, "d": 64, "metric": "cosine", "queries": 100}),
    "queries per call": ("queries", {"n": 60_000, "d": 64, "metric": "cosine", "k": 10}),
}


def draw(cells, folder):
    """Write a figure for codes and one for floats."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, panels in (("codes", CODES), ("floats", FLOATS)):
        found = [cell for key, cell in cells.items() if key.startswith(name)]
        if found:
            _figure(found, panels).savefig(folder / f"search_{name}.png", dpi=80)
            print(f"{folder / f'search_{name}.png'} is written.")


def _figure(cells, panels):
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    for ax, (label, (variable, fixed)) in zip(axes.flat, panels.items()):
        chosen = [
            cell for cell in cells if all(cell.get(name) == value for name, value in fixed.items())
        ]
        chosen.sort(key=lambda cell: cell[variable])
        for engine in sorted({engine for cell in chosen for engine in cell["ms"]}):
            points = [
                (cell[variable], cell["ms"][engine] / cell["queries"] * 1e3)
                for cell in chosen
                if engine in cell["ms"]
            ]
            ax.plot(*zip(*points), marker="o", markersize=4, label=engine)
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="us per query")
        ax.grid(alpha=0.3)
        if chosen:
            ax.legend(fontsize=8)
    return figure
