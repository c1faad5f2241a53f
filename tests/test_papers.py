"""Every table of the papers runs on a tiny stand-in with the layout of its data set."""

import importlib
import json
from pathlib import Path

import numpy as np
import paper_folders
import pytest
import torch
import torchvision
from sklearn.preprocessing import FunctionTransformer

from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.metrics import threshold_f1

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
QUICK = ["--epochs", "1", "--seeds", "1", "--rates", "0.003"]
# One epoch over a dozen stand-ins teaches a deep network nothing; the tables are what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:.* training images get the same")


@pytest.fixture
def papers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("papers")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "data"
    path.mkdir()
    return path


def run(papers, table, data, out, *more):
    """Return the table; a second run finds every cell and prints the same."""
    arguments = [table, "--data", str(data), "--out", str(out), *QUICK, *map(str, more)]
    papers.main(arguments)
    text, cells = (out / f"{table}.md").read_text(), (out / f"{table}.json").read_bytes()
    papers.main(arguments)
    assert (out / f"{table}.md").read_text() == text
    assert (out / f"{table}.json").read_bytes() == cells  # times included
    return text


def cells_of(out, table):
    return json.loads((out / f"{table}.json").read_text())


def save_weights(folder, name, **params):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # with some weights all codes are alike, which is a warning
        network = getattr(torchvision.models, name)(**params)
    torch.save(network.state_dict(), folder / f"{name}.pt")


def test_a_spread_is_the_sample_standard_deviation_with_the_number_of_seeds(papers):
    spread = importlib.import_module("_papers._compare").spread
    # Squares of the differences from 0.5 add up to 0.08, over n - 1 = 2.
    assert spread([0.3, 0.5, 0.7]) == "0.5000 ± 0.2000 (n=3)"
    assert spread([0.3]) == "0.3000"


def test_published_numbers_stand_in_brackets_as_far_as_they_are_known(papers):
    hashing = importlib.import_module("_papers.hashing")
    assert hashing.CIFAR10_PAPER.keys() == hashing.NUSWIDE_PAPER.keys()
    assert len(hashing.NUSWIDE_PAPER) == 13
    beside = hashing._beside(["0.1", "", "", "0.2"], hashing.NUSWIDE_PAPER["SH"])
    assert beside == ["0.1 (0.340)", "", "", "0.2 (0.333)"]
    assert hashing._beside([""] * 4, hashing.NUSWIDE_PAPER["LSH"])[0] == "(0.3329)"


def test_a_cell_runs_once_for_its_settings_and_its_data(papers, folder, tmp_path):
    table, row = "dfeh-ablation", ["--rows", "no balance"]
    data = paper_folders.cifar10(folder)
    text = run(papers, table, data, tmp_path, *row)
    first = cells_of(tmp_path, table)
    assert text.count("\n| no balance | ") == len(first) == 1
    assert "1 cells, " in text
    assert "; commit " in text
    for others in (["--epochs", 2], ["--rates", 0.01], ["--image-size", 24]):
        before = cells_of(tmp_path, table)
        run(papers, table, data, tmp_path, *row, *others)
        after = cells_of(tmp_path, table)
        assert len(after) == len(before) + 1
        assert before.items() <= after.items()
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    run(papers, table, paper_folders.cifar10(other_folder), tmp_path, *row)
    assert cells_of(tmp_path, table) == after  # the same data elsewhere
    run(papers, table, paper_folders.cifar10_batches(folder), tmp_path, *row)
    assert len(cells_of(tmp_path, table)) == len(after) + 1


# Whether bfloat16 is faster is measured, also on processors without it and on busy ones.
@pytest.mark.filterwarnings("ignore:autocast=True trains in float32")
def test_codes_of_the_best_budget_are_cells_of_their_settings(
    papers, monkeypatch, folder, tmp_path
):
    data = paper_folders.cifar10(folder)
    more = ["--bits", "4", "--backbone", "small", "--batch-size", "40", "--out", str(tmp_path)]
    for epochs in ("1", "1", "2"):
        arguments = ["cifar10.py", "--data", str(data), "--epochs", epochs, *more]
        monkeypatch.setattr("sys.argv", arguments)
        importlib.import_module("cifar10").main()
    assert len(cells_of(tmp_path, "cifar10")) == len(list(tmp_path.glob("*.joblib"))) == 2


