"""Words of a small model of open_clip: searched with, saved, left out, and parted from images."""

from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from clip_cases import CLIP, write_config
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever, Text
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.extraction import extract
from sklearn_cbir.persistence import load, save
from sklearn_cbir.whitening import LearnedWhitening

open_clip = pytest.importorskip("open_clip")

NAME = "open_clip/tiny-words"
RED, BLUE = "a red circle", "a blue square"
SHAPES_CLIP = Path(__file__).parent / "data" / "shapes_clip"
# The classes of make_shapes, and another way to say them.
CLASSES = [
    *("a red circle", "a green square", "a blue triangle", "a yellow cross"),
    *("a green circle", "a blue square", "a yellow triangle", "a red cross"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of open_clip with random weights, and the file of these."""
    folder = tmp_path_factory.mktemp("model")
    open_clip.add_model_config(write_config(folder, "tiny-words", CLIP))
    torch.manual_seed(0)
    made = open_clip.create_model("tiny-words").eval()
    torch.save(made.state_dict(), folder / "weights.pt")
    return made, folder / "weights.pt"


@pytest.fixture(scope="module")
def shapes():
    return make_shapes(24, n_classes=3, image_size=32, random_state=0)


@pytest.fixture(scope="module")
def search(model, shapes):
    images, y = shapes
    pipeline = make_pipeline(
        CNNFeatureExtractor(NAME, weights=model[1], loss=None), NeighborsRetriever(4)
    )
    return pipeline.fit(images, y)


def holds_words(estimator):
    return any("words" in name for name in estimator._network_state["weights"])


def test_rows_of_texts_are_those_of_open_clip(model, search):
    texts = [RED, BLUE, "A photo of a dress &amp; a shoe!"]
    tokens = open_clip.get_tokenizer("tiny-words")(texts)
    with torch.no_grad():
        expected = model[0].encode_text(tokens, normalize=True).numpy()
    assert np.allclose(search[0].encode_text(texts), expected, atol=1e-5)


def test_texts_are_searched_with_and_again_after_saving(search, shapes, tmp_path):
    queries = [Text(RED), shapes[0][3], shapes[0][5] + Text(BLUE)]
    found = search.predict(queries)
    rows = search[:-1].transform(queries)
    assert found.shape == (3, 4)
    assert found[1, 0] == 3
    save(search, tmp_path / "search.cbir")
    joblib.dump(search, tmp_path / "search.joblib")
    for again in (load(tmp_path / "search.cbir"), joblib.load(tmp_path / "search.joblib")):
        assert np.array_equal(again[:-1].transform(queries), rows)
        assert np.array_equal(again.predict(queries), found)


def test_words_left_out_take_no_room_and_are_asked_for_in_vain(model, shapes, search, tmp_path):
    without = CNNFeatureExtractor(NAME, weights=model[1], loss=None, words=False).fit(shapes[0])
    assert np.array_equal(without.transform(shapes[0]), search[0].transform(shapes[0]))
    assert holds_words(search[0])
    assert not holds_words(without)
    save(search[0], tmp_path / "with.cbir")
    save(without, tmp_path / "without.cbir")
    sizes = [(tmp_path / name).stat().st_size for name in ("with.cbir", "without.cbir")]
    assert sizes[1] < sizes[0] / 4  # most of so small a model is its table of tokens
    for extractor in (without, load(tmp_path / "without.cbir")):
        with pytest.raises(ValueError, match="words=False has left out"):
            extractor.encode_text([RED])


@pytest.mark.filterwarnings("ignore:.*training images get the same vector")
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (CNNFeatureExtractor, {}),
        (CNNFeatureExtractor, {"n_components": 8}),
        (DeepHasher, {"n_bits": 8}),
        (CPFEmbedder, {"threshold_fraction": 0}),
    ],
    ids=["trained", "n_components", "DeepHasher", "CPFEmbedder"],
)
def test_what_is_trained_keeps_no_words(kind, parameters, model, shapes):
    options = {"backbone": NAME, "weights": model[1], "max_epochs": 0, "head_epochs": 1}
    if kind is CNNFeatureExtractor and not parameters:
        options["max_epochs"], options["head_epochs"] = 1, 0
    trained = kind(**options, **parameters, random_state=0).fit(*shapes)
    assert not holds_words(trained)
    if kind is CNNFeatureExtractor:
        with pytest.raises(ValueError, match="cannot encode words: training has moved"):
            trained.encode_text([RED])
    else:
        with pytest.raises(ValueError, match="words have no pixels"):
            trained.transform([Text(RED)])


def test_own_pooling_keeps_no_words(model, shapes):
    pooled = CNNFeatureExtractor(NAME, weights=model[1], loss=None, pooling="avg").fit(shapes[0])
    assert not holds_words(pooled)
    with pytest.raises(ValueError, match="cannot encode words: pooling='avg'"):
        pooled.transform([Text(RED)])


def test_a_long_text_is_cut_off_with_a_warning(search):
    long = "red " * 14
    with pytest.warns(UserWarning, match="longer than the 16 tokens"):
        rows = search[0].encode_text([f"{long} and never read", f"{long} nor this"])
    assert np.allclose(rows[0], rows[1], atol=1e-6)


def test_texts_pass_the_steps_behind_the_network(search, shapes):
    images, y = shapes
    whitened = make_pipeline(
        FrozenEstimator(search[0]), LearnedWhitening(8), NeighborsRetriever(2)
    ).fit(images, y)
    assert whitened.predict([Text(RED), Text(BLUE) - images[0]]).shape == (2, 2)


def test_rows_that_were_extracted_before_are_searched_with_words(search, shapes, tmp_path):
    rows = extract(search[0], shapes[0], tmp_path, shard_size=10)
    retriever = NeighborsRetriever(4).fit(rows)
    queries = [Text(RED), Text(BLUE)]
    found = retriever.predict(search[0].transform(queries))
    assert np.array_equal(found, search.predict(queries))


def test_a_search_over_parameters_answers_texts(model, shapes):
    grid = GridSearchCV(
        make_pipeline(CNNFeatureExtractor(NAME, weights=model[1], loss=None), NeighborsRetriever()),
        {"neighborsretriever__n_neighbors": [2, 3]},
        cv=2,
        error_score="raise",
    )
    grid.fit(*shapes)
    assert len(grid.predict([Text(RED), shapes[0][0]])) == 2


@pytest.fixture(scope="module")
def trained_search():
    """A search in drawings by a model that knows what they are called."""
    drawings, y = make_shapes(240, n_classes=8, random_state=3)
    extractor = CNNFeatureExtractor(
        f"open_clip/local-dir:{SHAPES_CLIP}", weights="pretrained", loss=None
    )
    return make_pipeline(extractor, NeighborsRetriever(5)).fit(drawings, y)


def test_words_find_what_they_name(trained_search):
    found = trained_search.score([Text(name) for name in CLASSES], range(8))
    assert found > 0.8  # .5 is what colors alone would give, .13 chance
    assert trained_search.score([Text(f"A photo of {name}") for name in CLASSES], range(8)) > 0.8


def test_words_and_drawings_are_told_apart_in_one_list(trained_search):
    drawings, y = make_shapes(8, n_classes=8, random_state=4)
    queries = [query for pair in zip(map(Text, CLASSES), drawings) for query in pair]
    labels = [label for pair in zip(range(8), y) for label in pair]
    assert trained_search.score(queries, labels) > 0.75
    order = np.random.default_rng(0).permutation(len(queries))
    shuffled = trained_search.predict([queries[place] for place in order])
    assert np.array_equal(shuffled, trained_search.predict(queries)[order])


def test_a_sum_finds_what_is_added_and_avoids_what_is_subtracted(trained_search):
    classes = trained_search[-1].y_
    red = {0, 7}
    (found,) = trained_search.predict([Text("a red circle") - Text("red") + Text("green")])
    assert {1, 4} >= set(classes[found])  # what is green
    (found,) = trained_search.predict([Text("a circle") + Text("red")])
    assert set(classes[found]) <= {0, 4} | red


def test_words_of_what_is_loaded_find_the_same(trained_search, tmp_path):
    save(trained_search, tmp_path / "shapes.cbir")
    queries = [Text(name) for name in CLASSES]
    found = load(tmp_path / "shapes.cbir").predict(queries)
    assert np.array_equal(found, trained_search.predict(queries))
