"""The tests that execute the line of a mutant, quickest first."""

import ast
import math
import re
from collections import defaultdict
from pathlib import Path

from _mutations.recording import OF_SIGNATURES

QUICK = 0.3  # seconds of tests that run before all others


class Tests:
    """What was recorded, by file and line.

    `recorded` maps test files to their tests, and those to seconds and lines of every file.
    """

    def __init__(self, tree, recorded):
        self.tree = Path(tree)
        self.seconds = {}
        self.by_line = defaultdict(lambda: defaultdict(set))
        for tests in recorded.values():
            for test, found in tests.items():
                self.seconds[test] = found["seconds"]
                for file, lines in found["lines"].items():
                    for line in lines:
                        self.by_line[file][line].add(test)

    def of(self, mutant, n_done=0, most=None, seconds=math.inf):
        """Return tests that execute the mutant, quickest first, and how long they take.

        The `n_done` quickest are left out, and so are the slowest, beyond `most` tests and
        beyond `seconds` of them.
        """
        found = sorted(self._executing(mutant), key=lambda test: (self.seconds[test], test))
        chosen, total = [], 0.0
        for test in found[n_done:most]:
            if chosen and total + self.seconds[test] > seconds:
                break
            total += self.seconds[test]
            chosen.append(test)
        # File by file where a test is slow, for what it shares with others is made for a file.
        place = {}
        for test in chosen:
            if self.seconds[test] > QUICK:
                place.setdefault(test.partition("::")[0], len(place) + 1)
        chosen.sort(key=lambda test: self.seconds[test] > QUICK and place[test.partition("::")[0]])
        return chosen, total

    def _executing(self, mutant):
        source = (self.tree / mutant.file).read_text()
        module = ast.parse(source)
        path = _path_to(module, mutant.line, mutant.column)
        functions = [node for node in path if isinstance(node, ast.FunctionDef)]
        if functions and mutant.line >= functions[-1].body[0].lineno:
            return self._of_lines(mutant.file, _statement(path))
        if functions:  # a default or a decorator
            of_signatures = {test for test in self.seconds if test.startswith(OF_SIGNATURES)}
            return of_signatures | self._of_function(mutant.file, functions[-1])
        return self._of_names(mutant.file, path, source)

    def _of_lines(self, file, lines):
        return set().union(*(self.by_line[file][line] for line in lines))

    def _of_function(self, file, function):
        return self._of_lines(file, range(function.body[0].lineno, function.end_lineno + 1))

    def _of_names(self, file, path, source):
        """Tests of lines in functions that name what is assigned outside of them."""
        names = set()
        for node in path:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        found = set()
        if names:
            pattern = re.compile(rf"\b({'|'.join(names)})\b")
            for other in list(self.by_line):
                text = (self.tree / other).read_text()
                if pattern.search(text):
                    inside = _lines_in_functions(ast.parse(text))
                    lines = [
                        n for n, line in enumerate(text.splitlines(), 1) if pattern.search(line)
                    ]
                    found |= self._of_lines(other, inside & set(lines))
        return found or self._of_lines(file, _lines_in_functions(ast.parse(source)))


def _path_to(module, line, column):
    """Return the nodes that hold a place, from the outside in."""
    path, node = [], module
    while node is not None:
        path.append(node)
        node = next((n for n in ast.iter_child_nodes(node) if _holds(n, line, column)), None)
    return path


def _holds(node, line, column):
    if not hasattr(node, "lineno"):
        return any(_holds(child, line, column) for child in ast.iter_child_nodes(node))
    start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return start <= line <= node.end_lineno
    end = (node.end_lineno, node.end_col_offset)
    return (node.lineno, node.col_offset) <= (line, column) < end


def _statement(path):
    """Return the lines of the innermost statement, of which only the head where it has a body."""
    statement = next(
        node for node in reversed(path) if isinstance(node, (ast.stmt, ast.excepthandler))
    )
    last = statement.end_lineno
    if getattr(statement, "body", None):
        last = max(statement.lineno, statement.body[0].lineno - 1)
    return range(statement.lineno, last + 1)


def _lines_in_functions(module):
    return {
        line
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef)
        for line in range(node.body[0].lineno, node.end_lineno + 1)
    }
