"""Seeds, thread counts and figures that make every test repeatable."""

import os
import sys

os.environ.setdefault("MPLBACKEND", "Agg")
# One thread a process, set before numpy and torch are imported: several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What is compiled is tested from the first answer on; `test_loops` has what comes before.
os.environ.setdefault("CBIR_COMPILE_FIRST", "1")

import hypothesis
import numpy as np
import pytest

# The same few examples everywhere; `pytest --hypothesis-profile=many` draws new ones.
common = {"deadline": None, "database": None, "stateful_step_count": 12}
hypothesis.settings.register_profile("few", max_examples=15, derandomize=True, **common)
hypothesis.settings.register_profile("many", max_examples=500, print_blob=True, **common)
hypothesis.settings.load_profile("few")


@pytest.fixture(autouse=True)
def _seed_global_generator():
    """Tests that lean on a global generator by mistake still repeat."""
    np.random.seed(0)  # noqa: NPY002


@pytest.fixture(autouse=True)
def _close_figures():
    """No test meets what another one drew."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


@pytest.fixture
def rng():
    return np.random.default_rng(0)
