"""Two things are the same if, and only if, what made them is: code, values, in every process."""

import copy
import ctypes
import dataclasses
import enum
import functools
import importlib
import itertools
import os
import pickle
import random
import subprocess
import sys
import textwrap
import threading
import types
from pathlib import Path

import cloudpickle
import numba
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir._fingerprint import Unknown, fingerprint, fitted_parts, library_of
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.extraction import extract, load_features

IMAGES, LABELS = make_shapes(16, random_state=0)


def small(**params):
    params = {"weights": None, "max_epochs": 1, "batch_size": 8, "random_state": 0} | params
    return CNNFeatureExtractor("small", **params)


def module_of(source, name="own"):
    """Return a module of the user's own with this code."""
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(textwrap.dedent(source), f"{name}.py", "exec"), vars(module))
    return module


# Edits of code ---------------------------------------------------------------------------------

EDITS = {
    "constant": ("def thing(x): return x * 2", "def thing(x): return x * 3"),
    "type of a constant": ("def thing(x): return x * 2", "def thing(x): return x * 2.0"),
    "operator": ("def thing(x): return x + 2", "def thing(x): return x - 2"),
    "function it calls": (
        "def f(x): return x\ndef thing(x): return f(x)",
        "def f(x): return -x\ndef thing(x): return f(x)",
    ),
    "function of a function": (
        "def g(x): return x\ndef f(x): return g(x)\ndef thing(x): return f(x)",
        "def g(x): return -x\ndef f(x): return g(x)\ndef thing(x): return f(x)",
    ),
    "global it reads": ("M = 1\ndef thing(x): return x + M", "M = 2\ndef thing(x): return x + M"),
    "global dict": (
        "M = {'a': 1}\ndef thing(x): return x + M['a']",
        "M = {'a': 2}\ndef thing(x): return x + M['a']",
    ),
    "global read in an inner function": (
        "M = 1\ndef thing(x): return [i + M for i in x]",
        "M = 2\ndef thing(x): return [i + M for i in x]",
    ),
    "class attribute it reads": (
        "class C: margin = 1\ndef thing(x): return x + C.margin",
        "class C: margin = 2\ndef thing(x): return x + C.margin",
    ),
    "default": ("def thing(x, m=1): return x", "def thing(x, m=2): return x"),
    "keyword default": ("def thing(x, *, m=1): return x", "def thing(x, *, m=2): return x"),
    "attribute of the function": (
        "def thing(x): return x\nthing.margin = 1",
        "def thing(x): return x\nthing.margin = 2",
    ),
    "function of a library": (
        "import torch\ndef thing(x): return torch.relu(x)",
        "import torch\ndef thing(x): return torch.sigmoid(x)",
    ),
    "which library": (
        "from torch import sin as f\ndef thing(x): return f(x)",
        "from torch import cos as f\ndef thing(x): return f(x)",
    ),
    "numpy's functions": (
        "from numpy import sum as f\ndef thing(x): return f(x)",
        "from numpy import mean as f\ndef thing(x): return f(x)",
    ),
    "closure": (
        "def make(m):\n return lambda x: x + m\nthing = make(1)",
        "def make(m):\n return lambda x: x + m\nthing = make(2)",
    ),
    "function in a closure": (
        "def make(f):\n return lambda x: f(x)\nthing = make(lambda x: x)",
        "def make(f):\n return lambda x: f(x)\nthing = make(lambda x: -x)",
    ),
    "lambda in a dict": ("thing = {'f': lambda x: x}", "thing = {'f': lambda x: -x}"),
    "partial": (
        "from functools import partial\ndef f(x, m): return x\nthing = partial(f, m=1)",
        "from functools import partial\ndef f(x, m): return m\nthing = partial(f, m=1)",
    ),
    "method": (
        "class T:\n def __call__(self, x): return x\nthing = T()",
        "class T:\n def __call__(self, x): return 255 - x\nthing = T()",
    ),
    "method of a base": (
        "class B:\n def f(self): return 1\nclass T(B): pass\nthing = T()",
        "class B:\n def f(self): return 2\nclass T(B): pass\nthing = T()",
    ),
    "static method": (
        "class T:\n @staticmethod\n def f(): return 1\nthing = T()",
        "class T:\n @staticmethod\n def f(): return 2\nthing = T()",
    ),
    "class method": (
        "class T:\n @classmethod\n def f(cls): return 1\nthing = T",
        "class T:\n @classmethod\n def f(cls): return 2\nthing = T",
    ),
    "property": (
        "class T:\n @property\n def f(self): return 1\nthing = T()",
        "class T:\n @property\n def f(self): return 2\nthing = T()",
    ),
    "cached property": (
        "from functools import cached_property\n"
        "class T:\n @cached_property\n def f(self): return 1\nthing = T()",
        "from functools import cached_property\n"
        "class T:\n @cached_property\n def f(self): return 2\nthing = T()",
    ),
    "metaclass": (
        "class M(type):\n def f(cls): return 1\nclass T(metaclass=M): pass\nthing = T()",
        "class M(type):\n def f(cls): return 2\nclass T(metaclass=M): pass\nthing = T()",
    ),
    "class of an attribute": (
        "class A:\n def f(self): return 1\nclass T: pass\nthing = T(); thing.a = A()",
        "class A:\n def f(self): return 2\nclass T: pass\nthing = T(); thing.a = A()",
    ),
    "slot": (
        "class T:\n __slots__ = ('m',)\nthing = T(); thing.m = 1",
        "class T:\n __slots__ = ('m',)\nthing = T(); thing.m = 2",
    ),
    "private attribute": (
        "class T: pass\nthing = T(); thing._m = 1",
        "class T: pass\nthing = T(); thing._m = 2",
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass T:\n m: int = 1\nthing = T()",
        "from dataclasses import dataclass\n@dataclass\nclass T:\n m: int = 2\nthing = T()",
    ),
    "enum": (
        "import enum\nclass E(enum.Enum):\n A = 1\n B = 2\nthing = E.A",
        "import enum\nclass E(enum.Enum):\n A = 1\n B = 2\nthing = E.B",
    ),
    "method of an enum": (
        "import enum\nclass E(enum.Enum):\n A = 1\n def f(self): return 1\nthing = E.A",
        "import enum\nclass E(enum.Enum):\n A = 1\n def f(self): return 2\nthing = E.A",
    ),
    "decorator": (
        "import functools\ndef d(f):\n @functools.wraps(f)\n def g(x): return f(x)\n return g\n"
        "@d\ndef thing(x): return x",
        "import functools\ndef d(f):\n @functools.wraps(f)\n def g(x): return -f(x)\n return g\n"
        "@d\ndef thing(x): return x",
    ),
    "under a decorator": (
        "import torch\n@torch.no_grad()\ndef thing(x): return x",
        "import torch\n@torch.no_grad()\ndef thing(x): return -x",
    ),
    "under a decorator that names what it decorates": (
        "import contextlib\n@contextlib.contextmanager\ndef thing(x): yield x",
        "import contextlib\n@contextlib.contextmanager\ndef thing(x): yield -x",
    ),
    "called under a decorator of a library": (
        "import torch\ndef f(x): return x\n@torch.no_grad()\ndef thing(x): return f(x)",
        "import torch\ndef f(x): return -x\n@torch.no_grad()\ndef thing(x): return f(x)",
    ),
    "method under a decorator of a library": (
        "import torch\nclass T:\n @torch.no_grad()\n def __call__(self, x): return x\nthing = T()",
        "import torch\nclass T:\n @torch.no_grad()\n def __call__(self, x): return -x\nthing = T()",
    ),
    "default of a dataclass": (
        "import dataclasses\n@dataclasses.dataclass\nclass thing:\n m: int = 1",
        "import dataclasses\n@dataclasses.dataclass\nclass thing:\n m: int = 2",
    ),
    "function that remembers": (
        "import functools\n@functools.lru_cache\ndef thing(x): return x",
        "import functools\n@functools.lru_cache\ndef thing(x): return -x",
    ),
    "bound method": (
        "class T:\n m = 1\n def f(self): return self.m\nthing = T().f",
        "class T:\n m = 2\n def f(self): return self.m\nthing = T().f",
    ),
    "single dispatch": (
        "import functools\n@functools.singledispatch\ndef thing(x): return x\n"
        "@thing.register\ndef _(x: int): return 1",
        "import functools\n@functools.singledispatch\ndef thing(x): return x\n"
        "@thing.register\ndef _(x: int): return 2",
    ),
    "function that was put into a library": (
        "import types\nF = types.ModuleType('torch.nn.own'); F.f = lambda x: x\n"
        "def thing(x): return F.f(x)",
        "import types\nF = types.ModuleType('torch.nn.own'); F.f = lambda x: -x\n"
        "def thing(x): return F.f(x)",
    ),
    "function in a partial that was put into a library": (
        "import types, functools\nF = types.ModuleType('torch.nn.own')\n"
        "F.f = functools.partial(lambda x: x)\ndef thing(x): return F.f(x)",
        "import types, functools\nF = types.ModuleType('torch.nn.own')\n"
        "F.f = functools.partial(lambda x: -x)\ndef thing(x): return F.f(x)",
    ),
    "made by exec": (
        "space = {}; exec('def thing(x): return x', space); thing = space['thing']",
        "space = {}; exec('def thing(x): return -x', space); thing = space['thing']",
    ),
    "forward of a module": (
        "from torch import nn\nclass N(nn.Module):\n def forward(self, x): return x.relu()\n"
        "thing = N()",
        "from torch import nn\nclass N(nn.Module):\n def forward(self, x): return x.sigmoid()\n"
        "thing = N()",
    ),
    "autograd function": (
        "import torch\nclass F(torch.autograd.Function):\n"
        " @staticmethod\n def backward(ctx, g): return g\ndef thing(x): return F.apply(x)",
        "import torch\nclass F(torch.autograd.Function):\n"
        " @staticmethod\n def backward(ctx, g): return -g\ndef thing(x): return F.apply(x)",
    ),
    "optimizer": (
        "import torch\nclass thing(torch.optim.SGD):\n"
        " def __init__(self, p, **k): super().__init__(p, momentum=0.0, **k)",
        "import torch\nclass thing(torch.optim.SGD):\n"
        " def __init__(self, p, **k): super().__init__(p, momentum=0.9, **k)",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edited_code_is_another_thing(name):
    one, other = (module_of(source).thing for source in EDITS[name])
    assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("name", EDITS)
def test_code_is_known_again_wherever_it_stands(name):
    source = EDITS[name][0]
    again = module_of('"""A docstring and an empty line."""\n\n\n' + source, "elsewhere")
    assert fingerprint(module_of(source).thing) == fingerprint(again.thing)


def test_comments_and_docstrings_change_nothing():
    one = module_of('def thing(x):\n    """Double."""\n    return 2 * x').thing
    other = module_of("def thing(x):\n    # twice\n\n    return 2 * x").thing
    assert fingerprint(one) == fingerprint(other)


def test_code_that_calls_itself_and_code_that_waits_for_its_name_are_known():
    def recursive():
        def fold(x):
            return x if x < 1 else fold(x - 1)

        return fold

    def mutual():
        def even(x):
            return x == 0 or odd(x - 1)

        def odd(x):
            return x != 0 and even(x - 1)

        return even

    def unbound():
        def read():
            return later

        if read is None:
            later = 1
        return read

    for make in (recursive, mutual, unbound):
        assert fingerprint(make()) == fingerprint(make())


def test_things_that_hold_themselves_are_known():
    def loop(value):
        rows, table, thing = [value], {}, types.SimpleNamespace()
        rows.append(rows)
        table["self"], thing.me, thing.all = table, thing, [rows, table]
        return thing

    assert fingerprint(loop(1)) == fingerprint(loop(1)) != fingerprint(loop(2))


@pytest.mark.parametrize("way", ["attribute", "from", "import", "getattr", "late", "package"])
def test_modules_of_the_users_own_are_read(way, tmp_path, monkeypatch):
    programs = {
        "attribute": "import helper\ndef thing(x): return x + helper.margin",
        "from": "from helper import f\ndef thing(x): return f(x)",
        "import": "def thing(x):\n import helper\n return helper.f(x)",
        "getattr": "import helper\ndef thing(x): return getattr(helper, 'f')(x)",
        "late": "def thing(x):\n from helper import f\n return f(x)",
        "package": "import pack.helper\ndef thing(x): return pack.helper.f(x)",
    }
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    found = []
    for margin in (1, 1, 2):
        for place in (tmp_path / "helper.py", tmp_path / "pack" / "helper.py"):
            place.write_text(f"margin = {margin}\ndef f(x): return x + margin\n")
        for name in ("helper", "pack", "pack.helper"):
            sys.modules.pop(name, None)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        importlib.invalidate_caches()
        found.append(fingerprint(module_of(programs[way]).thing))
    assert found[0] == found[1] != found[2]


def test_libraries_are_known_by_version_and_own_packages_are_not(tmp_path, monkeypatch):
    assert library_of("torch.nn.functional") == f"torch {torch.__version__.partition('+')[0]}"
    assert library_of("sklearn.base").startswith("scikit-learn ")
    assert library_of("collections.abc").startswith("Python 3.")
    assert library_of("sklearn_cbir.losses").startswith("sklearn_cbir ")
    assert library_of("__main__") is None
    # A checkout with the notes of a build beside it, and a module with the name of a standard one.
    (tmp_path / "ownpack").mkdir()
    (tmp_path / "ownpack" / "__init__.py").touch()
    (tmp_path / "ownpack.egg-info").mkdir()
    (tmp_path / "ownpack.egg-info" / "PKG-INFO").write_text("Name: ownpack\nVersion: 1.0\n")
    (tmp_path / "ownpack.egg-info" / "top_level.txt").write_text("ownpack\n")
    (tmp_path / "antigravity.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert library_of("ownpack") is None
    assert library_of("antigravity") is None


# Values ----------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0


class Slots:
    __slots__ = ("_m", "other")

    def __init__(self, m):
        self._m = m


def hooked(kind, hook):
    network = nn.Sequential(linear())
    getattr(network, kind)(hook)
    return network


def buffered(value, persistent):
    network = nn.Module()
    network.register_buffer("margin", torch.tensor(value), persistent=persistent)
    return network


def with_attribute(name, value):
    network = nn.Module()
    setattr(network, name, value)
    return network


def linear(**changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = nn.Linear(2, 2)
    for name, value in changes.items():
        setattr(network, name, value)
    return network


def frozen():
    return linear().requires_grad_(False)


def tied(tie):
    network = nn.Sequential(linear(), linear())
    if tie:
        network[1].weight = network[0].weight
    return network


def normed(dim):
    with torch.random.fork_rng(devices=[]):
        return nn.utils.parametrizations.weight_norm(linear(), dim=dim)


def patched(factor):
    network = linear()
    network.forward = types.MethodType(lambda self, x: factor * x, network)
    return network


def one_hook(self, *args):
    return None


def other_hook(self, *args):
    return args


VALUES = {
    "numbers": (lambda: 1, lambda: 1.0, lambda: True, lambda: "1", lambda: b"1", lambda: 1j),
    "zeros": (lambda: 0.0, lambda: -0.0, lambda: None, lambda: float("nan")),
    "sequences": (lambda: [[1], 2], lambda: [1, [2]], lambda: [1, 2], lambda: (1, 2)),
    "texts": (lambda: ["ab", "c"], lambda: ["a", "bc"]),
    "ordered dicts": (lambda: {"a": 1, "b": 2}, lambda: {"b": 2, "a": 1}),
    "sets": (lambda: {"a", "b", "c"}, lambda: {"a", "b", "d"}, lambda: frozenset("abc")),
    "large numbers": (lambda: 10**5000, lambda: 10**5000 + 1),
    "arrays": (
        lambda: np.arange(4.0),
        lambda: np.arange(4.0).reshape(2, 2),
        lambda: np.arange(4),
        lambda: np.arange(4.0) + 1e-9,
    ),
    "arrays of objects": (lambda: np.array(["a", 1], object), lambda: np.array(["b", 1], object)),
    "masked arrays": (lambda: np.ma.array([1, 2], mask=[0, 1]), lambda: np.ma.array([1, 2])),
    "structured arrays": (
        lambda: np.zeros(2, "i4,i4"),
        lambda: np.zeros(2, [("a", "i4"), ("b", "i4")]),
    ),
    "sparse": (lambda: sparse.eye_array(3).tocsr(), lambda: 2 * sparse.eye_array(3).tocsr()),
    "numpy's generators": (
        random.SystemRandom,
        lambda: np.random.default_rng(0),
        lambda: np.random.default_rng(1),
        lambda: np.random.RandomState(0),
        lambda: np.random.RandomState(1),
        lambda: random.Random(0),
        lambda: random.Random(1),
    ),
    "torch's generators": (
        lambda: torch.Generator().manual_seed(0),
        lambda: torch.Generator().manual_seed(1),
    ),
    "paths": (lambda: Path("a"), lambda: Path("b"), lambda: "a"),
    "enums": (lambda: Color.RED, lambda: Color.BLUE),
    "dataclasses": (lambda: Point(1), lambda: Point(2), lambda: Point(1, 1)),
    "slots": (lambda: Slots(1), lambda: Slots(2)),
    "partials": (
        lambda: functools.partial(max, key=len),
        lambda: functools.partial(min, key=len),
        lambda: functools.partial(max, key=id),
    ),
    "builtins": (lambda: max, lambda: np.add, lambda: np.sum, lambda: torch.relu, lambda: nn.ReLU),
    "estimators": (lambda: PCA(2), lambda: PCA(3)),
    "iterators": (lambda: iter([1, 2]), lambda: iter([1, 3])),
    "exceptions": (lambda: ValueError(1), lambda: ValueError(2), lambda: KeyError(1)),
    "tensors": (
        lambda: torch.zeros(2),
        lambda: torch.ones(2),
        lambda: torch.zeros(2, dtype=torch.bfloat16),
        lambda: torch.zeros(2, 1),
        lambda: torch.zeros(2, requires_grad=True),
        lambda: nn.Parameter(torch.zeros(2)),
    ),
    "types of torch": (lambda: torch.float32, lambda: torch.float16, lambda: torch.device("cpu")),
    "weights": (linear, lambda: linear(bias=None), frozen),
    "private attributes": (lambda: with_attribute("_m", 1), lambda: with_attribute("_m", 2)),
    "tensor attributes": (
        lambda: with_attribute("m", torch.zeros(1)),
        lambda: with_attribute("m", torch.ones(1)),
    ),
    "lists of tensors": (
        lambda: with_attribute("m", [torch.zeros(1)]),
        lambda: with_attribute("m", [torch.ones(1)]),
    ),
    "functions in modules": (
        lambda: with_attribute("f", lambda x: x),
        lambda: with_attribute("f", lambda x: -x),
    ),
    "buffers": (
        lambda: buffered(1.0, True),
        lambda: buffered(1.0, False),
        lambda: buffered(2.0, False),
    ),
    "hooks": tuple(
        functools.partial(hooked, kind, hook)
        for kind in (
            "register_forward_hook",
            "register_forward_pre_hook",
            "register_full_backward_hook",
            "register_full_backward_pre_hook",
            "register_state_dict_pre_hook",
            "register_load_state_dict_post_hook",
        )
        for hook in (one_hook, other_hook)
    ),
    "order of layers": (
        lambda: nn.Sequential(nn.ReLU(), nn.Tanh()),
        lambda: nn.Sequential(nn.Tanh(), nn.ReLU()),
    ),
    "shared weights": (lambda: tied(True), lambda: tied(False)),
    "parametrizations": (lambda: normed(0), lambda: normed(1), linear),
    "replaced methods": (lambda: patched(1), lambda: patched(2), linear),
    "classes of torch": (lambda: torch.optim.SGD, lambda: torch.optim.Adam),
    "lazy layers": (lambda: nn.LazyLinear(2), lambda: nn.LazyLinear(3)),
    "images": (
        lambda: Image.new("L", (4, 4), 1),
        lambda: Image.new("L", (4, 4), 2),
        lambda: Image.new("RGB", (4, 4), 1),
    ),
    "tables": (
        lambda: pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        lambda: pd.DataFrame({"a": [1, 2], "b": ["x", "z"]}),
    ),
    "functions compiled by numba": (
        lambda: numba.njit(lambda x: x),
        lambda: numba.njit(lambda x: -x),
    ),
    "operators of torch": (lambda: torch.ops.aten.relu, lambda: torch.ops.aten.relu.default),
    "wrapped losses": (
        lambda: nn.CrossEntropyLoss(),
        lambda: nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda: nn.CrossEntropyLoss(weight=torch.ones(2)),
    ),
}


@pytest.mark.filterwarnings("ignore::UserWarning")  # lazy layers are new
@pytest.mark.parametrize("name", VALUES)
def test_values_are_the_same_exactly_if_what_they_hold_is(name):
    makers = VALUES[name]
    keys = [fingerprint(make()) for make in makers]
    assert len(set(keys)) == len(makers)
    assert keys == [fingerprint(make()) for make in makers]


def test_where_an_array_lies_and_how_it_came_about_changes_nothing(tmp_path):
    rows = np.arange(12.0).reshape(3, 4)
    np.save(tmp_path / "rows.npy", rows)
    same = [np.asfortranarray(rows), np.repeat(rows, 2, axis=0)[::2]]
    same += [np.load(tmp_path / "rows.npy", mmap_mode="r")]
    assert {fingerprint(one) for one in same} == {fingerprint(rows)}
    text = "".join(["mar", "gin"])
    assert fingerprint(["margin", "margin"]) == fingerprint(["margin", text])
    assert fingerprint([rows, rows]) == fingerprint([rows, rows.copy()])
    assert fingerprint(np.int64(3)) == fingerprint(3)
    weights = torch.arange(6.0).reshape(2, 3)
    assert fingerprint(weights) == fingerprint(weights.t().contiguous().t())
    unsorted = sparse.csr_array(([1.0, 2.0], [1, 0], [0, 2]))
    assert fingerprint(unsorted) == fingerprint(unsorted.sorted_indices())


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", sorted({*VALUES, *EDITS} - {"bound method"}))
def test_copies_are_the_same(name):
    for make in VALUES.get(name) or [lambda: module_of(EDITS[name][0], "__main__").thing]:
        value = make()
        try:
            copies = [copy.deepcopy(value), cloudpickle.loads(cloudpickle.dumps(value))]
        except (TypeError, ValueError, RuntimeError, pickle.PicklingError):
            continue  # what cannot be copied
        for one in copies:
            assert fingerprint(one) == fingerprint(value)


def test_use_changes_no_key():
    class Cached:
        @functools.cached_property
        def kernel(self):
            return np.ones(3)

    @functools.lru_cache
    def remember(x):
        return x

    thing = [Cached(), remember, np.random.rand, random.random, torch.rand]
    before = fingerprint(thing)
    thing[0].kernel, remember(1), np.random.rand(), random.random(), torch.rand(1)  # noqa: NPY002
    assert fingerprint(thing) == before


def test_files_that_own_things_name_are_read(tmp_path):
    class Overlay:
        def __init__(self, path):
            self.path = path

    path = tmp_path / "overlay.png"
    for kind in (str, Path):
        path.write_bytes(b"one")
        before = fingerprint(Overlay(kind(path)))
        os.utime(path, ns=(0, 0))
        assert fingerprint(Overlay(kind(path))) == before
        path.write_bytes(b"two")
        assert fingerprint(Overlay(kind(path))) != before


# Other processes -------------------------------------------------------------------------------

PROGRAM = """
import sys
import numpy as np, torch
from torch import nn
from sklearn_cbir._fingerprint import fingerprint

NAMES = {"a", "b", "c", "some", "more", "names"}

class Scale:
    kinds = frozenset(["x", "y", "z", "w"])

    def __init__(self, by):
        self.by = by
        self.seen = {"one", "two", "three", str(by)}

    def __call__(self, x):
        return self.by * x

def generator(x):
    return sum(i * i for i in x if i in {"a", "b", "c", "d"})

def inner(x):
    return (lambda y: (lambda z: z + y))(x)

def comprehension(x):
    return {i: [j for j in range(i)] for i in x if i not in NAMES}

def default(x, scale=Scale(3)):
    return scale(x)

def annotated(x: "int", *, y: Scale = None) -> dict[str, set]:
    class Local(Scale):
        def __call__(self, x):
            return super().__call__(x) + np.random.rand() + torch.rand(1)
    return Local(1)(x)

net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
nn.init.ones_(net[0].weight)
net.register_forward_hook(lambda module, inputs, output: output)
net.plain = torch.arange(3)
net.f = inner
things = [generator, inner, comprehension, default, annotated, Scale, Scale(2), NAMES, net,
          lambda x: x in {"p", "q", "r"}, inner(1), nn.Linear, np.mean, net.forward,
          {"set": NAMES, "of": [Scale]}, Scale(1).__call__, object(), print, np.float32, np.pi]
print(*[fingerprint(thing) for thing in things])
"""


def by_value(things, *modules):
    """Pickle as joblib does what a script or a notebook defines."""
    for module in modules:
        cloudpickle.register_pickle_by_value(sys.modules[module])
    data = cloudpickle.dumps(things)
    for module in modules:
        cloudpickle.unregister_pickle_by_value(sys.modules[module])
    return data.hex()


def test_every_process_gives_the_same_key(tmp_path, capsys, monkeypatch):
    """...of what it defines, and of what is sent to it; slots may become attributes there."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "moved.py").write_text("import re  # another place\n\n\n" + PROGRAM)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("moved")
    monkeypatch.delitem(sys.modules, "moved")
    here = capsys.readouterr().out.split()
    sent = [Point, Slots(1), module_of("import torch\n@torch.no_grad()\ndef f(x): return x").f]
    program = (
        "import program, sys, pickle\n"
        "print(*map(program.fingerprint, pickle.loads(bytes.fromhex(sys.argv[1]))))"
    )
    there = subprocess.run(
        [sys.executable, "-c", program, by_value(sent, __name__, "own")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONHASHSEED": "1"},
    ).stdout.split()
    assert there == here + [fingerprint(thing) for thing in sent]
    assert len(set(here)) == len(here) == 20


# What cannot be known --------------------------------------------------------------------------


def evaluating(x):
    return eval("x + 1")


def importing(x):
    return importlib.import_module("torch").relu(x)


def with_library(x):
    return ctypes.CDLL(None).abs(x)


HELD = ctypes.CDLL(None) if os.name == "posix" else ctypes.c_int(3)
STEPS = itertools.count()


def with_held_library(x):
    return HELD.abs(x)


def scripted():
    return torch.jit.script(nn.ReLU())


UNKNOWN = {
    "eval": (lambda: evaluating, "eval, which may run any code"),
    "import": (lambda: importing, "import_module, which may run any code"),
    "ctypes": (lambda: with_held_library, r"HELD is (a compiled library|of ctypes)"),
    "file": (lambda: Overlaid(open(os.devnull)), r"value\.source is an open file"),  # noqa: SIM115
    "generator": (lambda: Overlaid(i for i in ()), "is a generator, whose position"),
    "own operator": (
        lambda: module_of("import torch\ndef thing(x): return torch.ops.ownops.double(x)").thing,
        r"double is the operator ownops\.double",
    ),
    "refusing": (lambda: Refusing(), r"value is unreadable \(OSError: gone\)"),
    "vectorized": (lambda: np.frompyfunc(one_hook, 1, 1), "known by the name .* alone"),
    "meta tensor": (lambda: nn.Linear(2, 2, device="meta"), "a tensor, whose values"),
    "socket": (lambda: Overlaid(threading.Thread()), "is a thread"),
    "nested": (lambda: functools.reduce(lambda a, _: [a], range(5000), []), "nested too deeply"),
}


class Refusing:
    @property
    def __class__(self):
        raise OSError("gone")


class Overlaid:
    def __init__(self, source):
        self.source = source


@pytest.fixture(scope="module")
def _own_operator():
    with torch.library._scoped_library("ownops", "DEF") as library:
        library.define("double(Tensor x) -> Tensor")
        yield


@pytest.mark.usefixtures("_own_operator")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_known_is_named(name):
    make, message = UNKNOWN[name]
    with pytest.raises(Unknown, match=message):
        fingerprint(make())


@pytest.mark.slow  # the compiler takes that long to be imported
@pytest.mark.parametrize("make", [lambda net: net, nn.Sequential, lambda net: net.forward])
def test_what_torch_has_compiled_cannot_be_known(make):
    with pytest.raises(Unknown, match=r"compiled by torch\.compile"):
        fingerprint(make(torch.compile(linear())))
    with pytest.raises(Unknown, match=r"compiled by torch\.compile"):
        fingerprint(torch.compile(one_hook))


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripts_of_torch_cannot_be_known():
    with pytest.raises(Unknown, match=r"compiled by torch\.jit"):
        fingerprint(scripted())


# Checkpoints and folders -----------------------------------------------------------------------


class Hinge(nn.Module):
    output = "features"

    def __init__(self, margin):
        super().__init__()
        self._margin = margin

    def forward(self, outputs, y):
        same = y[:, None] == y
        distances = ((outputs[:, None] - outputs[None]) ** 2).sum(-1)
        return torch.where(same, distances, torch.relu(self._margin - distances)).mean()


def weights(fitted):
    return fitted._network_state["weights"]


def same(one, other):
    return all(np.array_equal(weights(one)[key], weights(other)[key]) for key in weights(one))


def test_losses_that_differ_in_a_private_attribute_train_each_for_itself(tmp_path):
    one = small(loss=Hinge(0.2), checkpoint_dir=tmp_path).fit(IMAGES, LABELS)
    other = small(loss=Hinge(1.5), checkpoint_dir=tmp_path).fit(IMAGES, LABELS)
    assert not same(one, other)
    assert same(other, small(loss=Hinge(1.5)).fit(IMAGES, LABELS))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["backbone", "loss", "augment", "optimizer", "random_state"])
def test_an_edit_trains_anew_and_the_same_thing_is_not_repeated(name, tmp_path):
    sources = {
        "backbone": """
            class N(nn.Sequential):
                def forward(self, x):
                    return super().forward(x).{}()
            torch.manual_seed(0)
            thing = N(nn.Conv2d(3, 4, 3, 2))""",
        "loss": """
            class L(nn.Module):
                output = "classes"
                def forward(self, outputs, y):
                    return nn.functional.cross_entropy(outputs.{}(), y)
            thing = L()""",
        "augment": """
            def relu(x): return x
            def sigmoid(x): return 255 - x
            class A:
                def __call__(self, x): return {}(x)
            thing = A()""",
        "optimizer": """
            relu, sigmoid = 0.0, 0.9
            class thing(torch.optim.SGD):
                def __init__(self, parameters, **options):
                    super().__init__(parameters, momentum={}, **options)""",
        "random_state": "thing = np.random.RandomState(dict(relu=0, sigmoid=1)['{}'])",
    }
    found = []
    for word in ("relu", "sigmoid", "relu"):
        source = textwrap.dedent(sources[name]).format(word)
        source = "import numpy as np, torch\nfrom torch import nn\n" + source
        with torch.random.fork_rng(devices=[]):
            thing = module_of(source).thing
        found.append(small(checkpoint_dir=tmp_path).set_params(**{name: thing}).fit(IMAGES, LABELS))
    assert not same(found[0], found[1])
    assert same(found[0], found[2])
    assert len(list(tmp_path.iterdir())) == 2


def test_a_fit_of_what_cannot_be_known_says_so_and_keeps_no_checkpoint(tmp_path):
    def loss(outputs, y):
        return eval("outputs.square().mean()")

    with pytest.warns(UserWarning, match=r"loss\.eval is eval, .* trains from the start and keeps"):
        fitted = small(loss=loss, checkpoint_dir=tmp_path).fit(IMAGES, LABELS)
    assert same(fitted, small(loss=loss).fit(IMAGES, LABELS))
    assert not list(tmp_path.iterdir())


def transformer(word):
    source = f"import numpy as np\nf = np.{word}\ndef thing(X): return f(X)"
    return make_pipeline(FunctionTransformer(module_of(source).thing))


ROWS = np.linspace(0, 1, 12).reshape(6, 2)


def begin(estimator, folder):
    """Extract three shards, and lose the last one."""
    extract(estimator, ROWS, folder, shard_size=2)
    (folder / "shard-00002.npy").unlink()
    return sorted(path.name for path in folder.iterdir())


def test_shards_of_two_codes_are_never_mixed(tmp_path):
    files = begin(transformer("sin"), tmp_path)
    with pytest.raises(
        ValueError,
        match=r"another estimator .* What differs: estimator\.functiontransformer\.func\.",
    ):
        extract(transformer("cos"), ROWS, tmp_path, shard_size=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert np.array_equal(extract(transformer("sin"), ROWS, tmp_path, shard_size=2), np.sin(ROWS))


def test_a_folder_of_what_cannot_be_known_is_not_continued(tmp_path):
    estimator = FunctionTransformer(evaluating)
    with pytest.warns(UserWarning, match=r"func\.eval is eval, .* it cannot be continued"):
        files = begin(estimator, tmp_path)
    with pytest.raises(ValueError, match=r"cannot be compared with this one: .*func\.eval is eval"):
        extract(estimator, ROWS, tmp_path, shard_size=2)
    with pytest.raises(ValueError, match="cannot be compared with this one"):
        extract(transformer("sin"), ROWS, tmp_path, shard_size=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == files


def test_a_folder_of_an_earlier_version_can_be_opened_but_not_continued(tmp_path):
    estimator = transformer("sin")
    extract(estimator, ROWS, tmp_path, shard_size=2)
    manifest = tmp_path / "manifest.json"
    # What the first version wrote: no version of its keys.
    lines = [line for line in manifest.read_text().splitlines() if "key_version" not in line]
    manifest.write_text("\n".join(lines))
    assert np.array_equal(load_features(tmp_path), np.sin(ROWS))
    with pytest.raises(ValueError, match="earlier version, which did not store the code"):
        extract(estimator, ROWS, tmp_path, shard_size=2)


def test_fitted_parts_of_a_pipeline_are_those_of_its_steps():
    parts = fitted_parts(make_pipeline(PCA(2), FunctionTransformer(one_hook)))
    assert {"estimator.pca.n_components", "estimator.functiontransformer.func"} <= parts.keys()
