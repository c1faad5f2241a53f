"""Files without pickle: the same answers, noticed damage, nothing executed, nothing lost."""

import hashlib
import io
import itertools
import json
import pathlib
import subprocess
import sys
import zipfile

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer
from sklearn.svm import SVC
from sklearn.utils.discovery import all_estimators

import sklearn_cbir._files
from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever, hashing
from sklearn_cbir.backbones import _trunk
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.index import _nndescent
from sklearn_cbir.losses import LOSSES, DSHLoss, SquaredHingeLoss
from sklearn_cbir.persistence import SCIKIT_LEARN, load, save, saved_description
from sklearn_cbir.reranking import RERANKERS, AlphaQueryExpansion
from sklearn_cbir.whitening import LearnedWhitening


@pytest.fixture
def path(tmp_path):
    return tmp_path / "search.cbir"


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(24, n_classes=4, random_state=0)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    y = np.repeat(["ant", "bee", "cat", "dog"], 10)
    return rng.normal(size=(40, 6)) + 2 * rng.normal(size=(4, 6))[np.repeat(range(4), 10)], y


def again(estimator, path):
    save(estimator, path)
    return load(path)


def assert_same_state(a, b):
    """The two are equal through and through: types, arrays to the last bit, objects."""
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.flags.f_contiguous == b.flags.f_contiguous
        if a.dtype.kind != "O":
            assert a.tobytes() == b.tobytes()
        else:
            assert a.tolist() == b.tolist()
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            assert_same_state(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_same_state(x, y)
    elif hasattr(a, "__dict__") and not isinstance(a, type):
        assert_same_state(a.__getstate__() or {}, b.__getstate__() or {})
    else:
        assert a == b or a != a


# ---------------------------------------------------------------- what comes back

SMALL = {"max_epochs": 1, "batch_size": 12, "random_state": 0}


@pytest.mark.parametrize(
    "estimator",
    [
        CNNFeatureExtractor("small", weights=None, n_components=5, **SMALL),
        CNNFeatureExtractor("small", weights=None, loss=SquaredHingeLoss(), **SMALL),
        DeepHasher(9, loss=DSHLoss(margin=12.0), **SMALL),
        CPFEmbedder(5, threshold_fraction=0, **SMALL),
    ],
    ids=["extractor", "loss object", "hasher", "embedder"],
)
@pytest.mark.parametrize("kind", ["images", "rows"])
def test_networks_answer_as_before(estimator, kind, shapes, rows, path):
    X, y = shapes if kind == "images" else rows
    fitted = clone(estimator).fit(X, y)
    loaded = again(fitted, path)
    assert loaded.transform(X).tobytes() == fitted.transform(X).tobytes()
    assert repr(loaded) == repr(fitted)
    without = fitted.__getstate__() | {"loss": None}
    assert_same_state(without, loaded.__getstate__() | {"loss": None})
    # What was loaded trains again as the original would.
    assert loaded.fit(X, y).transform(X).tobytes() == fitted.transform(X).tobytes()


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
@pytest.mark.parametrize("pooling", ["auto", "gem"], ids=["vectors", "maps"])
def test_a_network_with_a_name_is_not_tried_again(pooling, path, monkeypatch):
    X = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    fitted = CNNFeatureExtractor(
        "mobilenet_v3_small", weights=None, loss=None, pooling=pooling, image_size=32
    ).fit(X)
    state = fitted.__getstate__()
    before = {k: v for k, v in state["_network_state"].items() if k != "gives"}
    earlier = clone(fitted)
    earlier.__setstate__(state | {"_network_state": before})  # as earlier versions saved it
    loaded = again(fitted, path)
    tried = []
    found = _trunk.probe
    monkeypatch.setattr(_trunk, "probe", lambda *args: tried.append(args) or found(*args))
    assert loaded.transform(X).tobytes() == fitted.transform(X).tobytes()
    assert not tried
    assert again(earlier, path).transform(X).tobytes() == fitted.transform(X).tobytes()
    assert len(tried) == 1


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_the_package_come_back_with_their_parameters(name, path):
    estimator = CNNFeatureExtractor(loss=LOSSES[name]())
    assert repr(again(estimator, path).loss) == repr(estimator.loss)


HASHERS = [name for name in hashing.__all__ if name.endswith("Hasher") and name != "DeepHasher"]


@pytest.mark.parametrize("name", HASHERS)
def test_classical_hashers_encode_as_before(name, rows, path):
    hasher = getattr(hashing, name)(4)
    if "random_state" in hasher.get_params():
        hasher.set_params(random_state=0)
    X, y = rows
    hasher.fit(X, y)
    np.testing.assert_array_equal(again(hasher, path).transform(X), hasher.transform(X))


IDS = {
    "counted": None,
    "text": [f"photos/{i:02d} ä.jpg" for i in range(40)],
    "numbers": np.arange(40) * 7,
    "paths": [pathlib.Path("photos", f"{i}.jpg") for i in range(40)],
    "objects": [("shop", i) for i in range(40)],
}


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "hamming"])
@pytest.mark.parametrize("ids", IDS)
def test_retrievers_answer_as_before(metric, ids, rows, path):
    X, y = rows
    X = (X > 0).astype(np.uint8) if metric == "hamming" else X
    retriever = NeighborsRetriever(5, metric=metric).fit(X, y, ids=IDS[ids])
    loaded = again(retriever, path)
    for before, after in zip(retriever.kneighbors(X), loaded.kneighbors(X)):
        assert before.tobytes() == after.tobytes()
    assert loaded.predict(X).tolist() == retriever.predict(X).tolist()
    assert loaded.score() == retriever.score()
    # It grows and shrinks as the original does, and numbers are still not used twice.
    for each in (retriever, loaded):
        each.remove(each.ids_[-2:])
        each.partial_fit(X[:1], y[:1], ids=None if ids == "counted" else IDS[ids][-1:])
    assert loaded.ids_.tolist() == retriever.ids_.tolist()
    assert loaded.kneighbors(X)[0].tobytes() == retriever.kneighbors(X)[0].tobytes()


