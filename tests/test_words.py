"""Words as queries: `Text` beside images, sums of both, and who refuses them."""

import copy
import io
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import _safe_indexing
from torch import nn

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, NeighborsRetriever, Text
from sklearn_cbir.datasets import crop_images, make_shapes
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.display import RetrievalDisplay
from sklearn_cbir.extraction import extract
from sklearn_cbir.hashing import ITQHasher
from sklearn_cbir.images import ImageReadError, check_images, is_feature_rows, readable_images
from sklearn_cbir.whitening import LearnedWhitening

PHOTOS = sorted(str(path) for path in (Path(__file__).parent / "data" / "clothing").glob("*/*"))[:6]
RED, BLUE = "a red dress", "blue shoes"
NO_PIXELS = "words have no pixels"


class Words(nn.Module):
    """What `Trunk.words` is asked for: one vector per text, of any length."""

    def __init__(self, width):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(torch.randn(256, width))
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        letters = [torch.tensor(list(text.encode())) for text in texts]
        return torch.stack([self.table(numbers).sum(dim=0) for numbers in letters])


def fitted(X=PHOTOS, words=True, **parameters):
    """Return an extractor that knows words, without open_clip."""
    torch.manual_seed(0)
    options = {"loss": None, "image_size": 32, "batch_size": 4, "random_state": 0} | parameters
    trunk = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.Flatten(), nn.LazyLinear(16))
    extractor = CNNFeatureExtractor(trunk, **options).fit(X)
    if words:
        extractor._fitted_network().trunk.words = Words(16)
    return extractor


@pytest.fixture(scope="module")
def extractor():
    return fitted()


def words_of(extractor):
    return extractor._fitted_network().trunk.words


def opened(path):
    return Image.open(io.BytesIO(Path(path).read_bytes()))


def unit(row):
    return row / np.linalg.norm(row)


# Text -------------------------------------------------------------------------------------------


def test_text_shows_what_it_is():
    query = "night/harbor.jpg" + Text("at night") - Text("people")
    assert repr(Text(RED)) == "Text('a red dress')"
    assert repr(query) == "'night/harbor.jpg' + Text('at night') - Text('people')"
    assert str(query) == "harbor.jpg + at night - people"
    assert eval(repr(query)) == query
    assert str(Text("at") + f"{'long' * 9}.jpeg") == "at + longlongl…long.jpeg"


def test_sums_are_flat_and_keep_every_sign():
    query = Text("a") - (Text("b") - "c.jpg" - Text("d")) + (Text("e") + Path("f.jpg"))
    assert [term[:2] for term in query.terms] == [
        *((1, "a"), (-1, "b"), (1, None), (1, "d"), (1, "e")),
        (1, None),
    ]
    assert [term.image for term in query.terms if term.image] == ["c.jpg", "f.jpg"]


@pytest.mark.parametrize(
    ("photo", "kept"),
    [
        ("a.jpg", "a.jpg"),
        (np.str_("a.jpg"), "a.jpg"),
        (Path("a.jpg"), "a.jpg"),
        (b"photo", b"photo"),
        (bytearray(b"photo"), b"photo"),
        (memoryview(b"photo"), b"photo"),
        (io.BytesIO(b"photo"), b"photo"),
    ],
    ids=["str", "NumPy text", "Path", "bytes", "bytearray", "memoryview", "BytesIO"],
)
def test_photos_are_added_from_both_sides(photo, kept):
    for query, signs in (
        (Text(RED) + photo, (1, 1)),
        (Text(RED) - photo, (1, -1)),
        (photo + Text(RED), (1, 1)),
        (photo - Text(RED), (1, -1)),
    ):
        (found,) = (term.image for term in query.terms if term.words is None)
        assert (found, type(found)) == (kept, type(kept))
        assert tuple(term.sign for term in query.terms) == signs
        assert hash(query) == hash(pickle.loads(pickle.dumps(query)))


