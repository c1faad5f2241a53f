"""The house stays in order: imports point one way, files stay short, heavy libraries load late."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import sklearn_cbir

ROOT = Path(sklearn_cbir.__file__).parent
ORDER = [
    "_lazy",
    "_typing",
    "_bunch",
    "_unwrapped",
    "_validation",
    "_threads",
    "_compiled",
    "_labels",
    "_files",
    "_locks",
    "_loops",
    "_kinds",
    "_onnx_file",
    "_fingerprint",
    "_randomness",
    "codes",
    "metrics",
    "model_selection",
    "images",
    "_html",
    "descriptors",
    "onnx_extractor",
    "datasets",
    "losses",
    "pooling",
    "backbones",
    "sampling",
    "_devices",
    "_workers",
    "_module_state",
    "_hidden_state",
    "_checkpoint",
    "_forward",
    "_network",
    "_words",
    "_plan",
    "_batches",
    "_runtimes",
    "_training",
    "_going_on",
    "_base",
    "features",
    "embedding",
    "hashing",
    "export",
    "whitening",
    "extraction",
    "reranking",
    "index",
    "neighbors",
    "duplicates",
    "_saved_modules",
    "persistence",
    "collection",
    "serve",
    "display",
    "testing",
    "cli",
    "__main__",
    "__init__",
]
# Families whose private rooms others may enter, and who those are. What trains networks is one
# family in many files; the rest are two families that do one thing.
TRAINING = {
    "_batches",
    "_module_state",
    "_training",
    "_network",
    "_words",
    "_plan",
    "_going_on",
    "_base",
    "features",
    "embedding",
    "hashing",
}
ENTERED_BY = {
    # Who tell faults of images.
    "images": TRAINING
    | {
        "descriptors",
        "onnx_extractor",
        "extraction",
        "duplicates",
        "collection",
        "serve",
        "display",
    },
    "datasets": {"collection"},  # who lists folders
    "extraction": {"collection"},  # who makes rows of what can be read
    "losses": TRAINING,
    "backbones": TRAINING,
    "codes": {"metrics", "index"},  # the loops that search codes count them, and leave some out
    "metrics": {"index", "model_selection"},  # who score
    "index": {"neighbors", "duplicates", "collection"},  # the faces of the engines
}
FILES = sorted(ROOT.rglob("*.py"))
LINES_OF_CODE = 550  # of one file, without docstrings, comments and blank lines
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
HEAVY = [
    *("torch", "torchvision", "skorch", "pynndescent", "numba", "matplotlib", "onnxruntime"),
    "openvino",
]
LIGHT_IMPORTS = [
    "import sklearn_cbir",
    "from sklearn_cbir import NeighborsRetriever",
    "from sklearn_cbir.codes import hamming_top_k",
    "from sklearn_cbir.metrics import mean_average_precision",
    "from sklearn_cbir.model_selection import retrieval_scorer",
    "from sklearn_cbir.datasets import make_shapes",
    "from sklearn_cbir.display import RetrievalDisplay",
    "from sklearn_cbir.reranking import RERANKERS",
    "from sklearn_cbir.whitening import LearnedWhitening",
    "from sklearn_cbir.persistence import load",
    "from sklearn_cbir.collection import PhotoCollection",
    "from sklearn_cbir.extraction import load_features",
    "from sklearn_cbir import OnnxExtractor",
    "from sklearn_cbir.duplicates import NearDuplicates",
    "from sklearn_cbir.cli import main",
    "from sklearn_cbir.cli._commands import COMMANDS",
]


def _count_code(source):
    """Count the lines that are neither blank nor of a docstring or a comment."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def _name(path):
    return str(path.relative_to(ROOT))


def _family(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _misplaced_imports(source, allowed):
    """Return the lines of `source` that import from this package in a way the house forbids."""
    bad = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            fine = not any(name.name.split(".")[0] == "sklearn_cbir" for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".")
            ours = module[0] == "sklearn_cbir"
            fine = node.level == 0 and (not ours or (len(module) > 1 and module[1] in allowed))
        else:
            continue
        if not fine:
            bad.append(node.lineno)
    return bad


def _imported_packages(source):
    """Top-level names of everything that `source` imports, inside functions too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_file_belongs_to_the_order(path):
    assert _family(path) in ORDER


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_point_one_way(path):
    family = _family(path)
    allowed = ORDER[: ORDER.index(family)]
    if path.parent != ROOT:  # the files of one family may import each other
        allowed.append(family)
    assert _misplaced_imports(path.read_text(encoding="utf-8"), allowed) == []


@pytest.mark.parametrize(
    "line",
    [
        "import sklearn_cbir",
        "import sklearn_cbir.codes",
        "import numpy, sklearn_cbir.codes as codes",
        "from sklearn_cbir import codes",
        "from . import codes",
        "from .codes import pack_codes",
        "from sklearn_cbir.neighbors import NeighborsRetriever",
        "def late():\n    from sklearn_cbir.neighbors import NeighborsRetriever",
    ],
)
def test_a_misplaced_import_is_found(line):
    assert _misplaced_imports(line, allowed=["codes"]) != []


def test_an_import_from_above_is_allowed():
    assert _misplaced_imports("from sklearn_cbir.codes import pack_codes", ["codes"]) == []


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_private_rooms_are_entered_by_their_family_and_few_others(path):
    family = _family(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sklearn_cbir."):
            other, *room = node.module.split(".")[1:]
            if room and room[0].startswith("_") and other != family:
                assert family in ENTERED_BY.get(other, ()), node.module


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_file_has_more_code_than_one_reading_takes_in(path):
    assert _count_code(path.read_text(encoding="utf-8")) <= LINES_OF_CODE


def test_docstrings_comments_and_blank_lines_are_no_code():
    assert _count_code('"""What it is.\n\nMore."""\n\n# why\nx = [\n    1,\n]\n') == 3


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_only_the_training_module_knows_skorch(path):
    knows = "skorch" in _imported_packages(path.read_text(encoding="utf-8"))
    assert not knows or _name(path) == "_training.py"


def test_modules_are_attributes_of_the_package_once_they_are_asked_for():
    program = """
import sys, sklearn_cbir
print([name for name in sys.modules if name.startswith("sklearn_cbir.")])
print(sklearn_cbir.datasets.__name__, {"datasets", "losses"} <= set(dir(sklearn_cbir)))
print(hasattr(sklearn_cbir, "data"), hasattr(sklearn_cbir, "_training"))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [
        "['sklearn_cbir._lazy']",
        "sklearn_cbir.datasets True",
        "False False",
    ]


def test_light_imports_load_no_heavy_library():
    # One process for all: what is named first is what loaded it.
    lines = [
        f"{statement}; print({statement!r}, [x for x in {HEAVY} if x in sys.modules])"
        for statement in LIGHT_IMPORTS
    ]
    program = "\n".join(["import sys", *lines])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{statement} []" for statement in LIGHT_IMPORTS]


def test_what_trains_is_imported_by_a_training_alone():
    program = (
        "import sys, numpy as np; from sklearn_cbir import CNNFeatureExtractor; "
        "images = np.zeros((2, 8, 8, 3), np.uint8); "
        "CNNFeatureExtractor('small', weights=None, loss=None).fit(images).transform(images); "
        "print([x for x in ('skorch', 'sklearn_cbir._training') if x in sys.modules])"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