@pytest.mark.parametrize(
    "X",
    [np.eye(5, dtype=np.float32), np.asfortranarray(np.eye(5)), np.eye(5) * 1e200, np.eye(5)[::-1]],
    ids=["float32", "columns first", "scaled", "strided"],
)
def test_every_layout_of_memory_comes_back(X, path):
    retriever = NeighborsRetriever(2, metric="euclidean").fit(X, [[0, 1]] * 5)
    assert_same_state(retriever, again(retriever, path))


@pytest.fixture
def graph():
    X = np.random.default_rng(0).normal(size=(1300, 4))
    seed = np.random.RandomState(3)
    retriever = NeighborsRetriever(5, algorithm="nndescent", random_state=seed).fit(X)
    return retriever.remove([4, 900])


def test_a_graph_answers_as_before_and_is_not_made_again(graph, path, monkeypatch):
    monkeypatch.setattr(_nndescent.NNDescentEngine, "_make", None)
    loaded = again(graph, path)
    assert loaded.algorithm_ == "nndescent"
    assert loaded.recall_ == graph.recall_
    X = np.random.default_rng(1).normal(size=(50, 4))
    for before, after in zip(graph.kneighbors(X), loaded.kneighbors(X)):
        assert before.tobytes() == after.tobytes()
    assert loaded.random_state.randint(99) == graph.random_state.randint(99)


@pytest.mark.parametrize(
    ("array", "place", "value"),
    [("edges", 7, 10**6), ("edges", 0, -1), ("starts", 3, 10**6), ("entry_points", 0, 1300)],
)
def test_a_graph_that_leads_out_of_the_gallery_is_refused(graph, path, array, place, value):
    # The file is whole: its writer meant it.
    getattr(graph._gallery.engine.index, array)[place] = value
    save(graph, path)
    with pytest.raises(ValueError, match="damaged"):
        load(path)


def test_a_graph_of_other_rows_is_refused(graph, path):
    graph._gallery.engine.indexed[5] = 1300
    save(graph, path)
    with pytest.raises(ValueError, match="not that of this gallery"):
        load(path)


def test_a_whole_pipeline_answers_as_before(shapes, path):
    X, y = shapes
    extractor = CNNFeatureExtractor("small", weights=None, **SMALL).fit(X, y)
    search = make_pipeline(
        FrozenEstimator(extractor),
        LearnedWhitening(8),
        DeepHasher(12, **SMALL),
        NeighborsRetriever(4, metric="hamming", rerank="k_reciprocal"),
    ).fit(X, y, neighborsretriever__ids=[f"{i}.png" for i in range(len(X))])
    loaded = again(search, path)
    assert loaded.predict(X).tolist() == search.predict(X).tolist()
    assert loaded[-1].score() == search[-1].score()