def test_cells_of_one_row_stand_in_the_table_of_another(papers, folder, tmp_path):
    data = paper_folders.cifar10(folder)
    run(papers, "dfeh-cifar10", data, tmp_path, "--rows", "LSH")
    text = run(papers, "dfeh-cifar10", data, tmp_path, "--rows", "ITQ")
    scores, times, _ = text.split("\n\n")
    for part, last in ((scores, ["| chance"]), (times, [])):
        rows = part.splitlines()[2:]
        assert [line.split(" | ")[0] for line in sorted(rows)] == ["| ITQ", "| LSH", *last]
        assert "|  |" not in part.splitlines()[2].rsplit("|", 3)[0]  # every length


def test_a_row_that_no_table_has_is_named(papers, folder, tmp_path):
    data = paper_folders.cifar10(folder)
    with pytest.raises(
        SystemExit, match="'lsh', and the table has no such row. Its rows are .*'LSH'"
    ):
        run(papers, "dfeh-cifar10", data, tmp_path, "--rows", "lsh")


def test_descriptors_of_other_images_are_another_file(papers, folder, tmp_path):
    for data in (paper_folders.cifar10(folder), paper_folders.cifar10_batches(folder)):
        run(papers, "dfeh-cifar10", data, tmp_path, "--rows", "LSH")
    assert len(list(tmp_path.glob("gist-*.npy"))) == 2


@pytest.mark.slow
def test_the_hashing_table_has_every_method(papers, folder, tmp_path):
    data = paper_folders.cifar10(folder)
    text = run(papers, "dfeh-cifar10", data, tmp_path)
    assert text.split("By map:")[0].count("\n| ") == 2 * 23 + 2
    assert {"LSH", "KSH", "dfeh", "dch"} <= set(text.replace("|", " ").split())


@pytest.mark.slow
def test_methods_with_their_own_layer_are_rows_by_name(papers, folder, tmp_path):
    data = paper_folders.cifar10(folder)
    text = run(papers, "dfeh-cifar10", data, tmp_path, "--rows", "dnnh, own layer")
    assert "| dnnh, own layer |" in text
    (cell,) = cells_of(tmp_path, "dfeh-cifar10").values()
    assert cell["settings"]["method"] == "deep('dnnh',){'hash_layer': 'divided'}"
    assert cell["settings"]["loss"] == {"name": "DNNHLoss", "margin": 1.0, "threshold_width": 0.5}


def test_hashers_that_miss_their_bars_fail_the_command(papers, folder, tmp_path):
    data = paper_folders.cifar10_batches(folder)  # 120 images: far from chance by chance alone
    with pytest.raises(SystemExit, match="LSH: mAP 0.* with all labels shuffled, not 0"):
        run(papers, "hashers-cifar10", data, tmp_path, "--rows", "LSH", "ITQ", "CCA-ITQ")
    text = (tmp_path / "hashers-cifar10.md").read_text()
    assert text.count("\n| ") == 3


def test_a_hasher_is_judged_once_everything_is_measured(papers, folder, tmp_path):
    table, data = "hashers-cifar10", paper_folders.cifar10_batches(folder)
    for row in ("ITQ", "CCA-ITQ"):
        with pytest.raises(SystemExit, match=row):
            run(papers, table, data, tmp_path, "--rows", row)
    cells = cells_of(tmp_path, table)
    kept = {key: cell for key, cell in cells.items() if "training labels shuffled" not in key}
    assert len(kept) == len(cells) - 1
    (tmp_path / f"{table}.json").write_text(json.dumps(kept))
    with pytest.raises(SystemExit, match="ITQ"):
        run(papers, table, data, tmp_path, "--rows", "ITQ")
    text = (tmp_path / f"{table}.md").read_text()
    assert "| ITQ |" in text
    assert "| CCA-ITQ |" not in text


