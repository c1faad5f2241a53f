"""What scikit-learn passes on: arrays of other libraries, targets of a regressor behind."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsRegressor, KNeighborsTransformer
from sklearn.pipeline import make_pipeline

from sklearn_cbir import NeighborsRetriever, persistence
from sklearn_cbir.hashing import ITQHasher
from sklearn_cbir.metrics import mean_average_precision
from sklearn_cbir.whitening import LearnedWhitening


@pytest.mark.parametrize("dispatch", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors_are_taken_whatever_scikit_learn_dispatches(dispatch, dtype, rng, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")
    X = torch.tensor(rng.normal(size=(60, 8))).to(getattr(torch, dtype)).requires_grad_()
    rows, y = X.detach().double().numpy(), np.arange(60) % 4
    expected = NeighborsRetriever(3, metric="euclidean").fit(rows, y)
    with config_context(array_api_dispatch=dispatch):
        retriever = NeighborsRetriever(3, metric="euclidean").fit(X, torch.tensor(y))
        positions = retriever.kneighbors(X[:9])[1]
        np.testing.assert_array_equal(positions, expected.kneighbors(rows[:9])[1])
        assert retriever.score() == pytest.approx(expected.score())
        retriever.partial_fit(X[:5], torch.tensor(y[:5]))
        codes = ITQHasher(4, random_state=0).fit_transform(X, torch.tensor(y))
        assert isinstance(codes, np.ndarray)
        assert isinstance(LearnedWhitening().fit(X, y).transform(X), np.ndarray)
        distances = torch.cdist(X.double(), X.double())
        mean_average_precision(torch.tensor(y), torch.tensor(y), distances)


@pytest.mark.parametrize("targets", [(), (2,)])
def test_a_regressor_behind_takes_continuous_targets(targets, rng):
    X = rng.normal(size=(80, 3))
    y = rng.normal(size=(80, *targets))

    def behind(transformer):
        return make_pipeline(transformer, KNeighborsRegressor(5, metric="precomputed"))

    ours = behind(NeighborsRetriever(5, metric="euclidean"))
    theirs = behind(KNeighborsTransformer(n_neighbors=5))
    np.testing.assert_allclose(ours.fit(X, y).predict(X), theirs.fit(X, y).predict(X))
    np.testing.assert_allclose(cross_val_score(ours, X, y), cross_val_score(theirs, X, y))


def test_continuous_targets_are_held_and_not_scored(rng, tmp_path):
    X, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    retriever = NeighborsRetriever(2).fit(X[:15], y[:15]).partial_fit(X[15:], y[15:])
    persistence.save(retriever.remove([3]), tmp_path / "gallery.cbir")
    loaded = persistence.load(tmp_path / "gallery.cbir")
    np.testing.assert_array_equal(loaded.y_, np.delete(y, 3))
    for score in (loaded.score, loaded.evaluate):
        with pytest.raises(ValueError, match="fitted with continuous y, such as"):
            score()
    with pytest.raises(ValueError, match="20 rows in X, 19 targets in y"):
        NeighborsRetriever().fit(X, y[:19])
    with pytest.raises(ValueError, match=r"y has shape \(1, 2\), but the gallery's targets"):
        retriever.partial_fit(X[:1], [[0.5, 0.5]])
    with pytest.raises(ValueError, match="contains NaN or infinity"):
        NeighborsRetriever().fit(X, np.r_[y[:19], np.nan])