@pytest.mark.parametrize("rerank", [*RERANKERS, AlphaQueryExpansion(3, alpha=0.5)], ids=str)
def test_rerankers_come_back_with_their_parameters(rerank, rows, path):
    retriever = NeighborsRetriever(5, rerank=rerank).fit(*rows)
    loaded = again(retriever, path)
    assert repr(loaded) == repr(retriever)
    assert loaded.predict(rows[0]).tolist() == retriever.predict(rows[0]).tolist()


LISTED = dict(all_estimators())
STEPS = [name for names in SCIKIT_LEARN.values() for name in names]


@pytest.mark.parametrize("name", [n for n in STEPS if n in LISTED and n not in ("Pipeline",)])
def test_steps_of_scikit_learn_transform_as_before(name, rows, path):
    special = {
        "FrozenEstimator": lambda cls: cls(Normalizer().fit(rows[0])),
        "FeatureUnion": lambda cls: cls([("pca", PCA(2)), ("same", "passthrough")]),
        "GaussianRandomProjection": lambda cls: cls(3, random_state=0),
    }
    step = special.get(name, lambda cls: cls())(LISTED[name]).fit(*rows)
    assert again(step, path).transform(rows[0]).tobytes() == step.transform(rows[0]).tobytes()


def test_unfitted_estimators_and_odd_parameters_come_back(path):
    odd = NeighborsRetriever(
        np.int64(3),
        recall_target=np.float32(0.7),
        expected_queries=np.nan,
        random_state=(1, [2.5, float("-inf")], {1: "a", "b": None}, np.str_("c"), np.bool_(True)),
        verbose=range(3),
    )
    assert_same_state(odd, again(odd, path))


def test_callbacks_and_the_cache_of_a_pipeline_stay_behind(rows, path, tmp_path):
    search = make_pipeline(PCA(2), NeighborsRetriever(2), memory=str(tmp_path / "cache"))
    assert again(search.fit(*rows), path).memory is None
    watched = CNNFeatureExtractor().set_callbacks(ProgressBar())
    assert "_skl_callbacks" not in vars(again(watched, path))


