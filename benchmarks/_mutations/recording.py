"""Which test executes which line, and how long it takes: recorded file by file, once."""

import contextlib
import os
import signal
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

import pytest

# Test files that are not run, with the reason.
LEFT_OUT = {
    "test_backbones": "networks, which are none of the rooms",
    "test_datasets": "reading data",
    "test_datasets_papers": "reading data",
    "test_descriptors": "none of the rooms",
    "test_display": "drawing",
    "test_duplicates_display": "drawing",
    "test_distribution": "what is uploaded",
    "test_docs": "whole pages, minutes",
    "test_examples": "whole scripts, minutes",
    "test_extraction": "files of rows that networks made",
    "test_extraction_faults": "files of rows that networks made",
    "test_files": "modes of files",
    "test_fingerprint": "names of objects",
    "test_folders": "reading folders",
    "test_html": "drawing",
    "test_images": "reading images",
    "test_images_formats": "reading images",
    "test_images_inputs": "reading images",
    "test_layers": "looks at the text of the package",
    "test_mutations": "looks at the benchmarks",
    "test_names": "reading folders",
    "test_near_duplicates_benchmark": "looks at the benchmarks",
    "test_out_of_reach": "reading folders",
    "test_papers": "whole tables, minutes",
    "test_processes": "in processes of its own, where nothing is recorded",
    "test_readable": "reading images",
    "test_search_benchmark": "looks at the benchmarks",
    "test_types": "looks at the text of the package",
    "test_workers": "in processes of its own, where nothing is recorded",
}
DOCTESTS = "sklearn_cbir"  # one run for the examples of all docstrings
# Tests that compare defaults with what is documented.
OF_SIGNATURES = "tests/test_public_api.py::test_documented_defaults"
# Test files that run the compiled loops as Python; in others they would take minutes.
OF_LOOPS = ("test_graph", "test_linking", "test_metrics", "test_screen")
SECONDS_UNCOMPILED = 2  # of one of their tests


# Of every run: nothing of the options that contributors run with, no plugins, nothing remembered.
OPTIONS = (
    *("-q", "-o", "addopts=", "-p", "no:cacheprovider", "--tb=short", "--no-header"),
    *("--doctest-modules", "--strict-markers"),
)


def find_test_files(tree, pattern="*"):
    """Return the test files of a tree that are run, of those that match."""
    names = sorted(path.stem for path in Path(tree, "tests").glob("test_*.py"))
    files = [DOCTESTS, *(f"tests/{name}.py" for name in names if name not in LEFT_OUT)]
    return [
        file for file in files if any(fnmatch(Path(file).stem, part) for part in pattern.split())
    ]


def processor_time():
    """Seconds of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Recorder:
    """Plugin of pytest that tells tests, and what they share, apart in the coverage."""

    def __init__(self, coverage, seconds_at_most=None):
        self.coverage = coverage
        self.seconds_at_most = seconds_at_most
        self.seconds, self.fixtures, self.failed = {}, {}, set()
        self.contexts = [""]

    @contextlib.contextmanager
    def context(self, name):
        self.contexts.append(name)
        self.coverage.switch_context(name)
        try:
            yield
        finally:
            self.contexts.pop()
            self.coverage.switch_context(self.contexts[-1])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item, nextitem):
        start = processor_time()
        if self.seconds_at_most:
            signal.signal(signal.SIGPROF, _give_up)
            signal.setitimer(signal.ITIMER_PROF, self.seconds_at_most)
        with self.context(item.nodeid):
            result = yield
        signal.setitimer(signal.ITIMER_PROF, 0)
        self.seconds[item.nodeid] = processor_time() - start
        self.fixtures[item.nodeid] = item.fixturenames
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        if fixturedef.scope == "function":
            return (yield)
        with self.context(f"fixture {fixturedef.argname}"):
            return (yield)

    def pytest_runtest_logreport(self, report):
        if not report.passed:
            self.failed.add(report.nodeid)


def _give_up(*_):
    raise TimeoutError("not compiled, this takes too long")


def record(file, tree, only=None):
    """Run one test file in this process; return its tests: seconds and lines of every file.

    Lines of `only` some files are recorded where it is given, and their loops run uncompiled.
    """
    from coverage import Coverage

    if only:
        leave_uncompiled()
        where = {"include": [f"{tree}/{name}" for name in only]}
    else:
        where = {"source": [f"{tree}/sklearn_cbir"]}
    coverage = Coverage(data_file=None, config_file=False, messages=False, **where)
    recorder = Recorder(coverage, SECONDS_UNCOMPILED if only else None)
    coverage.start()
    pytest.main(
        [file, *OPTIONS, "-m", f"not slow and not nightly{' and not ann' if only else ''}"],
        [recorder],
    )
    coverage.stop()
    return _tests(recorder, coverage.get_data(), tree)


def _tests(recorder, data, tree):
    """Return the tests that passed: seconds and lines, those of what they share too."""
    lines = defaultdict(lambda: defaultdict(set))
    for path in data.measured_files():
        for line, contexts in data.contexts_by_lineno(path).items():
            for context in contexts:
                lines[context][os.path.relpath(path, tree)].add(line)
    tests = {}
    for test in recorder.seconds.keys() - recorder.failed:
        shared = [f"fixture {name}" for name in recorder.fixtures[test]]
        together = defaultdict(set)
        for context in (test, *shared):
            for file, found in lines.get(context, {}).items():
                together[file] |= found
        tests[test] = {
            "seconds": round(recorder.seconds[test], 3),
            "lines": {file: sorted(found) for file, found in together.items()},
        }
    return tests


def leave_uncompiled():
    """Let loops of the package run as Python; to be called before it is imported."""
    import numba

    def as_it_is(function=None, **options):
        return as_it_is if function is None else function

    numba.njit = as_it_is
    numba.extending.intrinsic = lambda function: lambda *arguments: None  # asks memory, at most


class Chosen:
    """Plugin of pytest: these tests in this order, and which of them failed."""

    def __init__(self, tests):
        self.place = {test: number for number, test in enumerate(tests)}
        self.failed = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        chosen = [item for item in items if item.nodeid in self.place]
        items[:] = sorted(chosen, key=lambda item: self.place[item.nodeid])

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed = f"collection of {report.nodeid}"

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed = report.nodeid


def run_tests(tests, uncompiled):
    """Return the first of the tests that fails, or None."""
    if not tests:
        return None
    if uncompiled:
        leave_uncompiled()
    chosen = Chosen(tests)
    files = dict.fromkeys(test.partition("::")[0] for test in tests)
    status = pytest.main([*files, "-x", *OPTIONS], [chosen])
    return chosen.failed or (None if status == 0 else f"pytest ended with {int(status)}")
