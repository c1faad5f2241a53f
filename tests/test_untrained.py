"""The table of untrained encoders runs on tiny stand-ins with the layouts of its collections."""

import importlib
import json
from pathlib import Path

import numpy as np
import paper_folders
import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
TINY = "timm/test_efficientnet.r160_in1k"


@pytest.fixture
def untrained(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    return importlib.import_module("untrained")


@pytest.fixture
def collections(untrained):
    return importlib.import_module("_untrained.collections")


@pytest.fixture
def weights(tmp_path):
    """A folder with weights of one tiny network, in half precision."""
    timm = pytest.importorskip("timm")
    folder = tmp_path / "weights"
    folder.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = timm.create_model("test_efficientnet").half().state_dict()
    torch.save(state, folder / "test_efficientnet_fp16.pt")
    return folder


def table_of(path):
    lines = path.read_text().split("\n\n")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in (lines[0], *lines[2:])]


def test_rows_without_weights_say_what_they_cost_and_are_not_searched_with(
    untrained, weights, tmp_path
):
    photos = paper_folders.photos(tmp_path / "photos", n=24) / "validation"
    places = paper_folders.holidays(tmp_path / "places")
    arguments = ["--photos", photos, "--holidays", places, "--weights-dir", weights]
    arguments += ["--out", tmp_path, "--encoders", TINY, "squeezenet1_1"]
    untrained.main([*map(str, arguments)])
    heads, tiny, other = table_of(tmp_path / "untrained.md")
    assert heads[-4:] == ["photos (24): mAP", "P@1", "Holidays (12): mAP", "P@1"]
    assert tiny[:5] == [f"`{TINY}`", "apache-2.0", "224", "256", "1024"]
    assert all(0 < float(value) <= 1 for value in tiny[6::2])
    assert other[:5] == ["`squeezenet1_1`", "not stated", "224", "512", "2048"]
    assert other[6::2] == ["not run here", "not run here"]
    assert float(tiny[5]) >= 0
    assert float(other[5]) > 0
    text, cells = (
        (tmp_path / "untrained.md").read_text(),
        (tmp_path / "untrained.json").read_bytes(),
    )
    assert "beside timm's own transform and model: cosine at least" in text
    untrained.main([*map(str, arguments)])
    assert (tmp_path / "untrained.md").read_text() == text
    assert (tmp_path / "untrained.json").read_bytes() == cells  # times included


def test_vectors_that_are_not_those_of_timm_fail_the_command(
    untrained, weights, tmp_path, monkeypatch
):
    pytest.importorskip("timm")
    agreement = importlib.import_module("agreement")
    by_timm = agreement.by_timm
    monkeypatch.setattr(agreement, "by_timm", lambda *args, **size: by_timm(*args, **size)[::-1])
    photos = paper_folders.photos(tmp_path / "photos", n=24) / "validation"
    arguments = ["--photos", photos, "--weights-dir", weights, "--out", tmp_path]
    with pytest.raises(SystemExit, match="own transform and model: a cosine of .*, not 0.9999"):
        untrained.main([*map(str, arguments), "--encoders", TINY])
    assert TINY in (tmp_path / "untrained.md").read_text()  # which is written all the same


def test_pooling_and_reranking_are_other_cells(untrained, weights, tmp_path):
    photos = paper_folders.photos(tmp_path / "photos", n=24) / "validation"
    arguments = [
        "--photos",
        photos,
        "--weights-dir",
        weights,
        "--out",
        tmp_path,
        "--encoders",
        TINY,
    ]
    found = []
    for more in ([], ["--pooling", "max"], ["--rerank", "k_reciprocal"]):
        untrained.main([*map(str, arguments), *more])
        found.append(table_of(tmp_path / "untrained.md")[1][6])
    assert len(set(found)) == 3
    cells = json.loads((tmp_path / "untrained.json").read_text())
    ways = [cell["settings"] for name, cell in cells.items() if ", photos" in name]
    assert [(way["pooling"], way["rerank"]) for way in ways] == [
        ("auto", None),
        ("max", None),
        ("auto", "k_reciprocal"),
    ]


def test_a_table_needs_a_collection(untrained, capsys):
    with pytest.raises(SystemExit):
        untrained.main([])
    assert "give at least one of --photos, --grocery, --holidays" in capsys.readouterr().err