def test_another_process_gives_the_same_answers_and_a_retriever_needs_no_torch(rows, tmp_path):
    X, y = rows
    np.save(tmp_path / "X.npy", X)
    hasher = make_pipeline(DeepHasher(8, **SMALL), NeighborsRetriever(3, metric="hamming"))
    save(hasher.fit(X, y), tmp_path / "hasher.cbir")
    for metric in ("cosine", "euclidean"):
        exact = NeighborsRetriever(3, metric=metric, rerank="diffusion").fit(
            X, y, ids=np.arange(40)
        )
        save(exact, tmp_path / f"{metric}.cbir")
    program = """
import os, sys
import numpy as np
from sklearn_cbir.persistence import load
os.chdir(sys.argv[1])
X = np.load("X.npy")
for name in ("cosine", "euclidean"):
    np.save(name + ".npy", load(name + ".cbir").kneighbors(X))
heavy = ("torch", "torchvision", "skorch", "pynndescent", "numba", "pickle5")
assert not [name for name in heavy if name in sys.modules]
np.save("hasher.npy", load("hasher.cbir").predict(X))
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(tmp_path / "hasher.npy"), hasher.predict(X))
    for metric in ("cosine", "euclidean"):
        here = load(tmp_path / f"{metric}.cbir").kneighbors(X)
        assert np.array_equal(np.load(tmp_path / f"{metric}.npy"), here)


def test_equal_estimators_make_equal_files(rows, tmp_path):
    retriever = NeighborsRetriever(2).fit(*rows)
    save(retriever, tmp_path / "a")
    save(load(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_file_is_a_zip_of_json_and_npy(rows, path):
    save(NeighborsRetriever(2).fit(*rows), path)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        document = json.loads(archive.read("estimator.json"))
        assert document["estimator"]["class"] == "sklearn_cbir.neighbors.NeighborsRetriever"
        arrays = [np.lib.format.read_array(archive.open(n)) for n in archive.namelist()[1:]]
    assert any(array.shape == rows[0].shape for array in arrays)


# ---------------------------------------------------------------- what is refused


class Local(torch.nn.Module):
    def forward(self, x):
        return x


class Subclass(NeighborsRetriever):
    pass


def changed_loss():
    loss = DSHLoss()
    loss.margin = torch.ones(1)
    return loss


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (CNNFeatureExtractor(Local()), r"CNNFeatureExtractor.backbone is a .*Local, which is not"),
        (CNNFeatureExtractor(augment=len), "CNNFeatureExtractor.augment is a builtins.builtin"),
        (CNNFeatureExtractor(loss=torch.nn.MSELoss()), "CNNFeatureExtractor.loss is a torch.nn"),
        (CNNFeatureExtractor(optimizer=torch.optim.Adam), "CNNFeatureExtractor.optimizer"),
        (NeighborsRetriever(rerank=lambda *_: 0), "NeighborsRetriever.rerank is a"),
        (NeighborsRetriever(verbose={"a": [object()]}), r"NeighborsRetriever.verbose\['a'\]\[0\]"),
        (NeighborsRetriever(verbose=np.ones(1, dtype="V4")), "NeighborsRetriever.verbose"),
        (NeighborsRetriever(verbose=np.longdouble(1)), "NeighborsRetriever.verbose"),
        (DeepHasher(loss=changed_loss()), "DeepHasher.loss.margin is a torch"),
        (make_pipeline(FunctionTransformer(np.log1p)), "FunctionTransformer.func is a numpy.ufunc"),
        (make_pipeline(PCA(), SVC()), r"Pipeline.steps\[1\]\[1\] is a sklearn.svm"),
        (Subclass(), "Subclass is a .*Subclass, which is not saved without pickle. Use names"),
        (GridSearchCV(PCA(), {}), "GridSearchCV is a sklearn"),
    ],
    ids=lambda value: value.split()[0] if isinstance(value, str) else "",
)
def test_what_cannot_be_saved_is_named(estimator, message, path):
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        save(estimator, path)
    assert path.read_bytes() == b"old"


def test_a_search_points_to_its_best_estimator(rows, path):
    search = GridSearchCV(NeighborsRetriever(2), {"metric": ["cosine"]}, cv=2)
    order = np.random.default_rng(0).permutation(40)
    search.fit(rows[0][order], rows[1][order])
    with pytest.raises(ValueError, match="Save its best_estimator_"):
        save(search, path)
    assert again(search.best_estimator_, path).predict(rows[0]).shape == (40, 2)


@pytest.mark.parametrize("value", [{"a": 1}, PCA, None, np.ones(3)], ids=str)
def test_only_estimators_are_saved(value, path):
    with pytest.raises(ValueError, match="is not an estimator"):
        save(value, path)


class Bomb:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["joblib", "npz", "text", "empty"])
def test_files_of_another_kind_are_refused_and_never_unpickled(kind, path, tmp_path):
    bomb = Bomb(tmp_path / "exploded")
    if kind == "joblib":
        joblib.dump(bomb, path)
    elif kind == "npz":
        with open(path, "wb") as file:
            np.savez(file, a=np.array([bomb], dtype=object))
    else:
        path.write_text("hello" if kind == "text" else "")
    with pytest.raises(ValueError, match=r"search.cbir' is not a file of sklearn_cbir.persistence"):
        load(path)
    assert not bomb.path.exists()


def sign(path, archive_bytes, version=2):
    """Write an archive with a right checksum, as anybody can who wants to."""
    tail = f"sklearn_cbir format {version}, sha256 ".encode()
    end = archive_bytes[:-2] + (len(tail) + 64).to_bytes(2, "little") + tail
    path.write_bytes(end + hashlib.sha256(end).hexdigest().encode())


def forge(path, estimator, arrays=(), compression=zipfile.ZIP_STORED, version=2):
    """Write a file that describes `estimator` in JSON, with members of any bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("estimator.json", json.dumps({"estimator": estimator}))
        for number, content in enumerate(arrays):
            archive.writestr(f"arrays/{number}.npy", content)
    sign(path, buffer.getvalue(), version)


PLAIN = {
    "is": "object",
    "class": "sklearn_cbir.neighbors.NeighborsRetriever",
    "state": NeighborsRetriever().get_params(),
}


def with_parameter(node):
    return PLAIN | {"state": PLAIN["state"] | {"verbose": node}}


def npy(array, **kwargs):
    buffer = io.BytesIO()
    np.save(buffer, array, **kwargs)
    return buffer.getvalue()


