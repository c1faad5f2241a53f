"""The mutants of a tree: what cosmic-ray's operators would change, less what is no code."""

import ast
import difflib
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

PACKAGE = "sklearn_cbir"
ROOMS = (
    "metrics",
    "losses",
    "index",
    "model_selection",
    "hashing",
    "sampling.py",
    "_training.py",
    "_batches.py",
    "_plan.py",
    "_devices.py",
    "_checkpoint.py",
)
# Names whose value changes time or memory and no answer, wherever they are assigned.
SPEED_ALONE = {
    "BYTES_AT_ONCE": "block of rows or of photos",
    "BYTES_PER_ANSWER": "block of rows that a server gives",
    "BYTES_PER_PAIR": "guess of memory, which chooses the block",
    "BYTES_PER_WRITE": "block of rows that are sent",
    "BYTES_TO_COPY": "size up to which a transposed copy is kept",
    "BYTES_TO_PREFILTER": "size from which an int8 copy pays",
    "BYTES_TO_STREAM": "size from which rows are read one after the other",
    "CODES_AT_ONCE": "block of queries",
    "DIFFERENCES_AT_ONCE": "block of pairs",
    "EXACT_UP_TO_NUMBERS": "size up to which comparing all is fast enough",
    "EXACT_UP_TO_ROWS": "rows up to which comparing all costs less than an index",
    "FAILURES_IN_A_ROW": "after which the int8 copy is given up",
    "FEW_QUERIES": "queries whose product is transposed instead",
    "FIRST_PAUSE": "seconds between two tries",
    "GRAPH_FROM_ROWS": "rows from which a graph costs less than lists",
    "IDS_TO_FILL": "block of a table",
    "IDS_TO_SCAN_FOR": "ids that are looked up without a table",
    "LINE": "bytes that memory gives at once",
    "LINES_AHEAD": "lines asked for before a row is compared",
    "EDGE_LINES_AHEAD": "lines asked for before edges are followed",
    "BYTES_AT_LEAST": "of a row, from which a code of it takes less time",
    "LONGEST_PAUSE": "seconds between two tries",
    "MAX_ROWS_AT_ONCE": "block of queries",
    "NUMBERS_IN_CACHE": "block of rows",
    "PAIRS_AT_ONCE": "block of pairs",
    "PAIRS_PER_NEIGHBOR": "share of pairs at which a second product pays",
    "PAIRS_PER_THREAD": "work from which a second thread pays",
    "PAIRS_TO_COMPILE": "pairs from which compiled loops are imported",
    "PAIRWISE_UP_TO_ROWS": "rows up to which comparing all costs less than pynndescent",
    "PRODUCTS_PER_THREAD": "work from which a second thread pays",
    "PRODUCTS_TO_TRANSPOSE": "block of a product",
    "QUERIES_AT_LEAST": "queries for which a second product pays",
    "QUERIES_AT_ONCE": "block of queries",
    "QUERIES_BEFORE": "queries before the int8 copy is made",
    "QUERIES_PER_CALL": "block of queries that are sent",
    "QUERIES_TO_PREFILTER": "queries that are worth an int8 copy",
    "ROOM_AT_LEAST": "rows that may be added without a copy",
    "ROOM_SHARE": "rows that may be added without a copy",
    "ROWS": "block of rows",
    "ROWS_AT_LEAST": "rows up to which comparing all costs less than an index",
    "ROWS_AT_ONCE": "block of rows",
    "ROWS_MET": "guess of the work of a query, which chooses the number of threads",
    "ROWS_PER_CALL": "block of rows that are asked for",
    "SECONDS_OF_RETRIES": "seconds that a server is waited for",
    "SECONDS_PER_CALL": "seconds that a server is waited for",
    "SIMILARITIES_AT_ONCE": "block of a product",
    "SPARE": "results beyond k that a server is asked for first, and for more if they do not do",
    "WORDS": "block of words",
}
# Functions that change time and no answer; decorators that do.
SPEED_ALONE_FUNCTIONS = {
    "prefetch_row": "asks memory for a row before it is read",
    "prefetch_edges": "asks memory for edges before they are read",
    "_prefetch": "asks memory",
}
COMPILING = ("compiled", "fast", "inlined")
SPEED_ALONE_DECORATORS = {*COMPILING, "cache", "lru_cache", "functools.cache"}
# Leaves that no operator changes.
LEFT_ALONE = {"name", "newline", "string", "endmarker", "fstring_string"}


