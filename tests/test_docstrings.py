"""What several objects share is documented in the same words, or there is a reason why not."""

import inspect
import re
import sys
from pathlib import Path

import pytest
from numpydoc.docscrape import get_doc_object
from sklearn.utils._testing import assert_docstring_consistency

from sklearn_cbir import CNNFeatureExtractor, CPFEmbedder, DeepHasher, hashing, metrics

DOCS = Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS))

import parameter_groups  # noqa: E402

NETWORKS = [CNNFeatureExtractor, DeepHasher, CPFEmbedder]
HASHERS = [getattr(hashing, name) for name in hashing.__all__ if name.endswith("Hasher")]
HASHERS.remove(DeepHasher)
METRICS = [getattr(metrics, name) for name in metrics.__all__]
METRICS = [metric for metric in METRICS if inspect.isfunction(metric)]
FAMILIES = {"networks": NETWORKS, "hashers": HASHERS, "metrics": METRICS}

# Same words, another type: (family, entry).
OWN_DEFAULT = {
    ("networks", "weights"),
    ("networks", "max_epochs"),
    ("networks", "lr"),
    ("networks", "weight_decay"),
    ("networks", "batch_size"),
    ("networks", "n_per_class"),
    ("metrics", "k"),
    ("metrics", "radius"),  # the score of one threshold has no usual one
}
# Other words: (family, entry) -> whose, and why. "all" has nothing in common but the name.
OWN_WORDS = {
    ("networks", "backbone"): ("CNNFeatureExtractor", "None is no network there"),
    ("networks", "loss"): ("all", "what goes with features is not what goes with codes"),
    ("networks", "n_components"): ("all", "one has a length of its own without it"),
    ("networks", "mixup"): ("all", "one has a paper's value, the other other losses"),
    ("networks", "head_epochs"): ("CNNFeatureExtractor", "only there may no layer be new"),
    ("hashers", "n_bits"): ("CCAITQHasher ITQHasher", "how many there can be"),
    ("hashers", "max_iter"): ("all", "sweeps, or steps per bit"),
    ("hashers", "n_iter_"): ("all", "sweeps, or steps per bit"),
    ("hashers", "anchors_"): ("BREHasher", "of unit length there"),
    ("hashers", "components_"): ("all", "what is linear differs from method to method"),
    ("hashers", "mean_"): ("LSHHasher", "may be zeros there"),
    ("hashers", "squared_width_"): ("BREHasher", "only with one kernel there"),
    ("hashers", "losses_"): ("BREHasher MLHHasher", "each minimizes its own"),
    ("metrics", "y_queries"): (
        "best_f1_radius mean_per_class per_class_thresholds",
        "what has a value per class says how classes are counted",
    ),
    ("metrics", "y_gallery"): ("per_class_thresholds", "one label per row there"),
    ("metrics", "distances"): ("mean_average_precision", "tells all of it for the others"),
    ("metrics", "ties"): ("mean_average_precision recall_at_k", "tells it for the others"),
    ("metrics", "exclude"): (
        "mean_average_precision trapezoid_mean_average_precision",
        "tells it for the others; and its data have junk images",
    ),
    ("metrics", "sample_weight"): ("mean_over_queries", "tells that they are not negative"),
    ("metrics", "radii"): ("all", "candidates, or points of a curve"),
    ("metrics", "radius"): ("per_class_thresholds", "one for all classes there"),
    ("metrics", "denominator"): ("all", "one tells it for the others, another has its own"),
    ("metrics", "no_hits"): ("all", "one tells it for the others, a radius has empty balls"),
    ("metrics", "values"): ("mean_over_queries", "warns of what the others leave out"),
}
SECTIONS = {"Parameters": "include_params", "Attributes": "include_attrs"}


def entries_of(family):
    """Yield section, entry, and the objects that have it, of what two or more share."""
    for section in SECTIONS:
        held = {}
        for thing in FAMILIES[family]:
            for entry in get_doc_object(thing)[section]:
                held.setdefault(entry.name, []).append(thing)
        yield from ((section, name, things) for name, things in held.items() if len(things) > 1)


def assert_consistent(family, section, name, things):
    own_default = (name,) if (family, name) in OWN_DEFAULT else ()
    assert_docstring_consistency(things, **{SECTIONS[section]: [name]}, ignore_types=own_default)


CASES = [(family, *case) for family in FAMILIES for case in entries_of(family)]


@pytest.mark.parametrize(
    ("family", "section", "name", "things"), CASES, ids=[f"{case[0]}-{case[2]}" for case in CASES]
)
def test_what_is_shared_is_said_in_the_same_words(family, section, name, things):
    whose, _ = OWN_WORDS.get((family, name), ("", ""))
    alike = [thing for thing in things if whose != "all" and thing.__name__ not in whose.split()]
    if len(alike) > 1:
        assert_consistent(family, section, name, alike)
    for thing in things:
        if alike and thing not in alike:
            with pytest.raises(AssertionError):  # a reason for nothing
                assert_consistent(family, section, name, [alike[0], thing])


def test_every_exception_is_of_something_that_is_shared():
    assert {*OWN_WORDS, *OWN_DEFAULT} - {(family, name) for family, _, name, _ in CASES} == set()


@pytest.mark.parametrize("network", NETWORKS)
def test_groups_of_parameters_list_all_of_them_in_their_order(network):
    groups = parameter_groups.groups_of(inspect.getdoc(network))
    assert [name for names in groups.values() for name in names] == list(
        inspect.signature(network).parameters
    )


def test_groups_are_the_same_in_all_networks_and_in_the_guide():
    groups = [parameter_groups.groups_of(inspect.getdoc(network)) for network in NETWORKS]
    group_of = {name: group for one in groups for group, names in one.items() for name in names}
    for one in groups:
        assert list(one) == list(groups[0])
        assert all(group_of[name] == group for group, names in one.items() for name in names)
    page = (DOCS / "guide" / "backbones.md").read_text(encoding="utf-8")
    table = page.partition("## Parameters by group\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| ([a-z ]+) \| `", table, re.MULTILINE) == list(groups[0])
    told = re.findall(r"^\| ([a-z ]+) \| (`[^|]+)\|", table, re.MULTILINE)
    in_table = {name: group for group, cell in told for name in re.findall(r"`([a-z]\w*)`", cell)}
    assert in_table == group_of


def test_groups_are_headings_on_the_page_of_an_estimator():
    lines = ["They come in five groups:", "", "- first: `a`, `b`", "- second ones: `c`", ""]
    parameters = ["    **a, b** : int", "        Two.", "", "    **c** : int", "        One."]
    lines += [":Parameters:", "", *parameters]
    parameter_groups.add_headings(None, "class", "x", None, None, lines)
    assert lines[7:10] == ["    .. rubric:: First", "", parameters[0]]
    assert lines[12:15] == ["    .. rubric:: Second ones", "", parameters[3]]