def test_a_file_in_the_right_form_is_loaded(path):
    forge(path, with_parameter({"is": "array", "number": 0}), [npy(np.arange(3))])
    assert load(path).verbose.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "antigravity.geohash",
        "subprocess.Popen",
        "builtins.eval",
        "numpy.ndarray",
        "torch.nn.Linear",
        "sklearn_cbir._base.Network",
        "sklearn_cbir.features.NetworkTransformer",
        "sklearn_cbir.neighbors.np",
        "sklearn_cbir.neighbors.METRICS",
        "sklearn_cbir.datasets.load_image_folder",
        "sklearn_cbir.index._gallery.os",
        "sklearn_cbir.index._search.search",
        "sklearn_cbir.index._nothing.Engine",
        "sklearn_cbir.index._stored.ChangedError",
        "engine",
        "sklearn_cbir.losses.torch",
        "sklearn.pipeline.make_pipeline",
        "sklearn.svm.SVC",
        "sklearn.externals.joblib.Memory",
        "PCA",
        "",
    ],
)
@pytest.mark.parametrize("kind", ["object", "loss"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_cannot_name_a_class_that_is_not_on_the_list(name, kind, version, path):
    before = set(sys.modules)
    node = {"is": kind, "class": name, "state": {}, "arguments": {}}
    forge(path, with_parameter(node), version=version)
    with pytest.raises(ValueError, match="search.cbir"):
        load(path)
    assert "antigravity" not in set(sys.modules) - before


@pytest.mark.parametrize(
    ("name", "version"), [("half rows", 1), ("sklearn_cbir.index._stored.HalfRows", 2)]
)
def test_a_file_cannot_name_a_class_as_another_format_does(name, version, path):
    forge(path, with_parameter({"is": "object", "class": name, "state": {}}), version=version)
    with pytest.raises(ValueError, match="names '.*', which is not loaded from files"):
        load(path)


def test_a_file_cannot_bring_a_cache_of_pickles(path, tmp_path):
    state = Pipeline([], memory=str(tmp_path)).__getstate__()
    forge(path, {"is": "object", "class": "sklearn.pipeline.Pipeline", "state": state})
    assert isinstance(load(path), Pipeline)
    assert load(path).memory is None


def lying_header(shape):
    content = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, header)
    return content.getvalue() + bytes(8)


ARRAY = with_parameter({"is": "array", "number": 0})


@pytest.mark.parametrize(
    ("estimator", "arrays"),
    [
        (ARRAY, [npy(np.array([{}], dtype=object), allow_pickle=True)]),
        (ARRAY, [npy(np.zeros(1, dtype=[("a", "O")]), allow_pickle=True)]),
        (ARRAY, [lying_header((2**40,))]),
        (ARRAY, [lying_header((0, 2))]),
        (ARRAY, [b"no array"]),
        (ARRAY, []),
        (with_parameter({"is": "pickle", "value": "x"}), []),
        (with_parameter({"value": 1}), []),
        (with_parameter({"is": "objects", "shape": [7], "value": [1]}), []),
        ([1, 2], []),
        ("estimator", []),
    ],
    ids=[
        "objects",
        "objects in fields",
        "huge",
        "short",
        "not an array",
        "missing",
        "pickle",
        "no kind",
        "wrong shape",
        "list",
        "text",
    ],
)
def test_files_in_a_wrong_form_are_refused(estimator, arrays, path):
    forge(path, estimator, arrays)
    with pytest.raises(ValueError, match="search.cbir"):
        load(path)


def test_an_array_behind_the_end_of_the_file_is_refused(path):
    forge(path, ARRAY, [npy(np.zeros(100))])
    whole = path.read_bytes()
    name = whole.index(b"arrays/0.npy", whole.index(b"PK\x01\x02"))  # in the list of members
    place = name - 4  # of the header of the member
    start = int.from_bytes(whole[place:name], "little") + 2**30
    changed = whole[:place] + start.to_bytes(4, "little") + whole[name:]
    changed = changed[:-64]
    path.write_bytes(changed + hashlib.sha256(changed).hexdigest().encode())
    with pytest.raises(ValueError, match="search.cbir"):
        load(path)


def test_compressed_members_are_refused(path):
    forge(path, ARRAY, [npy(np.zeros(10**6))], zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        load(path)


def test_deep_nesting_is_an_error_and_not_a_crash(path):
    node = 1
    for _ in range(400):
        node = [node]
    text = json.dumps(with_parameter("NODE")).replace('"NODE"', "[" * 10**5 + "]" * 10**5)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("estimator.json", '{"estimator": ' + text + "}")
    sign(path, buffer.getvalue())
    with pytest.raises(ValueError, match="search.cbir"):
        load(path)


def test_a_newer_format_is_refused(path):
    forge(path, PLAIN, version=4)
    with pytest.raises(ValueError, match="saved in format 4; this version of sklearn_cbir reads"):
        load(path)


# ---------------------------------------------------------------- damage and failures


def test_a_flipped_bit_is_noticed_wherever_it_is(path, tmp_path):
    save(NeighborsRetriever(1).fit(np.eye(2)), path)
    content = path.read_bytes()
    damaged = tmp_path / "damaged.cbir"
    for byte in range(0, len(content), 5):
        changed = bytearray(content)
        changed[byte] ^= 1 << byte % 8
        damaged.write_bytes(changed)
        with pytest.raises(ValueError, match=r"damaged.cbir' is (corrupt|not a file)"):
            load(damaged)


def test_every_truncation_is_noticed(path, tmp_path):
    save(NeighborsRetriever(1).fit(np.eye(2)), path)
    content = path.read_bytes()
    damaged = tmp_path / "damaged.cbir"
    for cut in [*range(0, len(content), 37), len(content) - 1]:
        damaged.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"damaged.cbir' is (corrupt|not a file)"):
            load(damaged)
    damaged.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="damaged.cbir' is not a file"):
        load(damaged)