def test_only_products_for_tests_are_searched_in_grocery(collections, tmp_path):
    found = collections.grocery(paper_folders.grocery(tmp_path))  # products 37 to 44
    assert len(found.photos) == 24
    rows = np.eye(8)[[int(Path(path).stem) % 8 for path in found.photos]]
    assert found.score(rows) == {"map": 1.0, "precision@1": 1.0}


def test_a_listed_part_of_holidays_is_scored_as_the_whole(collections, tmp_path):
    paper_folders.holidays(tmp_path)  # four groups of three
    rows = np.random.default_rng(0).normal(size=(12, 8))
    whole = collections.holidays(tmp_path).score(rows)
    names = sorted(path.name for path in tmp_path.glob("*.jpg"))
    queries = [
        {"query": names[i], "good": names[i + 1 : i + 3], "junk": [names[i]]}
        for i in range(0, 12, 3)
    ]
    (tmp_path / "gnd.json").write_text(json.dumps({"images": names, "queries": queries}))
    assert collections.holidays(tmp_path).score(rows) == whole
    with pytest.raises(SystemExit, match="not part of Holidays' protocol"):
        collections.holidays(tmp_path).score(rows, "k_reciprocal")


def test_every_encoder_of_the_list_has_published_weights(untrained):
    timm, open_clip = pytest.importorskip("timm"), pytest.importorskip("open_clip")
    torchvision = pytest.importorskip("torchvision")
    for encoder in importlib.import_module("_untrained.encoders").ENCODERS:
        library, _, name = encoder.backbone.rpartition("/")
        if library == "timm":
            found = timm.get_pretrained_cfg(name)
            assert found.license
            assert encoder.licence is None  # which timm states
            assert not found.fixed_input_size or found.input_size[1] >= encoder.image_size
        elif library == "open_clip":
            assert encoder.tag in open_clip.list_pretrained_tags_by_model(name)
            assert (
                open_clip.get_model_config(name)["vision_cfg"]["image_size"] == encoder.image_size
            )
        else:
            assert torchvision.models.get_model_weights(name).DEFAULT


@pytest.mark.parametrize(
    ("backbone", "file"),
    [
        ("mobilenet_v2", "mobilenet_v2_fp16.pt"),
        ("mobilenet_v2", "mobilenet_v2-7ebf99e0.pth"),
        ("timm/convnext_tiny.dinov3_lvd1689m", "convnext_tiny.dinov3_lvd1689m.safetensors"),
        ("timm/tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0_fp16.pt"),
        ("open_clip/ViT-B-16", "ViT-B-16.pt"),
    ],
)
def test_weights_are_files_that_bear_the_name_of_their_network(untrained, tmp_path, backbone, file):
    find_weights = importlib.import_module("_data").find_weights
    others = ["convnext_tiny.fb_in22k.safetensors", "ViT-B-16-SigLIP2.pt", "mobilenet_v2.txt"]
    for name in others:
        (tmp_path / name).touch()
    assert find_weights(tmp_path, backbone) is None
    (tmp_path / file).touch()
    assert find_weights(tmp_path, backbone) == tmp_path / file
    assert find_weights(None, backbone) is None


# Steps ----------------------------------------------------------------------------------------


@pytest.fixture
def steps(untrained):
    return importlib.import_module("_untrained.steps")


@pytest.fixture
def command(untrained):
    return importlib.import_module("untrained_steps")


def searched(steps, y, query, gallery, scoring="map"):
    photos = np.array([f"{row}.jpg" for row in range(len(y))])
    return steps.Searched("few", photos, np.array(y), np.array(query), np.array(gallery), scoring)