@pytest.mark.parametrize(
    "make",
    [
        lambda pixels: pixels,
        lambda pixels: pixels[..., 0],
        lambda pixels: pixels / np.float32(255),
        torch.from_numpy,
        Image.fromarray,
    ],
    ids=["array", "gray", "float", "tensor", "PIL image"],
)
def test_pixels_are_added_from_both_sides_and_compared_by_what_they_show(make):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    one, other = make(pixels), make(pixels.copy())
    assert one + Text(RED) == other + Text(RED)
    assert hash(one - Text(RED)) == hash(other - Text(RED))
    assert Text(RED) + one != Text(RED) - one
    assert Text(RED) + one != Text(RED) + make(pixels[::-1].copy())
    assert pickle.loads(pickle.dumps(one + Text(RED))) == one + Text(RED)
    assert repr(Text(RED) + one).startswith("Text('a red dress') + <")


def test_texts_are_values():
    assert Text(RED) == Text(RED) != Text(BLUE)
    assert Text(RED) != RED
    assert len({Text(RED), Text(RED), Text(BLUE), Text(RED) + Text(BLUE)}) == 3
    assert copy.deepcopy(Text(RED) - "a.jpg") == Text(RED) - "a.jpg"
    assert Text(np.str_(RED)).terms[0].words.__class__ is str
    assert sum([Text(RED), Text(BLUE)]) == Text(RED) + Text(BLUE)
    with pytest.raises(AttributeError):
        Text(RED).terms = ()


@pytest.mark.parametrize(
    "other",
    [1, 0.5, None, ["a.jpg"], {"path": "a.jpg"}, {"a.jpg"}, np.float64(1), np.array(["a", "b"])],
    ids=["int", "float", "None", "list", "dict", "set", "number", "paths"],
)
def test_what_is_no_image_is_not_added(other):
    for add in (
        lambda: Text(RED) + other,
        lambda: other + Text(RED),
        lambda: Text(RED) - other,
        lambda: other - Text(RED),
    ):
        with pytest.raises(TypeError):
            add()


def test_images_in_sums_are_checked_at_once():
    with pytest.raises(ValueError, match="looks channels-first"):
        Text(RED) + np.zeros((3, 32, 32))
    with pytest.raises(ValueError, match=r"path of a photo .* is empty"):
        Text(RED) + ""
    with pytest.raises(TypeError, match="Add to each"):
        np.array(["a.jpg", "b.jpg"]) + Text(RED)


@pytest.mark.parametrize("words", [5, None, b"a red dress", ["a red dress"], Text(RED)])
def test_words_are_text(words):
    with pytest.raises(ValueError, match="str"):
        Text(words)


@pytest.mark.parametrize("words", ["", " \n\t"])
def test_words_say_something(words):
    with pytest.raises(ValueError, match="is empty"):
        Text(words)


# encode_text ------------------------------------------------------------------------------------


def test_texts_become_unit_rows_in_their_order(extractor):
    rows = extractor.encode_text([RED, BLUE, RED])
    assert rows.shape == (3, extractor.n_features_out_)
    assert rows.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert np.array_equal(rows[0], rows[2])
    expected = words_of(extractor).encode([RED])[0].numpy()
    assert np.allclose(rows[0], unit(expected), atol=1e-6)


def test_texts_are_encoded_batch_by_batch(extractor):
    words_of(extractor).asked.clear()
    texts = [f"text {number}" for number in range(10)]
    extractor.encode_text(texts)
    assert words_of(extractor).asked == [texts[:4], texts[4:8], texts[8:]]


@pytest.mark.parametrize("make", [tuple, np.array, pd.Series, lambda texts: (t for t in texts)])
def test_texts_come_in_any_row_of_them(make, extractor):
    expected = extractor.encode_text([RED, BLUE])
    assert np.array_equal(extractor.encode_text(make([RED, BLUE])), expected)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (RED, "one text: wrap it in a list"),
        (Text(RED), "one text: wrap it in a list"),
        ([], "texts is empty"),
        (5, "Pass a list of str"),
        ([RED, ""], r"texts\[1\] is '', which is empty"),
        ([RED, None], r"texts\[1\] is None of type NoneType"),
        ([RED, b"blue"], r"texts\[1\] is b'blue' of type bytes"),
        ([float("nan")], r"texts\[0\] is nan of type float"),
        ([Text(RED)], r"texts\[0\] is Text\('a red dress'\) already"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_texts_that_are_none_are_refused(texts, message, extractor):
    with pytest.raises(ValueError, match=message):
        extractor.encode_text(texts)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: fitted(words=False), "was not trained on words"),
        (lambda: fitted(words=False).set_params(words=False), "words=False has left out"),
        (lambda: fitted().set_params(scales=(1, 0.5)), r"scales=\(1, 0.5\)"),
        (lambda: CNNFeatureExtractor(loss=None).fit(np.eye(4)), "2-D feature rows"),
    ],
    ids=["no words", "left out", "scales", "rows"],
)
def test_who_knows_no_words_says_why_and_what_does(make, reason):
    extractor = make()
    for ask in (extractor.encode_text, lambda texts: extractor.transform([*map(Text, texts)])):
        with pytest.raises(ValueError, match=rf"cannot encode words: .*{reason}.*open_clip/"):
            ask([RED])


