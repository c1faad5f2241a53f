"""What the pages link to: objects, guide pages, and names of other libraries."""

import inspect
import posixpath
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS))

pytest.importorskip("sphinx")

import inventories  # noqa: E402
import public_api  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.util.inventory import InventoryFile  # noqa: E402


def test_inventories_hold_what_is_listed(tmp_path):
    for library, (address, path) in inventories.write(tmp_path).items():
        with Path(path).open("rb") as file:
            found = InventoryFile.load(file, address, posixpath.join)
        read = {
            (kind, name): item.uri if hasattr(item, "uri") else item[2]
            for kind, items in found.items()
            for name, item in items.items()
        }
        listed = inventories.entries(library)
        assert read == {key: address + place for key, (place, _) in listed.items()}


@pytest.mark.parametrize(
    ("library", "kind", "name", "place"),
    [
        ("sklearn", "py:class", "sklearn.pipeline.Pipeline", "sklearn.pipeline.Pipeline.html"),
        (
            "sklearn",
            "py:method",
            "sklearn.base.BaseEstimator.get_params",
            "sklearn.base.BaseEstimator.html",
        ),
        ("pillow", "py:function", "PIL.Image.open", "Image.html"),
    ],
)
def test_an_object_is_found_on_its_page(library, kind, name, place):
    assert inventories.entries(library)[kind, name][0].endswith(f"/{place}#{name}")


def test_a_name_that_the_library_does_not_have_is_an_error(monkeypatch):
    monkeypatch.setitem(inventories.OBJECTS, "numpy", {"numpy.no_such_name": "page.html"})
    with pytest.raises(AttributeError, match="no_such_name"):
        inventories.entries("numpy")


@pytest.mark.parametrize("named", [True, False], ids=["named", "not named"])
def test_an_entry_that_no_page_refers_to_is_a_warning(named, tmp_path, monkeypatch):
    for table in ("OBJECTS", "TERMS", "PAGES", "LABELS"):
        monkeypatch.setattr(inventories, table, {})
    monkeypatch.setattr(inventories, "ADDRESSES", {"sklearn": "https://scikit-learn.org/stable/"})
    monkeypatch.setattr(inventories, "OBJECTS", {"sklearn": {"sklearn.utils.Bunch": "page.html"}})
    text = ":class:`sklearn.utils.Bunch`" if named else "nothing"
    (tmp_path / "index.rst").write_text(f"Page\n====\n\n{text}\n")
    (tmp_path / "conf.py").write_text("")
    warnings = (tmp_path / "warnings").open("w+")
    settings = {
        "extensions": ["sphinx.ext.intersphinx", "inventories"],
        "intersphinx_mapping": inventories.write(tmp_path / "inventories"),
    }
    with warnings:
        folders = (tmp_path, tmp_path, tmp_path / "out", tmp_path / "trees")
        app = Sphinx(*folders, "dummy", settings, status=None, warning=warnings)
        app.build()
        warnings.seek(0)
        said = warnings.read()
    assert ("no page refers to sklearn.utils.Bunch" in said) is not named


def test_every_name_of_an_object_leads_to_the_page_that_it_has():
    pages, names = public_api.documented(), public_api.page_names()
    assert set(names.values()) == set(pages)
    assert names["CNNFeatureExtractor"] == "sklearn_cbir.CNNFeatureExtractor"
    assert names["sklearn_cbir.features.CNNFeatureExtractor"] == "sklearn_cbir.CNNFeatureExtractor"
    assert names["sklearn_cbir.images.Text"] == "sklearn_cbir.Text"


def test_a_class_says_what_it_has_of_scikit_learn():
    methods = public_api.inherited_methods()
    assert {"get_params", "set_params", "set_output", "get_feature_names_out"} <= {
        name for name, _, _ in methods["sklearn_cbir.DeepHasher"]
    }
    listed = inventories.entries("sklearn")
    for name, rows in methods.items():
        cls = public_api.documented()[name]
        for method, summary, place in rows:
            assert callable(getattr(cls, method))
            assert summary.endswith(".")
            assert place is None or ("py:method", place) in listed


def test_every_estimator_is_a_class_with_methods_of_scikit_learn():
    with_parameters = {
        name
        for name, value in public_api.documented().items()
        if inspect.isclass(value) and hasattr(value, "get_params")
    }
    assert len(with_parameters) > 15
    assert with_parameters <= set(public_api.inherited_methods())


def test_an_object_leads_back_to_the_guide(tmp_path):
    guide = tmp_path / "guide"
    guide.mkdir()
    (tmp_path / "tutorial.md").write_text("`load` it, with DeepHasher and NearDuplicates")
    (guide / "a.md").write_text("[](../generated/objects/sklearn_cbir.DeepHasher.rst)")
    (guide / "b.md").write_text("# Losses\n\nModule: `sklearn_cbir.losses`.\n")
    (guide / "c.md").write_text("from sklearn_cbir.persistence import save, load\nload words")
    (guide / "d.md").write_text("We load words, and metrics rank. NearDuplicatesOther")
    found = public_api.guide_pages(tmp_path)
    assert found["sklearn_cbir.DeepHasher"] == ["/guide/a"]
    assert found["sklearn_cbir.duplicates.NearDuplicates"] == ["/tutorial"]
    assert found["sklearn_cbir.losses.DSHLoss"] == ["/guide/b"]
    assert found["sklearn_cbir.persistence.load"] == ["/tutorial", "/guide/c"]
    assert "sklearn_cbir.reranking.KReciprocalReranker" not in found


def test_nearly_all_objects_lead_to_the_guide():
    found = public_api.guide_pages(DOCS)
    missing = [name for name in public_api.documented() if name not in found]
    assert [name for name in missing if ".sampling." not in name] == [
        "sklearn_cbir.testing.check_image_estimator"
    ]
    assert {page.rpartition("/")[2] for pages in found.values() for page in pages} <= {
        path.stem for path in DOCS.rglob("*.md")
    }
