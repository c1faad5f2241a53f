"""The curve of a training shows the losses and scores that there were, where they were."""

import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.callback import ScoringMonitor
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, NeighborsRetriever
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.display import TrainingCurveDisplay

LOSSES, VALID = [3.0, 2.0, 1.5, 1.25], [3.5, 2.5, 2.0, 2.25]
HISTORY = [
    {"epoch": i + 1, "phase": "head" if i < 1 else "all", "loss": LOSSES[i], "valid_loss": VALID[i]}
    for i in range(4)
]
NO_VALID = [{k: v for k, v in epoch.items() if k != "valid_loss"} for epoch in HISTORY]


@pytest.fixture(scope="module")
def trained():
    """An extractor that was trained with validation, and what a monitor noted of each epoch."""

    def scores(estimator, X, y, **ignored):
        return {"mean": float(estimator.transform(X[:4]).mean())}

    monitor = ScoringMonitor(scoring=scores)
    extractor = CNNFeatureExtractor(
        "small", weights=None, image_size=16, max_epochs=3, early_stopping=True, random_state=0
    )
    extractor.set_callbacks(monitor).fit(*make_shapes(40, random_state=0))
    return extractor, [row["mean"] for row in monitor.get_logs().data]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_a_curve_shows_the_history_of_the_estimator_and_its_scores(trained):
    extractor, scores = trained
    display = TrainingCurveDisplay.from_estimator(extractor, scores={"mean": scores})
    training, validation, score = display.lines_
    assert training.get_ydata().tolist() == [epoch["loss"] for epoch in extractor.history_]
    assert validation.get_ydata().tolist() == [epoch["valid_loss"] for epoch in extractor.history_]
    assert score.get_ydata().tolist() == scores
    assert [line.get_xdata().tolist() for line in display.lines_] == [[1, 2, 3]] * 3
    assert training.axes is validation.axes is display.ax_
    assert score.axes is display.score_ax_ is not display.ax_
    assert display.figure_ is display.ax_.figure
    assert len({line.get_color() for line in display.lines_}) == 3
    assert len({line.get_linestyle() for line in display.lines_}) == 3


def test_the_trained_step_of_pipelines_and_searches_is_found(trained):
    extractor, _ = trained
    images, y = make_shapes(40, random_state=0)
    pipe = make_pipeline(extractor, NeighborsRetriever().fit(extractor.transform(images), y))
    search = GridSearchCV(pipe, {})
    search.best_estimator_ = pipe
    for estimator in (pipe, search):
        display = TrainingCurveDisplay.from_estimator(estimator)
        assert display.history is extractor.history_


def test_only_what_was_computed_is_drawn():
    display = TrainingCurveDisplay(NO_VALID).plot()
    assert len(display.lines_) == 1
    assert display.score_ax_ is None
    assert legend(display.ax_) == ["training", "head alone"]
    gap = [NO_VALID[0], *HISTORY[1:]]
    values = TrainingCurveDisplay(gap).plot().lines_[1].get_ydata()
    assert np.isnan(values[0])
    assert values[1:].tolist() == VALID[1:]


def test_epochs_of_the_head_alone_are_shaded():
    history = [{"loss": 1.0, "phase": phase} for phase in ["head", "head", "all", "head", "all"]]
    spans = TrainingCurveDisplay(history).plot().ax_.patches
    assert [(s.get_x(), s.get_x() + s.get_width()) for s in spans] == [(0.5, 2.5), (3.5, 4.5)]
    assert TrainingCurveDisplay([{"loss": 1.0, "phase": "all"}]).plot().ax_.patches[:] == []


def test_several_trainings_share_axes_and_differ_in_looks_and_name():
    scores = {"map": np.array([0.1, 0.2, np.nan, 0.4])}
    first = TrainingCurveDisplay(HISTORY, scores=scores, name="slow").plot()
    second = TrainingCurveDisplay(HISTORY, scores=scores, name="$fast$").plot(first.ax_)
    third = TrainingCurveDisplay(NO_VALID, name="bare").plot(first.ax_, linewidth=3)
    assert second.ax_ is third.ax_ is first.ax_
    assert second.score_ax_ is first.score_ax_
    assert third.score_ax_ is None
    assert len(first.figure_.axes) == 2
    lines = [*first.lines_, *second.lines_, *third.lines_]
    assert len({line.get_color() for line in lines}) == 7
    assert third.lines_[0].get_linewidth() == 3
    assert first.ax_.get_legend() is None
    texts = legend(first.score_ax_)
    assert texts.count("head alone") == 1
    assert {"slow, training", "slow, map (right)", "bare, training"} < set(texts)


def test_given_axes_are_drawn_on_and_the_display_comes_back():
    figure, axes = plt.subplots(1, 2)
    display = TrainingCurveDisplay(HISTORY)
    assert display.plot(axes[1], color="black") is display
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert [line.get_color() for line in display.lines_] == ["black", "black"]
    assert plt.get_fignums() == [figure.number]
    again = display.plot()
    assert again.figure_ is not figure
    assert display.history is HISTORY


def test_one_epoch_can_be_seen():
    (line,) = TrainingCurveDisplay([{"loss": 0.5, "phase": "all"}]).plot().lines_
    assert line.get_marker() != "None"


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"map": [0.1, 0.2]}, r"scores\['map'\] has shape \(2,\) .* there were 3 epochs"),
        ({"map": ["a", "b", "c"]}, "dtype <U1"),
        ([0.1, 0.2, 0.3], "must be a dict"),
    ],
)
def test_scores_that_are_not_one_number_per_epoch_are_refused(trained, scores, message):
    with pytest.raises(ValueError, match=message):
        TrainingCurveDisplay.from_estimator(trained[0], scores=scores)


def test_what_was_not_trained_is_refused():
    untrained = CNNFeatureExtractor("small", weights=None, loss=None)
    with pytest.raises(NotFittedError):
        TrainingCurveDisplay.from_estimator(untrained)
    with pytest.warns(UserWarning, match="the network is random"):
        untrained.fit(make_shapes(4, random_state=0)[0])
    with pytest.raises(ValueError, match="was not trained, history_ is empty"):
        TrainingCurveDisplay.from_estimator(untrained)
    with pytest.raises(ValueError, match="PCA trains no network"):
        TrainingCurveDisplay.from_estimator(PCA().fit(np.eye(3)))


def test_without_matplotlib_the_extra_is_named(monkeypatch, trained):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-cbir\[plot\]'"):
        TrainingCurveDisplay.from_estimator(trained[0])