@pytest.mark.parametrize(
    ("make", "way"),
    [
        (lambda: fitted(words=False).set_params(words=False), "Use words=True, and a network"),
        (lambda: fitted().set_params(scales=(1, 0.5)), r"Use scales=\(1.0,\), and a network"),
    ],
    ids=["left out", "scales"],
)
def test_a_network_of_words_is_not_told_to_be_another(make, way):
    with pytest.raises(ValueError, match=way):
        make().encode_text([RED])


@pytest.mark.parametrize("step", [NeighborsRetriever(1), ITQHasher(2), LearnedWhitening(2)])
def test_what_reads_numbers_says_who_makes_them_of_words(step):
    step.fit(np.eye(4, 3), [0, 0, 1, 1])
    ask = step.predict if hasattr(step, "predict") else step.transform
    with pytest.raises(TypeError, match="is not a row of numbers. Put a CNNFeatureExtractor"):
        ask([Text(RED)])


def test_training_parts_words_and_images():
    images, y = make_shapes(8, n_classes=2, random_state=0)
    trained = CNNFeatureExtractor("small", weights=None, max_epochs=1).fit(images, y)
    trained._fitted_network().trunk.words = Words(256)
    with pytest.raises(ValueError, match="cannot encode words: training has moved"):
        trained.encode_text([RED])
    with pytest.raises(ValueError, match="cannot encode words: training has moved"):
        trained.transform([Text(RED)])


@pytest.mark.filterwarnings("ignore:loss=None and weights=None")
def test_own_pooling_parts_words_and_images():
    images, _ = make_shapes(4, random_state=0)
    pooled = CNNFeatureExtractor("small", weights=None, loss=None, pooling="gem").fit(images)
    pooled._fitted_network().trunk.words = Words(256)
    with pytest.raises(ValueError, match="cannot encode words: pooling='gem'"):
        pooled.encode_text([RED])
    with pytest.raises(ValueError, match="cannot encode words: pooling='gem'"):
        pooled.transform([Text(RED)])


# Texts in X -------------------------------------------------------------------------------------


def as_column(elements):
    column = np.empty((len(elements), 1), dtype=object)
    column[:, 0] = elements
    return column


COLUMNS = {
    "list": list,
    "tuple": tuple,
    "array": lambda elements: as_column(elements)[:, 0],
    "column": as_column,
    "Series": lambda elements: pd.Series(elements, index=range(len(elements), 0, -1)),
    "DataFrame": lambda elements: pd.DataFrame({"query": elements}),
}