def test_the_table_of_steps_has_every_step_and_runs_once(
    command, steps, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(steps, "SCALES", steps.SCALES[:2])
    monkeypatch.setattr(steps, "EXPONENTS", steps.EXPONENTS[:1])
    monkeypatch.setattr(steps, "ROUNDS", 1)
    photos = paper_folders.photos(tmp_path / "photos", n=24)
    groceries = paper_folders.whole_grocery(tmp_path / "groceries")
    places = paper_folders.holidays(tmp_path / "places")
    arguments = ["--clothing", photos, "--grocery", groceries, "--holidays", places, "--quick"]
    arguments += ["--weights-dir", weights, "--out", tmp_path, "--encoders", TINY, "squeezenet1_1"]
    command.main([*map(str, arguments)])
    heads, *rows, chance = table_of(tmp_path / "untrained_steps.md")
    assert chance[0] == "chance"
    assert all(0 < float(value) < 0.5 for value in chance[3:12:3])
    assert [head for head in heads if head.endswith("mAP")] == [
        *("Grocery, unseen (20): mAP", "clothing (22): mAP", "Holidays (4): mAP"),
    ]
    assert [row[1] for row in rows] == [
        *("as it is", "cut", "pooling", "scales", "whitening", "average query expansion"),
        *("alpha query expansion", "k-reciprocal", "diffusion"),
    ]
    assert {row[0] for row in rows} == {f"`{TINY}`"}  # the other has no weights here
    for row in rows:
        assert all(0 < float(value) <= 1 for value in row[3:12:3])
        assert all(float(value) > 0 for value in (*row[5:12:3], row[12]))
    assert [row[4] for row in rows[:1]] == [""]
    assert all(row[4].endswith((", level", ", better", ", worse")) for row in rows[1:])
    cells = (tmp_path / "untrained_steps.json").read_bytes()
    command.main([*map(str, arguments)])
    assert (tmp_path / "untrained_steps.json").read_bytes() == cells  # times included
    (cell,) = json.loads(cells).values()
    for row in cell["rows"][1:]:
        assert len(row["trials"]) > 1


def test_a_step_takes_what_scores_best_where_nothing_is_asked(steps, monkeypatch):
    y = [0, 0, 1, 1, 2, 2]
    choosing, asking = (searched(steps, y, range(6), range(6)) for _ in range(2))
    asking = steps.replace(asking, name="asked")
    near, far = np.eye(3)[y], np.eye(3)[[0, 1, 2, 0, 1, 2]]
    ladder = steps.Ladder(None, None, (None, [choosing], [asking]), None)
    vectors = {("choosing", "a"): far, ("choosing", "b"): near, ("asked", "a"): near}
    vectors["asked", "b"] = far
    monkeypatch.setattr(
        ladder,
        "_vectors",
        lambda of, way, whitening: vectors["asked" if of is asking else "choosing", way],
    )
    best, trials = ladder._choose([("a", None, None), ("b", None, None)])
    assert best == 1  # though "a" is best where it is asked in the end
    assert trials == pytest.approx([chance := trials[0], 1.0])
    assert chance < 0.5
    assert ladder._choose([("b", None, None), ("b", None, None)])[0] == 0


def test_queries_of_the_gallery_do_not_find_themselves(steps):
    rows = np.array([[1.0, 0], [0.9, 0.3], [1, 0.1], [0, 1]])
    own = searched(steps, [0, 0, 1, 2], [0, 1], [0, 1, 2, 3])
    assert own.scores(rows).tolist() == [0.5, 0.5]  # row 2 is the nearest to both
    assert own.asking.tolist() == [0, 1]
    alone = searched(steps, [0, 0, 1, 2], [0, 3], [0, 1, 2, 3])
    assert len(alone.scores(rows)) == 1  # nobody else is like the last
    assert alone.asking.tolist() == [0]
    apart = searched(steps, [0, 0, 1, 2], [0, 3], [1, 2])
    assert apart.scores(rows).tolist() == [0.5]
    mixed = searched(steps, [0, 0, 2, 2], [0, 3], [1, 2, 3])
    with pytest.raises(ValueError, match="some queries are in the gallery and some are not"):
        mixed.scores(rows)


def test_a_reranker_is_compared_with_the_search_that_it_ranks_again(command):
    names = ["as it is", "cut", "pooling", "scales", "whitening", *command.RERANKERS]
    rows = [{"step": name} for name in names]
    assert [command.step_before(rows, number) for number in range(1, 9)] == [0, 1, 2, 3, 4, 4, 4, 4]


def test_whitening_learns_from_nothing_that_chooses_or_asks(steps, command, tmp_path):
    photos = paper_folders.photos(tmp_path / "photos", n=24)
    groceries = paper_folders.whole_grocery(tmp_path / "groceries")
    options = ["--clothing", photos, "--grocery", groceries, "--weights-dir", tmp_path]
    options += ["--holidays", paper_folders.holidays(tmp_path / "places")]
    learned, choosing, asking = steps.load(command.parse([*map(str, options)]))
    parts = [learned.photos, *(of.photos for of in (*choosing, *asking))]
    assert len(parts) == 6
    every = np.concatenate(parts)
    assert len(np.unique(every)) == len(every)
    unseen = {int(Path(path).stem) % 24 + 28 for path in asking[0].photos}
    assert unseen == set(range(42, 52))
    others = [path for part in parts[:3] for path in part if "groceries" in path]
    assert {int(Path(path).stem) % 24 + 28 for path in others} == set(range(28, 40))
