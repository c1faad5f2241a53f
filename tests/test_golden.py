"""What an earlier version saved loads, to the same answers: `tests/data/golden` holds its files."""

import tarfile
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

from sklearn_cbir._checkpoint import Checkpoint
from sklearn_cbir.extraction import load_features
from sklearn_cbir.persistence import load

ARCHIVE = Path(__file__).parent / "data/golden/format_1.tar.xz"
ELSEWHERE = ("memory_map_cosine", "memory_map_euclidean", "milvus")  # rows beside the file
with tarfile.open(ARCHIVE) as members:
    NAMES = sorted(Path(name).stem for name in members.getnames() if name.endswith(".cbir"))
HERE = [name for name in NAMES if name not in ELSEWHERE]


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def answers(golden):
    with np.load(golden / "answers.npz") as file:
        return dict(file)


def check(estimator, name, answers):
    X = answers[f"{name}/X"]
    if f"{name}/transform" in answers:
        found, wanted = estimator.transform(X), answers[f"{name}/transform"]
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    if f"{name}/predict" in answers:
        predicted = np.vectorize(str)(estimator.predict(X))
        np.testing.assert_array_equal(predicted, answers[f"{name}/predict"])
    if f"{name}/distances" in answers:
        distances, positions = estimator.kneighbors(X)
        np.testing.assert_allclose(distances, answers[f"{name}/distances"], rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(positions, answers[f"{name}/positions"])
    if f"{name}/score" in answers:
        assert estimator.score() == pytest.approx(answers[f"{name}/score"], abs=1e-12)


def test_every_kind_of_file_is_among_the_golden_ones():
    assert len(NAMES) == 25


@pytest.mark.parametrize("name", HERE)
def test_a_file_of_an_earlier_version_loads_to_the_same_answers(name, golden, answers):
    check(load(golden / f"{name}.cbir"), name, answers)


@pytest.mark.parametrize("name", [name for name in HERE if name != "pipeline"])
def test_a_pickle_of_an_earlier_version_loads_to_the_same_answers(name, golden, answers):
    check(joblib.load(golden / f"{name}.joblib"), name, answers)


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.parametrize("how", ["cbir", "joblib"])
def test_a_gallery_of_an_earlier_version_is_found_where_it_was_moved(name, how, golden, answers):
    if name == "milvus":
        pytest.importorskip("milvus_lite")
    retriever = (load if how == "cbir" else joblib.load)(golden / f"{name}.{how}")
    retriever.relocate(golden / ("gallery.db" if name == "milvus" else "rows.npy"))
    check(retriever, name, answers)


def test_shards_of_an_earlier_version_are_read(golden, answers):
    np.testing.assert_array_equal(load_features(golden / "shards"), answers["shards/rows"])


def test_a_checkpoint_of_an_earlier_version_holds_the_network(golden, answers):
    checkpoint = Checkpoint(golden, "CNNFeatureExtractor", "any")
    (checkpoint.path,) = (golden / "checkpoints").iterdir()
    state = checkpoint.load()
    trained = joblib.load(golden / "module.joblib")
    for name, value in trained._network_state["weights"].items():
        assert torch.equal(state["network"][name], torch.from_numpy(value))
    np.testing.assert_allclose(
        trained.transform(answers["checkpoints/X"]), answers["checkpoints/transform"], atol=1e-6
    )