@pytest.mark.parametrize("make", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_texts_stand_anywhere_among_photos(make, order, extractor):
    elements = [PHOTOS[0], PHOTOS[1], Text(RED), Text(BLUE)]
    rows = np.concatenate([extractor.transform(PHOTOS[:2]), extractor.encode_text([RED, BLUE])])
    found = extractor.transform(make([elements[place] for place in order]))
    assert found.dtype == np.float32
    assert np.allclose(found, rows[list(order)], atol=1e-6)


@pytest.mark.parametrize("make", COLUMNS.values(), ids=COLUMNS)
def test_texts_may_stand_alone(make, extractor):
    found = extractor.transform(make([Text(BLUE), Text(RED)]))
    assert np.array_equal(found, extractor.encode_text([BLUE, RED]))


def test_photos_have_the_same_bits_with_texts_between_them(extractor):
    mixed = [PHOTOS[0], Text(RED), *PHOTOS[1:4], Text(BLUE), *PHOTOS[4:]]
    found = np.delete(extractor.transform(mixed), [1, 5], axis=0)
    assert np.array_equal(found, extractor.transform(PHOTOS))


def test_an_array_of_texts_is_what_numpy_makes_of_a_list(extractor):
    mixed = np.array([PHOTOS[0], Text(RED)])
    assert (mixed.dtype, mixed.shape) == (object, (2,))
    assert np.array_equal(extractor.transform(mixed), extractor.transform([PHOTOS[0], Text(RED)]))


def test_a_plain_str_stays_a_path(extractor):
    with pytest.raises(ImageReadError, match=r"X\[1\] 'a red dress': the file does not exist"):
        extractor.transform([Text(RED), RED])


def test_every_text_is_encoded_once(extractor):
    words_of(extractor).asked.clear()
    extractor.transform([Text(RED), Text(BLUE) + Text(RED), PHOTOS[0], Text(RED) - PHOTOS[1]])
    assert words_of(extractor).asked == [[RED, BLUE]]


def test_one_text_is_wrapped_in_a_list(extractor):
    with pytest.raises(ValueError, match=r"X is Text\('a red dress'\).*wrap it in a list"):
        extractor.transform(Text(RED))


def test_a_sum_is_the_unit_row_of_signed_unit_rows(extractor):
    red, blue = extractor.encode_text([RED, BLUE])
    photo, other = extractor.transform(PHOTOS[:2])
    found = extractor.transform(
        [
            Text(RED) + PHOTOS[0],
            PHOTOS[0] - Text(BLUE),
            PHOTOS[1],
            Text(RED) - (Text(BLUE) - PHOTOS[1]) + PHOTOS[0],
            Text(RED) + Text(RED),
        ]
    )
    expected = [red + photo, photo - blue, other, red - blue + other + photo, red]
    assert np.allclose(found, [unit(row) for row in expected], atol=1e-6)


@pytest.mark.parametrize(
    "read",
    [
        lambda path: path,
        Path,
        lambda path: Path(path).read_bytes(),
        lambda path: io.BytesIO(Path(path).read_bytes()),
        opened,
        lambda path: np.asarray(opened(path)),
        lambda path: torch.from_numpy(np.array(opened(path))),
    ],
    ids=["str", "Path", "bytes", "BytesIO", "PIL image", "array", "tensor"],
)
def test_photos_of_any_kind_are_added(read, extractor):
    photo = read(PHOTOS[2])
    found = extractor.transform([Text(RED) - photo])[0]
    red, row = extractor.encode_text([RED])[0], extractor.transform([PHOTOS[2]])[0]
    assert np.allclose(found, unit(red - row), atol=0.02)  # a JPEG is decoded at reduced size


def test_kinds_of_photos_may_differ_between_terms(extractor):
    pixels = np.asarray(opened(PHOTOS[1]))
    mixed = [Text(RED) + PHOTOS[0] - pixels, PHOTOS[2], opened(PHOTOS[3]) + Text(BLUE)]
    alone = [extractor.transform([element])[0] for element in mixed]
    assert np.allclose(extractor.transform(mixed), alone, atol=1e-6)


@pytest.mark.parametrize(
    "nothing",
    [Text(RED) - Text(RED), Text(RED) + PHOTOS[0] - PHOTOS[0] - Text(RED)],
    ids=["text", "text and photo"],
)
def test_a_sum_of_length_0_is_an_error(nothing, extractor):
    with pytest.raises(ValueError, match=r"X\[1\].*has length 0: its terms cancel out"):
        extractor.transform([PHOTOS[0], nothing])


def test_unreadable_photos_are_named_by_their_rows(extractor):
    mixed = [Text(RED), PHOTOS[0], "gone.jpg", Text(BLUE), PHOTOS[1], "lost.jpg"]
    with pytest.raises(ImageReadError, match=r"X\[2\] 'gone.jpg'.*1 more .* X\[5\]") as caught:
        extractor.transform(mixed)
    assert [fault.index for fault in caught.value.faults] == [2, 5]


def test_unreadable_photos_in_sums_are_named_by_their_rows(extractor):
    mixed = [PHOTOS[0], Text("a red") + "dress", Text(BLUE)]
    with pytest.raises(ImageReadError, match=r"X\[1\] 'dress'.*write words as Text") as caught:
        extractor.transform(mixed)
    assert [fault.index for fault in caught.value.faults] == [1]


def test_what_is_neither_text_nor_image_is_named_by_its_row(extractor):
    with pytest.raises(ValueError, match=r"X\[2\] is 5 of type int"):
        extractor.transform([Text(RED), Text(BLUE), 5])
    with pytest.raises(ValueError, match=r"X\[1\] is a path, but X\[3\] is an array"):
        extractor.transform([Text(RED), PHOTOS[0], Text(RED), np.zeros((8, 8), np.uint8)])


def test_texts_ask_for_vectors_of_unit_length():
    long = fitted(normalize=False)
    assert np.allclose(np.linalg.norm(long.encode_text([RED]), axis=1), 1, atol=1e-6)
    with pytest.raises(ValueError, match="Use normalize=True"):
        long.transform([Text(RED)])


def test_texts_of_a_network_that_gives_nothing_are_an_error():
    broken = fitted()
    words_of(broken).table.weight.data[:] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity"):
        broken.transform([PHOTOS[0], Text(RED)])


# Pipelines --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def search(extractor):
    retriever = NeighborsRetriever(3).fit(extractor.transform(PHOTOS), ids=PHOTOS)
    pipeline = make_pipeline(extractor, retriever)
    pipeline.__sklearn_is_fitted__ = lambda: True
    return pipeline


def test_pipelines_answer_texts_photos_and_sums(search):
    queries = [Text(RED), PHOTOS[2], PHOTOS[3] + Text(BLUE)]
    found = search.predict(queries)
    _, positions = search[-1].kneighbors(search[:-1].transform(queries))
    assert found.shape == (3, 3)
    assert found[1, 0] == PHOTOS[2]
    assert np.array_equal(np.array(PHOTOS)[positions], found)
    assert np.array_equal(search.predict(queries[:1]), found[:1])


def test_a_table_of_queries_keeps_its_index():
    queries = pd.Series([Text(RED), PHOTOS[0]], index=["text", "photo"], name="query")
    framed = fitted().set_output(transform="pandas")
    rows = framed.transform(queries)
    assert list(rows.index) == ["text", "photo"]
    assert np.allclose(rows.loc["text"], framed.encode_text([RED])[0])


def test_selecting_rows_leaves_texts_as_they_are():
    mixed = [PHOTOS[0], Text(RED), Text(BLUE)]
    for X in (mixed, np.array(mixed, dtype=object), pd.Series(mixed)):
        assert list(_safe_indexing(X, [2, 0])) == [Text(BLUE), PHOTOS[0]]
        assert list(_safe_indexing(X, np.array([False, True, False]))) == [Text(RED)]


def test_a_search_over_parameters_tells_texts_in_its_folds():
    mixed = [*PHOTOS[:3], Text(RED), *PHOTOS[3:]]
    grid = GridSearchCV(
        make_pipeline(GISTDescriptor(), NeighborsRetriever(1)),
        {"gistdescriptor__image_size": [16, 32]},
        cv=2,
        error_score="raise",
    )
    with pytest.raises(ValueError, match=NO_PIXELS):
        grid.fit(mixed, [0, 1, 0, 1, 0, 1, 0])


# Who refuses ------------------------------------------------------------------------------------


def trained(kind, **parameters):
    images, y = make_shapes(8, n_classes=2, random_state=0)
    options = {"backbone": "small", "weights": None, "max_epochs": 1, "random_state": 0}
    return kind(**options, **parameters).fit(images, y)


READERS = {
    "check_images": check_images,
    "readable_images": readable_images,
    "readable_images with labels": lambda X: readable_images(X, [0] * len(X), verify="header"),
    "crop_images": lambda X: crop_images(X, [(0, 0, 8, 8)] * len(X)),
    "GISTDescriptor.fit": lambda X: GISTDescriptor().fit(X),
    "GISTDescriptor.transform": lambda X: GISTDescriptor().transform(X),
    "extract": lambda X: extract(GISTDescriptor().fit(PHOTOS), X, "shards"),
    "extract, skipping": lambda X: extract(
        GISTDescriptor().fit(PHOTOS), X, "shards", on_error="skip"
    ),
    "fit": lambda X: CNNFeatureExtractor("small", weights=None).fit(X, [0, 1, 0, 1]),
    "fit without a loss": lambda X: CNNFeatureExtractor("small", weights=None, loss=None).fit(X),
    "DeepHasher.fit": lambda X: DeepHasher(backbone="small", weights=None).fit(X, [0, 1, 0, 1]),
    "CPFEmbedder.fit": lambda X: CPFEmbedder(backbone="small", weights=None).fit(X, [0, 1, 0, 1]),
    "DeepHasher.transform": lambda X: trained(DeepHasher, n_bits=8).transform(X),
    "CPFEmbedder.transform": lambda X: trained(CPFEmbedder, threshold_fraction=0).transform(X),
    "gallery_images": lambda X: RetrievalDisplay.from_predictions(
        [[0]], images=PHOTOS[:1], gallery_images=X
    ),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("row", [0, 3])
def test_readers_of_pixels_refuse_texts_by_one_error(read, row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mixed = PHOTOS[:3]
    mixed.insert(row, Text(RED))
    with pytest.raises(ValueError, match=rf"X\[{row}\] is Text\('a red dress'\), and {NO_PIXELS}"):
        read(mixed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", COLUMNS.values(), ids=COLUMNS)
@pytest.mark.parametrize("row", [0, 2])
def test_texts_are_no_feature_rows(make, row):
    mixed = PHOTOS[:2]
    mixed.insert(row, Text(RED))
    assert not is_feature_rows(make(mixed))
    with pytest.raises(ValueError, match=rf"X\[{row}\] is Text.*{NO_PIXELS}"):
        check_images(make(mixed))


def test_numbers_with_a_text_among_them_are_no_feature_rows():
    assert not is_feature_rows([[1.0, 2.0], Text(RED)])
    assert not is_feature_rows(Text(RED))


def test_a_sequence_that_makes_a_text_when_it_is_read_is_refused():
    class Queries:
        def __len__(self):
            return 2

        def __getitem__(self, position):
            return [PHOTOS[0], Text(RED)][position]

    with pytest.raises(ImageReadError, match=rf"X\[1\].*{NO_PIXELS}"):
        check_images(Queries()).read([0, 1], 8)


# Seeing what was found ------------------------------------------------------------------------


@pytest.fixture
def drawn():
    """Texts in the cells of the queries of a display, and whether there are pixels in them."""
    return lambda display: [
        " ".join(text.get_text() for text in axes.texts) for axes in display.axes_[:, 0]
    ]


def test_a_display_shows_the_words_of_its_queries(search, drawn):
    queries = [PHOTOS[0], Text("a red dress, long and light"), PHOTOS[1] - Text(BLUE)]
    display = RetrievalDisplay.from_estimator(search, queries, n_neighbors=2)
    photo, words, both = (text.replace("\n", " ") for text in drawn(display))
    assert display.axes_.shape == (3, 3)
    assert (photo, words) == ("", "a red dress, long and light")
    assert both.startswith(Path(PHOTOS[1]).name[:8])
    assert both.endswith("jpg - blue shoes")
    shades = [axes.images[0].get_array().std() > 0 for axes in display.axes_[:, 0]]
    assert shades == [True, False, False]


def test_texts_alone_are_drawn(search, drawn):
    for queries in ([Text(RED)], np.array([Text(RED)]), pd.Series([Text(RED)])):
        assert drawn(RetrievalDisplay.from_estimator(search, queries)) == ["a red dress"]


def test_chosen_queries_are_drawn_and_images_may_stand_for_them(search, drawn):
    queries = [Text(RED), PHOTOS[0], Text(BLUE)]
    display = RetrievalDisplay.from_estimator(search, queries, queries=[2])
    assert drawn(display) == ["blue shoes"]
    rows = search[:-1].transform(queries)
    shown = RetrievalDisplay.from_estimator(search[-1], rows, images=queries, queries=[1, 0])
    assert drawn(shown) == ["", "a red dress"]


def test_predictions_are_drawn_with_their_words(drawn, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.display._sheet.drawable", str)  # as if the font had all
    queries = [Text("x" * 500), Text("短" * 100), "gone.jpg"]
    with pytest.warns(UserWarning, match=r"1 of the images cannot be read.*gone.jpg"):
        display = RetrievalDisplay.from_predictions(
            [[0], [1], [2]], images=queries, gallery_images=PHOTOS, y=[0, 1, 0]
        )
    long, wide, gone = drawn(display)
    assert long.count("\n") == 4
    assert long.endswith("…")
    assert "does not" in gone.replace("\n", " ")
    assert max(map(len, wide.split("\n"))) < max(map(len, long.split("\n")))
