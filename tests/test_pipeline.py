"""The whole job: pipelines, searches over them, memory, metadata routing, files, processes."""

import subprocess
import sys

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import config_context
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever
from sklearn_cbir.datasets import load_image_folder, make_shapes
from sklearn_cbir.model_selection import ClassDisjointKFold, retrieval_scorer

FOLDS = StratifiedKFold(2, shuffle=True, random_state=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of photos, one sub-folder a class."""
    root = tmp_path_factory.mktemp("catalogue")
    images, y = make_shapes(60, n_classes=3, random_state=0)
    for i, (image, label) in enumerate(zip(images, y)):
        path = root / f"class{label}" / f"{i:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(path)
    return root


def extractor(**params):
    defaults = {"weights": None, "max_epochs": 2, "batch_size": 16, "lr": 3e-3, "random_state": 0}
    return CNNFeatureExtractor("small", **defaults | params)


def whole(**params):
    return make_pipeline(
        extractor(),
        DeepHasher(n_bits=16, max_epochs=3, random_state=0),
        NeighborsRetriever(n_neighbors=5, metric="hamming"),
        **params,
    )


def test_the_first_page_of_the_design_runs_as_it_is(folder, tmp_path):
    photos = load_image_folder(folder)
    queries, labels = photos.data[40:], photos.target[40:]
    photos.data, photos.target = photos.data[:40], photos.target[:40]
    search = make_pipeline(
        extractor(image_size=32),
        DeepHasher(n_bits=48, loss="dfeh", max_epochs=3, random_state=0),
        NeighborsRetriever(metric="hamming"),
        memory=str(tmp_path / "cache"),
    )
    folds = StratifiedKFold(2, shuffle=True, random_state=0)
    tuned = GridSearchCV(search, {"deephasher__n_bits": [24, 48]}, cv=folds)
    tuned.fit(photos.data, photos.target, neighborsretriever__ids=photos.data)
    assert 0.3 < tuned.score(queries, labels) <= 1
    names = tuned.predict(queries)
    assert set(names.ravel()) <= set(photos.data)
    joblib.dump(tuned.best_estimator_, tmp_path / "catalogue.joblib")
    again = joblib.load(tmp_path / "catalogue.joblib")
    assert np.array_equal(again.predict(queries), names)


def test_memory_trains_each_network_once_per_fold(folder, tmp_path, monkeypatch):
    photos = load_image_folder(folder)
    trained = []
    fit = CNNFeatureExtractor.fit_transform
    monkeypatch.setattr(
        CNNFeatureExtractor, "fit_transform", lambda *a, **k: trained.append(1) or fit(*a, **k)
    )
    grid = {"deephasher__n_bits": [8, 16], "neighborsretriever__n_neighbors": [2, 5]}
    search = GridSearchCV(whole(memory=str(tmp_path)), grid, cv=FOLDS, refit=False)
    search.fit(photos.data, photos.target)
    assert len(trained) == 2
    search.fit(photos.data, photos.target)
    assert len(trained) == 2


@pytest.fixture
def one_thread():
    """As many torch threads as the workers of a search have."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_two_jobs_find_what_one_finds(folder):
    photos = load_image_folder(folder)
    grid = [
        {"deephasher__n_bits": [8], "cnnfeatureextractor__lr": [1e-3]},
        {"deephasher__n_bits": [24], "cnnfeatureextractor__lr": [3e-3]},
    ]
    results = [
        GridSearchCV(whole(), grid, cv=FOLDS, n_jobs=n_jobs, refit=False) for n_jobs in (1, 2)
    ]
    for search in results:
        search.fit(photos.data, photos.target)
    assert results[0].best_params_ == results[1].best_params_
    scores = [search.cv_results_["mean_test_score"] for search in results]
    # At the same number of torch threads the results are the same bit for bit.
    assert np.array_equal(*scores)


def test_halving_search_spends_epochs(folder):
    images, y = make_shapes(60, n_classes=3, random_state=0)
    search = HalvingGridSearchCV(
        make_pipeline(extractor(), NeighborsRetriever()),
        {"cnnfeatureextractor__lr": [1e-4, 1e-3, 3e-3]},
        resource="cnnfeatureextractor__max_epochs",
        max_resources=4,
        min_resources=1,
        cv=FOLDS,
        return_train_score=False,
        random_state=0,
    ).fit(images, y)
    assert search.best_estimator_["cnnfeatureextractor"].n_iter_ >= 2


@pytest.mark.parametrize("routing", [False, True])
def test_ids_and_scores_work_with_metadata_routing_on_and_off(folder, routing):
    photos = load_image_folder(folder)
    with config_context(enable_metadata_routing=routing):
        retriever = NeighborsRetriever(n_neighbors=3)
        if routing:
            retriever.set_fit_request(ids=True).set_score_request(ids=True)
        pipeline = make_pipeline(extractor(max_epochs=1), retriever)
        step = "" if routing else "neighborsretriever__"
        pipeline.fit(photos.data, photos.target, **{f"{step}ids": photos.data})
        assert set(pipeline.predict(photos.data[:3]).ravel()) <= set(photos.data)
        if routing:
            # The queries are in the gallery; their ids leave them out.
            score = pipeline.score(photos.data, photos.target, ids=photos.data)
            rows = pipeline[:-1].transform(photos.data)
            assert score == pytest.approx(pipeline[-1].score(None, photos.target))
            assert score < pipeline[-1].score(rows + 1e-9, photos.target)
        search = GridSearchCV(pipeline, {"neighborsretriever__n_neighbors": [2, 3]}, cv=FOLDS)
        search.fit(photos.data, photos.target, **{f"{step}ids": photos.data})
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("routing", [False, True])
def test_classes_that_were_never_trained_on_are_scored_among_themselves(routing):
    images, y = make_shapes(80, n_classes=8, random_state=0)
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(
            make_pipeline(CPFEmbedder(8, max_epochs=1, random_state=0), NeighborsRetriever()),
            {"cpfembedder__tau": [0.38, 0.5]},
            cv=ClassDisjointKFold(2),
            scoring=retrieval_scorer("recall@1", gallery="queries"),
        ).fit(images, y)
    assert (search.cv_results_["mean_test_score"] > 0).all()


def test_a_trained_network_indexes_another_gallery(folder):
    images, y = make_shapes(60, n_classes=3, random_state=0)
    trained = extractor().fit(images, y)
    other, labels = make_shapes(30, n_classes=3, random_state=1)
    search = make_pipeline(FrozenEstimator(trained), NeighborsRetriever()).fit(other, labels)
    assert search.score(images, y) > 0.34


LOAD = """
import sys, joblib, numpy as np
search = joblib.load(sys.argv[1])
queries = np.load(sys.argv[2])
np.save(sys.argv[3], search.predict(queries))
print([name for name in ("torch", "torchvision", "pynndescent", "numba") if name in sys.modules])
"""


def ask(saved, queries, tmp_path):
    """Load in another process, ask, and say which heavy modules it took."""
    np.save(tmp_path / "queries.npy", queries)
    paths = [str(saved), str(tmp_path / "queries.npy"), str(tmp_path / "answer.npy")]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LOAD, *paths],
        capture_output=True,
        text=True,
        check=True,
    )
    return np.load(tmp_path / "answer.npy"), done.stdout.strip()