def test_the_bars_of_classical_hashers(papers):
    hashing = importlib.import_module("_papers.hashing")
    good = {"map": 0.2, "lost": 0.101, "mistaught": 0.15, "seconds": 4.0}

    def missed(name, **others):
        return hashing.misses(name, good | others, chance=0.1, without=0.17)

    assert all(missed(name) == [] for name in hashing.CLASSICAL)
    assert missed("KSH", map=0.14) == ["mAP 0.0400 above chance, not 0.05"]
    assert missed("LSH", map=0.14) == []
    assert missed("LSH", lost=0.12) == ["mAP 0.1200 with all labels shuffled, not 0.1000"]
    assert missed("MLH", mistaught=0.19) == [
        "mAP 0.1900 with training labels shuffled, above ITQ's 0.1700"
    ]
    assert missed("CCA-ITQ", seconds=5.1) == ["fit of all in 5.1 s, not 5"]
    assert missed("BRE", seconds=299.0) == []


@pytest.mark.slow
def test_the_table_of_classical_hashers(papers, folder, tmp_path):
    with pytest.raises(SystemExit, match="with all labels shuffled"):
        run(papers, "hashers-cifar10", paper_folders.cifar10_batches(folder), tmp_path)
    assert (tmp_path / "hashers-cifar10.md").read_text().count("\n| ") == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "write"),
    [("dfeh-ablation", paper_folders.cifar10), ("dfeh-svhn", paper_folders.svhn)],
)
def test_the_ablation_tables(papers, folder, tmp_path, table, write):
    text = run(papers, table, write(folder), tmp_path)
    assert "weights 0.1" in text
    assert "cbam" in text
    assert "backbone='resnet9'" in text


@pytest.mark.slow
def test_the_hashing_table_of_photos_with_several_labels(papers, folder, tmp_path):
    more = "--n-queries", 1, "--n-train", 3, "--image-size", 32
    text = run(papers, "dfeh-nuswide", paper_folders.nuswide(folder), tmp_path, *more)
    assert text.split("By map:")[0].count("\n| ") == 3 * 23 + 3 + 1
    assert "| map@5000, hits |" in text


def test_published_map_divides_by_the_hits_among_the_first_results(papers):
    compare = importlib.import_module("_papers._compare")
    y, distances = [1, 0, 1, 0, 1], [[1.0, 2.0, 3.0, 4.0, 5.0]]
    score = compare.published_map([1], y, distances, k=4)
    assert score == pytest.approx((1 + 2 / 3) / 2)
    everything = compare.published_map([1], y, distances)  # 5,000, and there are but five
    assert everything == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_mosaics_show_four_images_and_carry_their_labels(papers):
    multi_label = importlib.import_module("_papers.multi_label")
    images, y = make_shapes(40, image_size=16, random_state=0)
    y = np.unique(y, return_inverse=True)[1]
    tiled, labels = multi_label.mosaics(images, y, 10, repeats=False, seed=0)
    assert tiled.shape == (10, 32, 32, 3)
    rows = np.random.default_rng(0).permutation(40).reshape(10, 2, 2)
    np.testing.assert_array_equal(tiled[3][:16, 16:], images[rows[3, 0, 1]])
    np.testing.assert_array_equal(np.flatnonzero(labels[3]), np.unique(y[rows[3]]))


@pytest.mark.slow
def test_the_multi_label_table_of_mosaics(papers, folder, tmp_path):
    text = run(papers, "multi-label-mosaics", paper_folders.cifar10(folder), tmp_path)
    assert "binary similarity" in text


@pytest.mark.slow
@pytest.mark.parametrize(("name", "column"), [("nuswide", "map@5000, hits"), ("mirflickr", "map")])
def test_the_multi_label_tables_of_photos(papers, folder, tmp_path, name, column):
    save_weights(tmp_path, "resnet18")
    data = getattr(paper_folders, name)(folder)
    more = ["--n-queries", 6, "--n-train", 130, "--image-size", 32]
    more += ["--backbone", "resnet18", "--weights-dir", tmp_path]
    text = run(papers, f"multi-label-{name}", data, tmp_path, *more)
    assert "multi-level" in text
    assert f"| {column} | ndcg@100 |" in text
    assert "| chance |" in text


