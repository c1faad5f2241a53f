"""What notebooks show: photos inside of the page, everything else as text, bounded in size."""

import base64
import io
import pickle
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from sklearn.utils import Bunch

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir.display import DuplicatesDisplay, RetrievalDisplay
from sklearn_cbir.duplicates import NearDuplicates
from sklearn_cbir.images import ImageReadError, Text, check_images

HOSTILE = "<script>alert('x')</script>\"&.png"
ROWS = np.arange(6.0)[:, None]
LABELS = np.array([0, 0, 1, 1, 2, 2])
# Of a version whose evaluations were at home in `index._search` and held nothing but their keys.
EARLIER = (
    "fCQE00RR910001t8gpxGWnpq|Ut?lvaxQ6ZWMz0RUvp()a${(ej0#0|VQh6_bZKvHl#`Sxfs`nW1#@F>a%Gf9Kjl?bRaI4"
    "0j0tdMa$j+EWpa6xj23QnZE$%mUt@1_WiD-XY;<X1a&lpLl#C2ta%E$0ZgX^Ubz^jtla!1FZgp*Nd6bL?Ze(F{a$$LtlaxyU"
    "g_J`9Vw8uJQj{o50ZRjglxPWz1!Q!2aAlN}l#BvqIFyNqhm=y3C`$v30X&pWPEJby|Ns9=|NsC0O8|6~Vu?c-00000008hm"
    "000000000000000008hmlysD0j0a<EVRLh3bChTZXbVdKg_LLwhm=y3C`$oL0)>=l5{v?AIFyNqhm=y3C`$uq7EVr1O8@`="
    "|4RS=|Nlz>bd+L=Ll6J}000000003100000005M9lwyntaAk5|V{Bn_bChTZXbVdKg_LLwhm=y3C`$oL0)>=l6^TO-000000"
    "07`W00000008hmlysD0j0JaZa&vT)Xb5NvO8|wGXbp#yQj{o50ZRjglxQJ|Ll^-70000000000000000006200000005M9"
    "lwx&#l#Cl+WMy!2Wn*D<Wn^D#WqDt8Z(ny|a&BpEXLFQ&lyhP("
)


@pytest.fixture
def gallery():
    """Six gray images (8, 6), each of its own brightness."""
    return np.full((6, 8, 6), np.arange(6)[:, None, None] * 40, dtype=np.uint8)


@pytest.fixture
def paths(gallery, tmp_path):
    found = [str(tmp_path / f"image{i}.png") for i in range(6)]
    for path, pixels in zip(found, gallery):
        Image.fromarray(pixels).save(path)
    return found