def test_a_missing_file_is_a_missing_file(path):
    with pytest.raises(FileNotFoundError, match="search.cbir"):
        load(path)


class Faults:
    """Let the n-th operation on files fail, and count them."""

    def __init__(self, monkeypatch, n):
        self.n, self.count = n, 0
        files = sklearn_cbir._files
        monkeypatch.setattr(files, "open", self.open, raising=False)
        for name in ("fsync", "replace"):
            monkeypatch.setattr(files.os, name, self.failing(getattr(files.os, name)))

    def failing(self, function):
        def call(*args, **options):
            self.count += 1
            if self.count == self.n:
                raise OSError(28, "No space left on device")
            return function(*args, **options)

        return call

    def open(self, *args, **options):
        file = self.failing(open)(*args, **options)
        faults = self

        class File:
            def __enter__(self):
                return self

            def __exit__(self, *error):
                file.close()

            def __getattr__(self, name):
                value = getattr(file, name)
                return faults.failing(value) if name in ("write", "flush") else value

        return File()


def test_the_old_file_survives_whatever_fails(rows, path, monkeypatch):
    save(NeighborsRetriever(1).fit(*rows), path)
    old = path.read_bytes()
    new = NeighborsRetriever(2).fit(*rows)
    failed = 0
    for n in itertools.count(1):
        with monkeypatch.context() as patch:
            Faults(patch, n)
            name = None
            try:
                save(new, path)
            except OSError as error:
                name = error.filename
            if name is None:  # nothing has failed, or nothing but to have the disk know the name
                break
        failed += 1
        assert name == str(path)
        assert path.read_bytes() == old
        assert [file.name for file in path.parent.iterdir()] == ["search.cbir"]
    assert failed > 20  # open, every write, flush, fsync and replace
    assert load(path).n_neighbors == 2


def test_a_folder_that_does_not_exist_is_named(rows, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        save(NeighborsRetriever(), tmp_path / "nowhere" / "a.cbir")
    assert not list(tmp_path.iterdir())


def test_large_arrays_are_read_and_written_in_pieces(path):
    X = np.random.default_rng(0).normal(size=(40_000, 16)).astype(np.float32)
    retriever = NeighborsRetriever(2, algorithm="exact").fit(X)
    loaded = again(retriever, path)
    assert path.stat().st_size < X.nbytes + 5000
    assert loaded._gallery.engine.rows.tobytes() == retriever._gallery.engine.rows.tobytes()


def test_what_is_in_a_file_is_told_in_short(tmp_path):
    path = tmp_path / "search.cbir"
    save(CNNFeatureExtractor("small", weights=None), path)
    assert saved_description(path) == "CNNFeatureExtractor('small')"
    save(make_pipeline(Normalizer(), NeighborsRetriever()), path)
    assert saved_description(path) == "Normalizer -> NeighborsRetriever"
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"search.cbir' is damaged, or was not written by save\."):
        saved_description(path)


def test_a_package_that_is_missing_is_named_with_the_way_to_do_without(tmp_path):
    path = tmp_path / "network.cbir"
    images, y = make_shapes(12, n_classes=2, random_state=0)
    save(CNNFeatureExtractor("small", weights=None, max_epochs=1).fit(images, y), path)
    program = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError('No module named torch', name=name)\n"
        "sys.meta_path.insert(0, Missing)\n"
        "from sklearn_cbir.persistence import load\n"
        f"try: load({str(path)!r})\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "network.cbir' needs torch, which is not installed" in done.stdout
    assert "to_onnx" in done.stdout