def test_the_multi_label_table_of_fashion(papers, folder, tmp_path):
    more = ["--n-queries", 6, "--n-train", 64, "--image-size", 32, "--rows", "binary similarity"]
    data = paper_folders.fashion(folder)
    text = run(papers, "multi-label-fashion", data, tmp_path, *more)
    assert "| binary similarity |" in text
    assert "| map | ndcg@100 | acg@100 | wmap |" in text


def test_photos_of_fashion_that_ask_are_in_no_other_part(papers, folder, monkeypatch):
    tasks = []
    monkeypatch.setattr(papers, "_multi_label", lambda cells, task, *_, **__: tasks.append(task))
    arguments = ["multi-label-fashion", "--data", str(paper_folders.fashion(folder))]
    papers.multi_label_fashion(
        None, papers.parse([*arguments, "--n-queries", "6", "--n-train", "64"])
    )
    (task,) = tasks
    for part in (task.tuning, task.final):
        assert len(part.train) == 64
        assert set(part.train) <= set(part.gallery)
        asked = {*task.tuning.queries, *task.final.queries}
        assert len(asked) == 12
        assert not asked & {*part.train, *part.gallery}
    before = task.fingerprint(task.final)
    task.inputs["images"][0] += b"more"
    del vars(task)["_content"]
    assert task.fingerprint(task.final) != before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "row"), [("zero-shot-omniglot", "CPF"), ("lrml-omniglot", "staircase")]
)
def test_tables_of_unseen_drawings(papers, tmp_path, table, row):
    data = Path(__file__).parent / "data" / "omniglot_small1.npz"
    assert row in run(papers, table, data, tmp_path)