class Page(HTMLParser):
    """Elements, texts and images of a page; every element must be closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts, self.images, self.open = [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "img":
            self.images.append(_decoded(dict(attrs)["src"]))
        elif tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data.strip())

    @property
    def tags(self):
        return {tag for tag, _ in self.elements}

    @property
    def grays(self):
        return [int(np.asarray(image)[0, 0, 0]) for image in self.images]


def _decoded(source):
    kind, data = source.split(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
    assert image.format == "JPEG"
    return image.convert("RGB")


def page_of(shown):
    return Page(shown._repr_html_())


def approximately(grays):
    return pytest.approx(grays, abs=3)  # JPEG


def search_of(ids, y=LABELS):
    return NeighborsRetriever(2, metric="euclidean").fit(ROWS, y, ids=ids)


# RetrievalDisplay -------------------------------------------------------------------------------


def test_a_display_that_was_not_drawn_shows_every_query_with_its_results(gallery):
    display = RetrievalDisplay.from_predictions(
        [[1, 2], [4, 3]], [[0.25, 0.5], [1.0, 2.0]], images=gallery[[0, 5]],
        gallery_images=gallery, y=[0, 2], gallery_labels=LABELS, draw=False,
    )  # fmt: skip
    page = page_of(display)
    assert page.grays == approximately([0, 40, 80, 200, 160, 120])
    assert plt.get_fignums() == []
    assert not hasattr(display, "figure_")
    cells = [text for text in page.texts if text]
    assert cells[:3] == ["query", "1", "2"]
    assert cells[3:] == [
        "0", "✓", "0", "0.250", "✗", "1", "0.500", "2", "✓", "2", "1.000", "✗", "1", "2.000",
        "✓ shares a label with the query, ✗ shares none",
    ]  # fmt: skip
    frames = [attrs["style"] for tag, attrs in page.elements if tag == "img"]
    assert ["#009E73" in frame for frame in frames] == [False, True, False, False, True, False]
    assert ["#D55E00" in frame for frame in frames] == [False, False, True, False, False, True]


def test_results_of_an_estimator_show_without_matplotlib(monkeypatch, paths):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    display = RetrievalDisplay.from_estimator(
        search_of(paths), None, queries=[0], captions=["id"], n_neighbors=2, draw=False
    )
    page = page_of(display)
    assert page.grays == approximately([0, 40, 80])
    assert {"image1.png", "image2.png"} < set(page.texts)
    with pytest.raises(ImportError, match=r"pip install 'sklearn-cbir\[plot\]'"):
        display.plot()


def test_a_notebook_shows_the_figure_or_the_page_but_not_both(gallery):
    display = RetrievalDisplay.from_predictions(
        [[1]], images=gallery[:1], gallery_images=gallery, draw=False
    )
    assert display._repr_html_().startswith("<div")
    for figure in (None, plt.figure, lambda: plt.figure().subfigures(1, 2)[1]):
        ax = None if figure is None else figure().add_subplot()
        assert display.plot(ax) is display
        assert display._repr_html_() is None
        plt.close("all")
        assert page_of(display).grays == approximately([0, 40])


def test_the_plain_repr_stays(gallery):
    display = RetrievalDisplay.from_predictions(
        [[1]], images=gallery[:1], gallery_images=gallery, draw=False
    )
    assert repr(display) == object.__repr__(display)


def test_ids_labels_and_words_are_never_taken_for_html(gallery):
    display = RetrievalDisplay.from_predictions(
        [[0, 1]], images=[Text(HOSTILE)], gallery_images=gallery, gallery_ids=[HOSTILE] * 6,
        y=[HOSTILE], gallery_labels=[HOSTILE, "b", "c", "d", "e", "f"], unit=HOSTILE,
        distances=[[1, 2]], captions=["id", "label", "distance"], draw=False,
    )  # fmt: skip
    page = page_of(display)
    assert page.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "img", "b", "br", "p"}
    assert all(not name.startswith("on") for _, attrs in page.elements for name in attrs)
    # The folder ends at the slash of the closing tag; label, query and words are whole.
    assert 'script>"&.png' in page.texts
    assert page.texts.count(HOSTILE) == 3
    assert f"1 {HOSTILE}" in page.texts
    alts = [attrs["alt"] for tag, attrs in page.elements if tag == "img"]
    assert alts[0] == f'script>"&.png, {HOSTILE}, 1 {HOSTILE}'[:59] + "…"


def test_control_characters_are_escaped_as_in_pictures(gallery):
    display = RetrievalDisplay.from_predictions(
        [[0]], images=gallery[:1], gallery_images=gallery, gallery_ids=["a\u202eb\nc\udce9"] * 6,
        draw=False,
    )  # fmt: skip
    display._repr_html_().encode()
    assert "a\\u202eb\\nc\\udce9" in page_of(display).texts


def test_thousands_of_large_photos_stay_a_small_page(rng):
    noise = rng.integers(0, 256, (3, 300, 200, 3), dtype=np.uint8)  # what JPEG cannot compress
    display = RetrievalDisplay.from_predictions(
        rng.integers(0, 3, (100, 40)), images=np.resize(noise, (100, 300, 200, 3)),
        gallery_images=noise, gallery_ids=["x" * 5000] * 3, draw=False,
    )  # fmt: skip
    html = display._repr_html_()
    page = Page(html)
    assert len(page.images) == 8 * 9
    assert {image.size for image in page.images} == {(64, 96)}
    assert len(html) < 72 * 10_000
    assert max(map(len, page.texts)) <= 60
    assert "32 more results of every query are not shown" in page.texts
    assert "92 more queries are not shown" in page.texts


def test_small_images_are_enlarged_in_proportion(gallery):
    display = RetrievalDisplay.from_predictions(
        [[1]], images=gallery[:1], gallery_images=gallery, draw=False
    )
    sizes = [(a["width"], a["height"]) for tag, a in page_of(display).elements if tag == "img"]
    assert sizes == [("72", "96")] * 2


def test_a_photo_that_cannot_be_read_leaves_a_box_with_the_reason(paths):
    search = search_of(paths)
    display = RetrievalDisplay.from_estimator(search, None, queries=[0], n_neighbors=3, draw=False)
    with open(paths[2], "wb") as file:
        file.write(b"no photo")
    page = page_of(display)
    assert page.grays == approximately([0, 40, 120])
    reasons = [text for text in page.texts if "of the images cannot be read" in text]
    assert len(reasons) == 1
    assert reasons[0].startswith("1 of the images cannot be read (1 x ")
    assert reasons[0].removesuffix(")").split(" x ")[1] in page.texts
    for path in paths:
        with open(path, "wb") as file:
            file.write(b"no photo")
    page = page_of(display)
    assert page.images == []
    assert any(text.startswith("4 of the images cannot be read (4 x ") for text in page.texts)


def test_captions_are_checked_and_kept_without_drawing(gallery):
    options = {"images": gallery[:1], "gallery_images": gallery, "draw": False}
    with pytest.raises(ValueError, match="names 'size'"):
        RetrievalDisplay.from_predictions([[1]], captions=["size"], **options)
    display = RetrievalDisplay.from_predictions([[1]], [[0.5]], captions=["distance"], **options)
    assert [text for text in page_of(display).texts if text] == ["query", "1", "0.500"]
    with pytest.raises(ValueError, match="draw=False draws nothing into ax"):
        RetrievalDisplay.from_predictions([[1]], ax=plt.figure().add_subplot(), **options)
    with pytest.raises(ValueError, match="draw='no' must be True or False"):
        RetrievalDisplay.from_predictions([[1]], **options | {"draw": "no"})


# DuplicatesDisplay ------------------------------------------------------------------------------


def groups_of(gallery, **options):
    options = {"images": gallery, "draw": False} | options
    return DuplicatesDisplay.from_predictions([0, 0, 0, 1, -1, 1], **options)


def test_groups_show_what_is_kept_and_then_the_furthest(monkeypatch, paths):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    keep = [False, True, False, False, False, True]
    display = groups_of(paths, keep=keep, distances=[3, 0, 1, 8, 0, 0], unit="bits")
    page = page_of(display)
    assert page.grays == approximately([40, 0, 80, 200, 120])
    texts = [text for text in page.texts if text]
    assert texts[:4] == ["kept", "furthest first", "✓", "image1.png"]
    assert {"3 bits", "1 bit", "8 bits", "6 x 8, 1 kB"} < set(texts)
    assert texts[-1] == "✓ is kept"
    frames = [attrs["style"] for tag, attrs in page.elements if tag == "img"]
    assert ["#009E73" in frame for frame in frames] == [True, False, False, True, False]
    with pytest.raises(ImportError, match=r"pip install 'sklearn-cbir\[plot\]'"):
        display.plot()


def test_groups_without_a_photo_to_keep_have_no_sign(gallery):
    texts = [text for text in page_of(groups_of(gallery)).texts if text]
    assert texts[:3] == ["first", "others", "photo 0"]
    assert not any("✓" in text for text in texts)


def test_duplicates_of_an_estimator_are_not_drawn_if_nobody_wants_it(paths):
    found = NearDuplicates(radius=0.01, metric="cosine").fit([[1, 0], [1, 0], [0, 1]])
    display = DuplicatesDisplay.from_estimator(
        found, [[1, 0], [1, 0], [0, 1]], images=paths[:3], draw=False, captions=["distance"]
    )
    page = page_of(display)
    assert page.grays == approximately([0, 40])
    assert [text for text in page.texts if text] == ["first", "other", "0.000"]
    assert plt.get_fignums() == []
    assert not hasattr(display, "figure_")


def test_a_notebook_shows_the_figure_of_groups_or_their_page(gallery):
    display = groups_of(gallery)
    assert display.plot() is display
    assert display._repr_html_() is None
    plt.close("all")
    assert page_of(display).grays == approximately([0, 40, 80, 120, 200])


def test_what_is_not_shown_of_groups_is_counted(gallery):
    texts = page_of(groups_of(gallery, n_groups=1, n_photos=2)).texts
    assert {"1 more", "1 more group is not shown"} < set(texts)
    many = np.repeat(np.arange(20), 30)
    display = DuplicatesDisplay.from_predictions(
        many, images=np.resize(gallery, (600, 8, 6)), n_groups=20, n_photos=30, draw=False
    )
    page = page_of(display)
    assert len(page.images) == 8 * 8
    assert page.texts.count("22 more") == 8
    assert "12 more groups are not shown" in page.texts


def test_names_of_duplicates_are_text_and_damaged_photos_are_boxes(gallery, tmp_path):
    folder = tmp_path / "<b onload=alert('x')>"
    folder.mkdir()
    paths = [str(folder / f"&<script>{i}.png") for i in range(6)]
    for path, pixels in zip(paths, gallery):
        Image.fromarray(pixels).save(path)
    display = groups_of(paths)
    with open(paths[1], "wb") as file:
        file.write(b"no photo")
    page = page_of(display)
    assert page.grays == approximately([0, 80, 120, 200])
    assert page.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "img", "b", "br", "p"}
    assert "&<script>1.png" in page.texts
    assert any(text.startswith("1 of the images cannot be read (1 x ") for text in page.texts)


def test_captions_and_numbers_of_groups_are_checked_without_drawing(gallery):
    with pytest.raises(ValueError, match=r"names 'distance'. Known here: \['name', 'size'\]"):
        groups_of(gallery, captions=["distance"])
    with pytest.raises(ValueError, match="n_photos=1"):
        groups_of(gallery, n_photos=1)
    with pytest.raises(ValueError, match="draw=False draws nothing into ax"):
        groups_of(gallery, ax=plt.figure().add_subplot())


# evaluate ---------------------------------------------------------------------------------------


def test_an_evaluation_shows_the_worst_queries_with_their_photos(paths):
    result = search_of(paths, ["a", "a", "a", "b", "b", "a"]).evaluate(scoring="precision@1")
    page = page_of(result)
    worst = [int(row) for row in result.worst]
    assert result.per_query.tolist() == [1, 1, 0.5, 0.5, 0.5, 0]
    assert page.grays == approximately([40 * row for row in worst])
    text = " ".join(filter(None, page.texts))
    assert text.startswith("precision@1 0.5833, the mean over 6 queries Lowest classes class mean")
    assert "b 0.5000 a 0.6250" in text
    assert text.endswith("image0.png a 1.0000 image1.png a 1.0000")


def test_an_evaluation_is_the_dictionary_that_it_was(paths):
    result = search_of(paths).evaluate()
    assert isinstance(result, Bunch)
    assert list(result) == ["score", "per_query", "classes", "per_class", "worst"]
    assert dict(**result).keys() == result.keys() == set(dir(result))
    several = search_of(paths).evaluate(scoring=["map", "recall@1"])
    assert isinstance(several, dict)
    assert list(several) == ["map", "recall@1"]
    assert repr(several) == repr(dict(several))
    assert several == dict(several)


def test_an_evaluation_prints_as_one_line(paths):
    result = search_of(paths, ["a", "a", "a", "b", "b", "a"]).evaluate(scoring="precision@1")
    line = (
        "<precision@1 0.5833, the mean over 6 queries; lowest classes: 'b' 0.5000, 'a' 0.6250; "
        "keys: score, per_query, classes, per_class, worst>"
    )
    assert repr(result) == str(result) == repr(pickle.loads(pickle.dumps(result))) == line
    del result["worst"]
    assert repr(result) == dict.__repr__(result)


def test_many_classes_and_odd_names_print_as_one_short_line(rng):
    y = np.repeat([f"{'x' * 300}\n{i}" for i in range(50)], 2)
    line = repr(NeighborsRetriever().fit(rng.normal(size=(100, 3)), y).evaluate())
    assert len(line) < 500
    assert "\n" not in line
    assert "lowest classes of 50: 'x" in line
    with pytest.warns(UserWarning, match="2 of 6 queries"):
        result = search_of(None, [0, 0, 1, 1, 2, 3]).evaluate()
    assert "the mean over 4 queries; left out: 2 queries with nothing relevant; " in repr(result)


def test_an_evaluation_shows_the_same_after_a_pickle(paths):
    result = search_of(paths).evaluate(scoring=["map"])
    again = pickle.loads(pickle.dumps(result))
    assert again["map"]._repr_html_() == result["map"]._repr_html_()
    assert again._repr_html_() == result._repr_html_()


def test_an_evaluation_that_was_pickled_earlier_loads_and_shows():
    result = pickle.loads(base64.b85decode(EARLIER))
    assert type(result).__name__ == "Evaluation"
    assert result.worst.tolist() == [1, 0, 2]
    texts = page_of(result).texts
    assert f"score {result.score:.4f}, the mean over 3 queries" in texts
    assert "1.0000" in texts


def test_an_evaluation_whose_keys_were_taken_away_falls_back_to_its_repr(paths):
    result = search_of(paths).evaluate()
    del result["worst"]
    assert result._repr_html_() is None


def test_several_metrics_show_as_a_table(paths):
    def of_own(y_queries, y_gallery, distances, *, exclude=None, per_query=False):
        return np.ones(len(y_queries))

    results = search_of(paths).evaluate(scoring=["map", of_own, "recall@1"])
    page = page_of(results)
    assert page.texts.count("6") == 3
    for name, key in [("map", "map"), ("of_own", of_own), ("recall@1", "recall@1")]:
        assert page.texts[page.texts.index(name) + 1] == f"{results[key].score:.4f}"


def test_ids_that_are_no_files_are_shown_as_text():
    texts = page_of(search_of([f"sku-{i}" for i in range(6)]).evaluate()).texts
    assert {"sku-0", "sku-5"} < set(texts)
    page = page_of(search_of(None).evaluate())
    assert page.images == []
    assert {"0", "5"} < set(page.texts)


def test_queries_with_ids_of_their_own_show_their_photos(paths):
    search = search_of(None)
    result = search.evaluate(ROWS[[4, 1]] + 0.2, [0, 0], ids=[paths[4], paths[1]])
    assert page_of(result).grays == approximately([40 * [4, 1][row] for row in result.worst])
    alone = search_of(paths).evaluate(ids=[paths[3]])
    assert page_of(alone).grays == approximately([120])
    some = search_of(paths).evaluate(where=paths[:4], ids=paths[2:4])
    assert page_of(some).grays == approximately([[80, 120][row] for row in some.worst])


def test_an_evaluation_names_photos_that_cannot_be_read(paths):
    result = search_of(paths).evaluate()
    for path in paths[1:]:
        with open(path, "wb") as file:
            file.write(b"no photo")
    page = page_of(result)
    assert page.grays == approximately([0])
    with pytest.raises(ImageReadError) as error:
        check_images(paths[1:2]).read([0], 8)
    assert page.texts.count(error.value.reason.split(" (")[0]) == 5
    assert "image3.png" in page.texts


def test_hostile_ids_classes_and_metrics_are_text():
    def metric(y_queries, y_gallery, distances, *, exclude=None, per_query=False):
        return np.ones(len(y_queries))

    metric.__name__ = HOSTILE
    search = search_of([f"{HOSTILE}{i}" for i in range(6)], [HOSTILE, HOSTILE, *"bbcc"])
    for shown in (search.evaluate(scoring=metric), search.evaluate(scoring=[metric])):
        page = page_of(shown)
        assert "script" not in page.tags
        assert any(text.startswith(HOSTILE) for text in page.texts)


def test_thousands_of_classes_and_queries_stay_a_small_page(rng):
    y = np.arange(4000) // 2
    ids = [f"{'x' * 300}{i}" for i in range(4000)]
    result = NeighborsRetriever().fit(rng.normal(size=(4000, 3)), y, ids=ids).evaluate()
    html = result._repr_html_()
    assert len(html) < 20_000
    assert {"and 1,990 more classes", "and 3,992 more queries"} < set(Page(html).texts)
    assert len(pickle.dumps(result)) < 4000 * 8 * 6


def test_queries_with_nothing_relevant_are_counted(paths):
    with pytest.warns(UserWarning, match="2 of 6 queries"):
        result = search_of(paths, [0, 0, 1, 1, 2, 3]).evaluate()
    page = page_of(result)
    assert page.texts[0].endswith(
        "the mean over 4 queries; left out: 2 queries with nothing relevant"
    )
    assert page.texts[page.texts.index("3") + 1] == "-"
    assert len(page.images) == 4


def test_several_labels_of_a_query_are_shown_by_column():
    y = np.array([[1, 0, 1], [1, 0, 0], [0, 1, 1], [0, 1, 0], [1, 1, 0], [1, 1, 1]])
    assert "0, 1, 2" in page_of(search_of(None, y).evaluate()).texts