@pytest.mark.parametrize("compress", [0, 3])
def test_another_process_loads_the_pipeline_and_gives_the_same_answers(tmp_path, compress):
    images, y = make_shapes(60, n_classes=3, random_state=0)
    search = whole().fit(images, y)
    saved = tmp_path / "search.joblib"
    joblib.dump(search, saved, compress=compress)
    if not compress:
        assert b"torch" not in saved.read_bytes()
    answer, _ = ask(saved, images[:5], tmp_path)
    assert np.array_equal(answer, search.predict(images[:5]))


def test_a_saved_exact_retriever_answers_without_torch_and_pynndescent(tmp_path, rng):
    rows = rng.normal(size=(50, 8)).astype(np.float32)
    retriever = NeighborsRetriever(n_neighbors=3).fit(rows)
    joblib.dump(retriever, tmp_path / "retriever.joblib")
    answer, loaded = ask(tmp_path / "retriever.joblib", rows[:4], tmp_path)
    assert np.array_equal(answer, retriever.predict(rows[:4]))
    assert loaded == "[]"


def test_memory_mapped_weights_transform(tmp_path):
    images, y = make_shapes(60, n_classes=3, random_state=0)
    search = whole().fit(images, y)
    joblib.dump(search, tmp_path / "search.joblib")
    mapped = joblib.load(tmp_path / "search.joblib", mmap_mode="r")
    assert np.array_equal(mapped.predict(images), search.predict(images))


def test_an_unshuffled_split_of_sorted_photos_names_the_splitter_to_use(folder):
    images, y = make_shapes(60, n_classes=3, random_state=0)
    order = np.argsort(y, kind="stable")
    search = GridSearchCV(whole(), {"deephasher__n_bits": [8]}, cv=3, error_score="raise")
    with pytest.raises(ValueError, match="StratifiedKFold"):
        search.fit(images[order], y[order])