def test_thresholds_read_distances_block_by_block(papers, monkeypatch):
    compare, zero_shot = map(importlib.import_module, ("_papers._compare", "_papers.zero_shot"))
    rng = np.random.default_rng(0)
    y = np.arange(600) % 60
    rows = np.eye(60)[y] + 0.5 * rng.normal(size=(600, 60))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    seen, unseen = np.arange(300), np.arange(300, 600)
    parts = {"tuning": compare.Part(seen, seen), "final": compare.Part(seen, unseen)}
    task = compare.Task(inputs={"images": rows}, y=y, **parts)
    largest = []
    read = zero_shot.CosineDistances.__getitem__
    monkeypatch.setattr(
        zero_shot.CosineDistances,
        "__getitem__",
        lambda self, index: largest.append(len(self.rows[index])) or read(self, index),
    )
    monkeypatch.setattr("sklearn_cbir.metrics._relevance.MAX_ROWS_AT_ONCE", 50)
    found = zero_shot.thresholds(task, task.final, FunctionTransformer())
    assert max(largest) == 50

    distances = np.clip(1 - rows[unseen] @ rows[unseen].T, 0, 2)
    compared = y[unseen], y[unseen], distances
    whole = np.eye(300, dtype=bool)
    radius = 1 - found["threshold"]
    assert found[zero_shot.ONE_F1] == pytest.approx(
        threshold_f1(*compared, radius=radius, exclude=whole), abs=1e-12
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cub", "cars", "sop", "shopee"])
def test_tables_of_unseen_products(papers, folder, tmp_path, name):
    save_weights(tmp_path, "resnet18")
    more = "--backbone", "resnet18", "--weights-dir", tmp_path, "--image-size", 32
    data = getattr(paper_folders, name)(folder)
    assert "multi-similarity" in run(papers, f"zero-shot-{name}", data, tmp_path, *more)


@pytest.mark.slow
@pytest.mark.parametrize("table", ["squared-hinge", "lrml-photos"])
def test_tables_of_photos(papers, folder, tmp_path, table):
    save_weights(tmp_path, "squeezenet1_0")
    more = "--weights-dir", tmp_path, "--image-size", 64  # for half of it, too
    text = run(papers, table, paper_folders.photos(folder), tmp_path, *more)
    expected = ["squared_hinge gains", "95 %", "squeezenet1_0, norm: softmax"]
    assert all(part in text for part in (expected if table == "squared-hinge" else ["staircase"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("zero-shot-grocery", "| loss | map_at_r | recall@1 | map_at_r, without junk |"),
        ("lrml-grocery", "| loss | map | recall@1 | map_at_r | whitened | 3 scales |"),
        ("squared-hinge-grocery", "| network | map | precision@10 |"),
    ],
)
def test_tables_of_groceries(papers, folder, tmp_path, table, columns):
    save_weights(tmp_path, "squeezenet1_0")
    data = paper_folders.whole_grocery(folder, n=192)
    more = "--weights-dir", tmp_path, "--image-size", 64, "--backbone", "squeezenet1_0"
    text = run(papers, table, data, tmp_path, *more)
    assert columns in text
    assert "untrained" in text
    assert "| chance | 0." in text
    assert "By map" in text


@pytest.mark.slow
def test_tables_of_holidays_in_folds_and_after_groceries(papers, folder, tmp_path):
    save_weights(tmp_path, "squeezenet1_0")
    more = ["--weights-dir", tmp_path, "--image-size", 64, "--backbone", "squeezenet1_0"]
    products = tmp_path / "grocery"
    products.mkdir()
    places = paper_folders.holidays(folder, n=60)
    with pytest.raises(SystemExit, match="--train-data is missing: the folder of Grocery"):
        run(papers, "lrml-holidays-folds", places, tmp_path, *more)
    more += ["--train-data", paper_folders.whole_grocery(products)]
    folds = run(papers, "lrml-holidays-folds", places, tmp_path, *more)
    cells = cells_of(tmp_path, "lrml-holidays-folds")
    assert len(cells) == 5 * 7  # rows, of which none has a choice
    assert folds.splitlines()[2].startswith("| untrained | ")
    transfer = run(papers, "lrml-transfer", places, tmp_path, *more)
    for text in (folds, transfer):
        assert "| staircase | equal distances (delta = 0) |" in text
        assert "not run" not in text


@pytest.mark.slow
def test_tables_of_epochs_until_a_loss_is_stable(papers, folder, tmp_path):
    save_weights(tmp_path, "squeezenet1_0")
    data = paper_folders.photos(folder / "clothing", n=48)
    more = ["--weights-dir", tmp_path, "--image-size", 32, "--backbone", "squeezenet1_0"]
    more += ["--epochs", 3]
    whole = run(papers, "squared-hinge-epochs", data, tmp_path, *more)
    heads = run(papers, "squared-hinge-heads", folder, tmp_path, *more)
    assert "| epochs to 99 % of the way in loss | epochs to 99 % of the way in held-out" in whole
    assert heads.count("medians over the rates:") == 2
    assert "| clothing, squeezenet1_0 | " in heads
    assert "Chance: clothing: map 0." in heads
    for table in ("squared-hinge-epochs", "squared-hinge-heads"):
        for cell in cells_of(tmp_path, table).values():
            assert len(cell["held_out"]) == len(cell["losses"]) == 3


@pytest.mark.slow
def test_tables_of_codes_of_frozen_features_and_of_the_goal(papers, folder, tmp_path):
    save_weights(tmp_path, "squeezenet1_0")
    more = ["--weights-dir", tmp_path, "--image-size", 32, "--backbone", "squeezenet1_0"]
    text = run(papers, "dfeh-clothing", paper_folders.photos(folder, n=24), tmp_path, *more)
    assert "| loss | map | s a cell | settings |" in text
    assert "| dfeh, 12 bits | csq, 12 bits |" in text
    data = paper_folders.cifar10(tmp_path)
    text = run(papers, "dfeh-goal", data, tmp_path, "--backbone", "small")
    assert text.count("(0.7") >= 4  # the paper's
    assert "| dfeh, 12 bits | dsh, DFEH's settings, 12 bits |" in text


@pytest.mark.slow
def test_the_full_table_of_photos_has_the_four_networks(papers, folder, tmp_path):
    save_weights(tmp_path, "inception_v3", init_weights=False)
    for name in ("mobilenet_v2", "resnet18"):
        save_weights(tmp_path, name)
    more = ["--weights-dir", tmp_path, "--image-size", 80, "--full"]  # 75 is the least of Inception
    with pytest.raises(SystemExit, match="--full needs the weights of vgg19: put"):
        run(papers, "squared-hinge", paper_folders.photos(folder), tmp_path, *more)
    save_weights(tmp_path, "vgg19")
    text = run(papers, "squared-hinge", folder, tmp_path, *more)
    for name in ("vgg19", "inception_v3", "mobilenet_v2", "resnet18"):
        assert text.count(name) >= 1
    assert "squeezenet" not in text  # its weights are not there


@pytest.mark.slow
def test_the_full_hashing_table_has_every_length_and_variant(papers, folder, tmp_path):
    text = run(papers, "dfeh-cifar10", paper_folders.cifar10(folder), tmp_path, "--full")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "bits" not in line]
    assert len(rows) >= 2 * 21
    assert not any("|  |" in row.rsplit("|", 2)[0] for row in rows)  # every length was run
    assert "dfeh, plain mean of pairs" in text


def test_epochs_until_a_loss_is_at_its_end(papers):
    stability = importlib.import_module("_papers.stability")
    assert stability.epochs_of_way([11.0, 3.0, 1.05, 1.0, 1.005, 1.0]) == 3  # 0.5 % is left
    assert stability.epochs_of_way([11.0, 1.0, 3.0, 1.0]) == 4  # it bounced
    assert stability.epochs_of_way([2.0, 2.0]) == 1
    assert stability.epochs_of_way([2.0, 1.0]) == 2


def test_epochs_are_compared_at_equal_rates(papers):
    stability = importlib.import_module("_papers.stability")

    def records(*epochs):
        trials = [{"setting": {"lr": 10.0**-n}, "e": of} for n, of in enumerate(epochs)]
        return [{"setting": {}, "trials": [*trials, {"setting": {"lr": 7.0}, "map": 0.0}]}]

    results = {"a: softmax": records(10, 20, 40), "a: squared_hinge": records(5, 20, 50)}
    results |= {"b: softmax": records(1), "b: squared_hinge": []}
    text = stability.epochs_at_equal_rates(results, ["a", "b"], "e")
    assert text.splitlines()[-2:] == ["| a | 20 | 20 | 1, 1, 1 |", "| b | not run | not run | |"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["oxford5k", "paris6k", "holidays"])
def test_tables_of_places(papers, folder, tmp_path, name):
    save_weights(tmp_path, "resnet18")
    data = getattr(paper_folders, name)(folder)
    places = paper_folders.photos(tmp_path / "places", n=24) / "train"
    more = ["--weights-dir", tmp_path, "--backbone", "resnet18", "--image-size", 32]
    text = run(papers, f"lrml-{name}", data, tmp_path, *more, "--train-data", places)
    assert "staircase" in text


def test_holidays_is_scored_by_trapezoids_without_the_query_itself(papers, folder):
    places = importlib.import_module("_papers.places")
    holidays = places.holidays(paper_folders.holidays(folder))  # four groups of three
    distances = np.empty((4, 12))
    for query in range(4):
        own, near, far = 3 * query + np.arange(3)
        others = np.setdiff1d(np.arange(12), [own, near, far])
        order = [own, near, others[0], far, *others[1:]]  # relevant ones at ranks 0 and 2
        distances[query, order] = np.arange(12)
    by_hand = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2
    assert holidays.score(distances) == pytest.approx(by_hand)


def test_a_part_of_holidays_is_scored_too(papers, folder):
    places = importlib.import_module("_papers.places")
    paper_folders.holidays(folder)
    for name in ("100000", "100101", "100102"):  # a query, and all that another one finds
        (folder / f"{name}.jpg").unlink()
    part = places.holidays(folder)
    queries = [Path(path).stem for path in part.read_queries()]
    assert queries == ["100001", "100200", "100300"]
    y = np.array([int(Path(path).stem) // 100 for path in part.gallery])
    y_queries = np.array([int(name) // 100 for name in queries])
    assert part.score((y_queries[:, None] != y).astype(float)) == 1.0


def test_a_table_without_weights_says_where_to_put_them(papers, folder, tmp_path):
    with pytest.raises(SystemExit, match="No weights in --weights-dir=None"):
        run(papers, "squared-hinge", paper_folders.photos(folder), tmp_path)
