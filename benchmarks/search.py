"""The search engines beside faiss, hnswlib, scikit-learn, torch and numpy, as ratios in one run.

    python benchmarks/search.py [TASK ...] [--data FILE] [--out FOLDER] [--plots FOLDER]

Tasks: codes, floats, scoring, approximate, process, scale; all of them if none is named. All
engines of a cell are called in turns, one thread each, and the ratio is that of their medians of
processor time, which other work on the machine disturbs least; `--threads 2` takes more, and wall
time. Every finished cell is written to OUT/search.json and not run again, so that a run that was
cut off goes on; `--sets "tight clusters 60000 x 512"` runs some sets of the approximate engines
alone, and `--peers hnswlib faiss` leaves out the others. The tables are printed and written to
OUT/search.md. DATA is CIFAR-10 as one file of JPEG streams, whose principal components are
searched too. What is not installed is left out.
"""

import argparse
import importlib
from pathlib import Path

from _data import Cells
from _search.timing import find_peers, set_threads

TASKS = {
    "codes": "Exact search of codes",
    "floats": "Exact search of floats",
    "scoring": "Scores of whole rankings",
    "approximate": "Approximate search",
    "process": "Start and memory",
    "scale": "100 million rows, on paper and simulated",
}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--data", help="CIFAR-10, for the approximate engines")
    parser.add_argument("--out", default="search_benchmark", help="folder of what is finished")
    parser.add_argument("--plots", help="folder for plots of the cells")
    parser.add_argument("--threads", type=int, default=1, help="of every engine")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sets", nargs="+", help="of the approximate engines; all if not given")
    parser.add_argument("--peers", nargs="+", help="that are compared; all that are installed")
    parser.add_argument("--quick", action="store_true", help="small galleries only")
    options = parser.parse_args(arguments)
    unknown = set(options.tasks) - set(TASKS)
    if unknown:
        parser.error(f"There is no task {min(unknown)!r}. Tasks: {', '.join(TASKS)}.")
    options.peers = find_peers(options.peers)
    set_threads(options.threads, options.peers)
    cells = Cells(Path(options.out) / "search.json")
    sections = []
    for task in options.tasks or TASKS:
        table = importlib.import_module(f"_search.{task}").run(cells, options)
        sections.append(f"## {TASKS[task]}\n\n{table}\n")
        (Path(options.out) / "search.md").write_text("\n".join(sections))
    print("\n" + "\n".join(sections))
    if options.plots:
        from _search import plots

        plots.draw(cells.cells, Path(options.plots))


if __name__ == "__main__":
    main()