@dataclass(frozen=True)
class Mutant:
    """One change of one file: `operator` of cosmic-ray at its `occurrence`-th place."""

    file: str
    operator: str
    occurrence: int
    line: int
    column: int

    @property
    def key(self):
        """A name that tells it from all others of the same tree."""
        return f"{self.file}:{self.line}:{self.column} {self.operator} {self.occurrence}"

    def apply(self, source):
        """Return the changed text of the file."""
        return mutate_code(source, get_operator(self.operator)(), self.occurrence)

    def diff(self, source):
        """Return the changed lines, with three around them."""
        lines = difflib.unified_diff(
            source.splitlines(),
            self.apply(source).splitlines(),
            self.file,
            self.operator.removeprefix("core/"),
            lineterm="",
        )
        return "\n".join(lines)


def files_of(tree, rooms=ROOMS):
    """Return the files of some rooms, relative to the tree."""
    found = []
    for room in rooms:
        path = Path(tree, PACKAGE, room)
        found += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [str(path.relative_to(tree)) for path in found if path.exists()]


def list_mutants(tree, rooms=ROOMS):
    """Return all mutants, in the order of files and places."""
    operators = [(name, get_operator(name)()) for name in operator_names() if _is_plain(name)]
    return [
        mutant
        for file in files_of(tree, rooms)
        for mutant in _of_file(file, Path(tree, file).read_text(), operators)
    ]


def _is_plain(name):
    return not get_operator(name).arguments()


def _of_file(file, source, operators):
    no_code = _Spans(_no_code(ast.parse(source)))
    counts = Counter()
    found = []
    for node in ast_nodes(get_ast(source)):
        if node.type in LEFT_ALONE:
            continue
        for name, operator in operators:
            for start, _ in operator.mutation_positions(node):
                mutant = Mutant(file, name, counts[name], *start)
                counts[name] += 1
                if start not in no_code and not _is_no_operator(name, node):
                    found.append(mutant)
    return sorted(found, key=lambda mutant: (mutant.line, mutant.column))


def _is_no_operator(name, node):
    """Say whether what cosmic-ray changes is a star of a signature, or `==` with a literal text.

    The latter becomes `is`, and equal texts are one object or not as Python likes.
    """
    if node.type == "operator":
        return node.parent.type in ("parameters", "lambdef", "dictorsetmaker", "arglist")
    return name.rpartition("_")[2] in ("Is", "IsNot") and any(
        child.type in ("string", "strings") for child in getattr(node, "children", ())
    )


class _Spans:
    """Places of a file, from (line, column) to (line, column)."""

    def __init__(self, spans):
        merged = []
        for start, end in sorted(spans):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        self.starts = [start for start, _ in merged]
        self.ends = [end for _, end in merged]

    def __contains__(self, place):
        before = bisect_right(self.starts, place) - 1
        return before >= 0 and place < self.ends[before]


def _no_code(module):
    """Yield what no test can hold: annotations, text of messages, `__all__`, speed alone."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef):
            if node.name in SPEED_ALONE_FUNCTIONS:
                yield _span(node)
            arguments = node.args
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            every += [arguments.vararg, arguments.kwarg]
            yield from (_span(a.annotation) for a in every if a is not None and a.annotation)
            if node.returns is not None:
                yield _span(node.returns)
            for decorator in node.decorator_list:
                called = decorator.func if isinstance(decorator, ast.Call) else decorator
                name = ast.unparse(called)
                if name in SPEED_ALONE_DECORATORS or name == "overload":
                    start, end = _span(decorator)
                    yield (start[0], start[1] - 1), end  # with its @
        elif isinstance(node, ast.AnnAssign):
            yield _span(node.annotation)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield _span(node)
        elif isinstance(node, ast.Assign):
            names = {
                part.id
                for target in node.targets
                for part in ast.walk(target)
                if isinstance(part, ast.Name)
            }
            if names & {"__all__", *SPEED_ALONE} or _is_type_alias(node):
                yield _span(node)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            yield from map(_span, [*node.exc.args, *node.exc.keywords])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "warn_user",
            "warnings.warn",
        ):
            yield from map(_span, [*node.args, *node.keywords])
        elif isinstance(node, ast.JoinedStr):
            yield _span(node)


def _is_type_alias(node):
    return isinstance(node.value, ast.Subscript) and ast.unparse(node.value).startswith(
        ("Literal[", "Callable[", "Union[")
    )


def _span(node):
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
