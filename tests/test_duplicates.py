"""Duplicates: groups are what a plain walk over all pairs finds, whatever the photos come as."""

import hashlib
import io
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image, ImageEnhance
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sklearn_cbir import CNNFeatureExtractor
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor, PerceptualHash
from sklearn_cbir.duplicates import NearDuplicates
from sklearn_cbir.extraction import extract
from sklearn_cbir.images import ImageReadError, check_images
from sklearn_cbir.index import _groups
from sklearn_cbir.persistence import load, save

PHOTOS = sorted((Path(__file__).parent / "data" / "clothing").rglob("*.jpg"))[:6]


# References ----------------------------------------------------------------------------------


def _distance(metric, one, other):
    if metric == "hamming":
        return sum(a != b for a, b in zip(one, other))
    if metric == "euclidean":
        return np.sqrt(sum((a - b) ** 2 for a, b in zip(one, other)))
    if np.array_equal(one, other):
        return 0.0
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return 1 - one @ other / norms if norms else 1.0


def _partition_by_walking(n, are_linked):
    """Number the groups by their first members, from one to the next along all links."""
    number = [-1] * n
    for start in range(n):
        if number[start] >= 0:
            continue
        number[start], waiting = max(number) + 1, [start]
        while waiting:
            here = waiting.pop()
            for other in range(n):
                if number[other] < 0 and are_linked(here, other):
                    number[other] = number[start]
                    waiting.append(other)
    return number


def _groups_of(partition):
    members = [
        [i for i, p in enumerate(partition) if p == number] for number in sorted(set(partition))
    ]
    return [group for group in members if len(group) > 1]


def _listed(groups):
    return [group.tolist() for group in groups]


class MeanColors(TransformerMixin, BaseEstimator):
    """The mean of every color; counts the images that it was given."""

    seen = 0

    def fit(self, X, y=None):
        self.n_fit_ = len(check_images(X))
        return self

    def transform(self, X):
        images = check_images(X)
        type(self).seen += len(images)
        return images.read(slice(None), 8).mean(axis=(1, 2))


class Halves(BaseEstimator):
    """Which half of a photo is brighter, as one bit, and the other bit of its mirror image."""

    near_duplicates = ("hamming", 0)

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return self.transform_forms(X)[:, 0]

    def transform_forms(self, X):
        pixels = check_images(X).read(slice(None), 8).mean(axis=3)
        left = pixels[:, :, :4].mean(axis=(1, 2)) > pixels[:, :, 4:].mean(axis=(1, 2))
        return np.stack([left, ~left], axis=1)[:, :, None].astype(np.uint8)


@pytest.fixture
def fresh_count():
    MeanColors.seen = 0


@pytest.fixture(params=["as it is", "small blocks", "every group a crowd"])
def blocks(request, monkeypatch):
    if request.param != "as it is":
        for name in ("CODES_AT_ONCE", "FLOATS_AT_ONCE", "PAIRS_AT_ONCE", "LINKS_AT_ONCE"):
            monkeypatch.setattr(_groups, name, 40)
    if request.param == "every group a crowd":
        monkeypatch.setattr(_groups, "CROWD", 0)


# Groups --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "hamming"])
@pytest.mark.parametrize("share", [0.01, 0.03, 0.1, 0.3])
def test_groups_are_those_of_a_walk_over_all_pairs(metric, share, blocks, rng):
    rows = rng.normal(size=(70, 3))
    rows[40:45], rows[50] = rows[:5], 0
    if metric == "hamming":
        rows = (rng.random((70, 14)) < 0.4).astype(np.uint8)
    distances = np.array([[_distance(metric, one, other) for one in rows] for other in rows])
    radius = float(np.quantile(distances, share))
    expected = _partition_by_walking(70, lambda i, j: distances[i, j] <= radius)
    found = NearDuplicates(radius=radius, metric=metric).fit(rows)
    assert found.partition_.tolist() == expected
    assert _listed(found.groups_) == _groups_of(expected)


def test_codes_are_grouped_where_numba_is_missing(monkeypatch, blocks, rng):
    codes = (rng.random((50, 70)) < 0.1).astype(np.uint8)
    compiled = _groups.group_rows(codes, "hamming", 8)
    monkeypatch.setattr("sklearn_cbir.codes._search.kernels", lambda: None)
    assert _groups.group_rows(codes, "hamming", 8).tolist() == compiled.tolist()
    assert 1 < len(np.unique(compiled)) < 50


@given(st.data())
def test_any_codes_are_grouped_as_by_walking(data):
    n, n_bits = data.draw(st.integers(1, 24)), data.draw(st.integers(1, 70))
    code = st.integers(0, 2**n_bits - 1)
    codes = data.draw(st.lists(code, min_size=n, max_size=n))
    radius = data.draw(st.integers(0, n_bits))
    links = data.draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=4))
    rows = np.array([[code >> bit & 1 for bit in range(n_bits)] for code in codes], dtype=np.uint8)

    def are_linked(i, j):
        near = (codes[i] ^ codes[j]).bit_count() <= radius
        return near or (i, j) in links or (j, i) in links

    given_links = tuple(np.array(links, dtype=np.int64).reshape(-1, 2).T)
    found = _groups.group_rows(rows, "hamming", radius, links=given_links)
    assert found.tolist() == _partition_by_walking(n, are_linked)


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 4])
def test_any_form_of_a_code_may_be_near(radius, blocks, rng):
    codes = rng.integers(0, 2, (60, 18), dtype=np.uint8)
    codes[10:20], codes[20:25] = codes[:10, ::-1], codes[0]
    forms = np.stack([codes, codes[:, ::-1]], axis=1)

    def are_linked(i, j):
        return any((form != codes[j]).sum() <= radius for form in forms[i])

    found = _groups.group_rows(codes, "hamming", radius, forms)
    assert found.tolist() == _partition_by_walking(len(codes), are_linked)


def test_equal_codes_may_have_other_forms():
    codes = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=np.uint8)
    others = np.array([[1, 1, 1, 0], [0, 0, 0, 1], [1, 0, 1, 0]], dtype=np.uint8)
    found = _groups.group_rows(codes, "hamming", 1, np.stack([codes, others], axis=1))
    assert found.tolist() == [0, 0, 0]


def test_a_chain_is_one_group_though_its_ends_are_far():
    rows = [[0.0], [10.0], [1.0], [2.0], [11.0], [20.0], [3.0]]
    found = NearDuplicates(radius=1.0, metric="euclidean").fit(rows)
    assert found.labels_.tolist() == [0, 1, 0, 0, 1, -1, 0]
    assert _listed(found.groups_) == [[0, 2, 3, 6], [1, 4]]
    assert found.partition_.tolist() == [0, 1, 0, 0, 1, 2, 0]
    assert {group.dtype for group in found.groups_} == {np.dtype(np.int64)}
    assert found.labels_.dtype == found.partition_.dtype == np.int64


def test_one_row_is_alone():
    found = NearDuplicates(radius=1.0, metric="euclidean").fit([[1.0, 2.0]])
    assert found.labels_.tolist() == [-1]
    assert found.groups_ == []
    assert found.leaks(["train"]).shape == (0, 2)


def test_the_radius_itself_is_within():
    rows = np.array([[0, 0, 0, 0], [1, 1, 0, 0]], dtype=np.uint8)
    assert NearDuplicates(radius=2, metric="hamming").fit(rows).labels_.tolist() == [0, 0]
    assert NearDuplicates(radius=1.9, metric="hamming").fit(rows).labels_.tolist() == [-1, -1]


@pytest.mark.parametrize("differ", [False, True], ids=["equal", "nearly equal"])
def test_a_crowd_takes_memory_of_the_order_of_the_rows(differ, rng):
    n = 30_000  # 450 million pairs, all of them within the radius
    codes = np.zeros((n, 64), dtype=np.uint8)
    if differ:
        codes[np.arange(n), rng.integers(64, size=n)] = 1
        codes[np.arange(n), rng.integers(64, size=n)] = 1
    clusterer = NearDuplicates(radius=4, metric="hamming")
    clusterer.fit(codes[:100])  # compiles
    tracemalloc.start()
    found = clusterer.fit(codes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # bytes; one per pair would be four times as many
    assert len(found.groups_) == 1
    assert len(found.groups_[0]) == n


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_crowds_of_floats_are_followed_among_others(metric, rng):
    centers = rng.normal(size=(200, 8))
    number = np.r_[np.zeros(3000, dtype=int), np.ones(900, dtype=int), rng.integers(200, size=100)]
    rng.shuffle(number)
    rows = centers[number] + 1e-3 * rng.normal(size=(4000, 8))
    found = NearDuplicates(radius=1e-2, metric=metric).fit(rows).partition_
    for center in np.unique(number):
        assert len(np.unique(found[number == center])) == 1
    assert len(np.unique(found)) == len(np.unique(number))


# Photos --------------------------------------------------------------------------------------


def _variants(path):
    """Return files of one photo: as it is, saved badly, smaller, brighter, cropped."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    edge_x, edge_y = width * 4 // 100, height * 4 // 100
    cropped = image.crop((edge_x, edge_y, width - edge_x, height - edge_y))
    brighter = ImageEnhance.Brightness(image).enhance(1.2)
    files = [Path(path).read_bytes()]
    changes = [
        (image, 25),
        (image.resize((width // 3, height // 3)), 90),
        (brighter, 90),
        (cropped, 90),
    ]
    for changed, quality in changes:
        file = io.BytesIO()
        changed.save(file, "JPEG", quality=quality)
        files.append(file.getvalue())
    return files


@pytest.fixture(scope="module")
def saved_again():
    return [file for path in PHOTOS for file in _variants(path)]


@pytest.mark.parametrize(
    ("descriptor", "kind"), [("phash", PerceptualHash), ("gist", GISTDescriptor)]
)
def test_photos_saved_again_are_found(descriptor, kind, saved_again):
    found = NearDuplicates(descriptor).fit(saved_again)
    assert found.labels_.tolist() == np.repeat(np.arange(6), 5).tolist()
    # The original has the most pixels; what is as large has fewer bytes, or comes later.
    sizes = [len(file) for file in saved_again]
    for group in found.groups_:
        kept = group[found.keep_[group]]
        assert len(kept) == 1
        assert sizes[kept[0]] == max(sizes[i] for i in group[[0, 1, 3]])
    assert isinstance(found.descriptor_, kind)


def _as_paths(files, folder):
    paths = [folder / f"{i:02d}.jpg" for i in range(len(files))]
    for path, file in zip(paths, files):
        path.write_bytes(file)
    return paths


KINDS = {
    "paths": _as_paths,
    "text": lambda files, folder: list(map(str, _as_paths(files, folder))),
    "array of text": lambda files, folder: np.array(list(map(str, _as_paths(files, folder)))),
    "encoded": lambda files, folder: files,
    "tuple": lambda files, folder: tuple(files),
    "dictionaries": lambda files, folder: [{"bytes": file} for file in files],
    "opened": lambda files, folder: [Image.open(io.BytesIO(file)) for file in files],
    "decoded": lambda files, folder: [
        Image.open(io.BytesIO(file)).convert("RGB") for file in files
    ],
    "arrays": lambda files, folder: [
        np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files
    ],
    "checked": lambda files, folder: check_images(_as_paths(files, folder))[:],
}


@pytest.mark.parametrize("kind", KINDS)
def test_photos_are_grouped_whatever_they_come_as(kind, saved_again, tmp_path):
    files = [*saved_again[:10], *saved_again[:3]]
    X = KINDS[kind](files, tmp_path)
    found = NearDuplicates("gist").fit(X)
    assert _listed(found.groups_) == [[0, 1, 2, 3, 4, 10, 11, 12], [5, 6, 7, 8, 9]]
    pixels = [np.prod(Image.open(io.BytesIO(file)).size) for file in files]
    for group in found.groups_:
        kept = group[found.keep_[group]]
        assert [pixels[i] for i in kept] == [max(pixels[i] for i in group)]


def test_stacks_of_arrays_are_grouped():
    images, _ = make_shapes(12, random_state=0)
    found = NearDuplicates("gist", radius=0.0).fit(np.concatenate([images, images[3:5]]))
    assert _listed(found.groups_) == [[3, 12], [4, 13]]
    assert np.flatnonzero(~found.keep_).tolist() == [12, 13]


def test_files_of_the_same_bytes_are_described_once(fresh_count, saved_again):
    found = NearDuplicates(MeanColors().fit(saved_again), radius=0.0, metric="euclidean")
    found.fit([*saved_again[::5], *saved_again[::5]])
    assert MeanColors.seen == 6
    assert _listed(found.groups_) == [[i, i + 6] for i in range(6)]


def test_only_files_of_one_size_are_compared(saved_again, tmp_path, monkeypatch):
    read = []

    def file_digest(file, name):
        read.append(Path(file.name).name)
        return hashlib.sha256(file.read())

    monkeypatch.setattr("hashlib.file_digest", file_digest)
    NearDuplicates("gist").fit(_as_paths([*saved_again[:4], saved_again[1]], tmp_path))
    assert sorted(read) == ["01.jpg", "04.jpg"]


@pytest.mark.parametrize("made", [np.asarray, Image.fromarray])
def test_the_same_bytes_in_another_shape_are_another_photo(made, rng):
    wide = rng.integers(256, size=(8, 16, 3), dtype=np.uint8)
    X = [made(pixels) for pixels in (wide, wide.reshape(16, 8, 3), wide.copy())]
    found = NearDuplicates(MeanColors(), radius=1e-9, metric="euclidean").fit(X)
    assert found.labels_.tolist() == [0, -1, 0]


def test_a_descriptor_may_give_numbers_of_any_type(rng):
    images = make_shapes(3, random_state=0)[0]
    rows = np.array([[0, 7], [0, 7], [9, 0]])
    for dtype in (np.float16, np.float32, np.float64, np.int8, np.uint8):
        found = NearDuplicates(Odd(rows.astype(dtype)), radius=1e-3).fit(images)
        assert found.labels_.tolist() == [0, 0, -1]


def test_frames_of_one_file_are_not_the_same_photo():
    file = io.BytesIO()
    first, second = (Image.new("RGB", (16, 16), color) for color in ("red", "blue"))
    first.save(file, "GIF", save_all=True, append_images=[second])
    frames = [Image.open(io.BytesIO(file.getvalue())) for _ in range(3)]
    frames[1].seek(1)
    found = NearDuplicates(MeanColors(), radius=1.0, metric="euclidean").fit(frames)
    assert found.labels_.tolist() == [0, -1, 0]


def test_mirrored_photos_are_found_by_a_descriptor_that_gives_their_forms():
    left = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    left[:, :, :4] = np.array([50, 100, 150, 200])[:, None, None, None]
    mirrored = left[:2, :, ::-1]
    assert (
        NearDuplicates(Halves()).fit(np.concatenate([left, mirrored])).labels_.tolist() == [0] * 6
    )
    plain = NearDuplicates(FunctionTransformer(Halves().transform), radius=0)
    assert plain.fit(np.concatenate([left, mirrored])).labels_.tolist() == [0, 0, 0, 0, 1, 1]


def test_turned_and_mirrored_photos_are_found_if_that_is_asked_for():
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in PHOTOS]
    X = [*photos, photos[0][:, ::-1], np.rot90(photos[1]), np.rot90(photos[2], 3)[::-1]]
    assert NearDuplicates().fit(X).groups_ == []
    found = NearDuplicates(PerceptualHash(turned=True)).fit(X)
    assert _listed(found.groups_) == [[0, 6], [1, 7], [2, 8]]


def test_a_descriptor_that_is_fitted_is_used_as_it_is(fresh_count):
    images, _ = make_shapes(10, random_state=0)
    fitted = MeanColors().fit(images[:3])
    found = NearDuplicates(fitted, radius=0.5, metric="euclidean").fit(images)
    assert found.descriptor_ is fitted
    fresh = MeanColors()
    found = NearDuplicates(fresh, radius=0.5, metric="euclidean").fit(images)
    assert found.descriptor_ is not fresh
    assert found.descriptor_.n_fit_ == 10


def test_a_network_may_describe():
    images, y = make_shapes(20, random_state=0)
    extractor = CNNFeatureExtractor("small", weights=None, max_epochs=1, random_state=0)
    extractor.fit(images, y)
    X = np.concatenate([images[:5], images[2:4]])
    found = NearDuplicates(extractor, radius=1e-6).fit(X)
    assert {(2, 5), (3, 6)} <= {tuple(group) for group in _listed(found.groups_)}


def test_processes_find_the_same(saved_again, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.duplicates.IMAGES_AT_ONCE", 8)
    alone, together = (NearDuplicates("gist", n_jobs=n_jobs) for n_jobs in (None, 2))
    assert alone.fit_predict(saved_again).tolist() == together.fit_predict(saved_again).tolist()


def test_progress_is_shown_if_it_is_asked_for(capsys):
    images, _ = make_shapes(6, random_state=0)
    NearDuplicates("gist").fit(images)
    assert capsys.readouterr().err == ""
    NearDuplicates("gist", verbose=1).fit(images)
    shown = capsys.readouterr().err
    assert "Describing images" in shown
    assert "Comparing images" in shown


# What to keep --------------------------------------------------------------------------------


@pytest.fixture
def same_photos(tmp_path):
    """Return paths of one gray photo: of fewer pixels, fewer bytes, and twice the largest."""
    image = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
    names = {"d_small.png": 0, "c_packed.png": 9, "b_large.bmp": None, "a_large.bmp": None}
    for name, level in names.items():
        shown = image.resize((32, 32)) if "small" in name else image
        shown.save(tmp_path / name, **({} if level is None else {"compress_level": level}))
    return [tmp_path / name for name in names]


@pytest.mark.parametrize(
    ("chosen", "kept"),
    [([0, 1], 1), ([1, 0], 0), ([1, 2], 1), ([2, 3], 1), ([3, 2], 0), ([3, 3], 0)],
    ids=["pixels", "pixels first", "bytes", "path", "path first", "position"],
)
def test_most_pixels_then_the_largest_file_then_the_first_path_stays(chosen, kept, same_photos):
    paths = [same_photos[i] for i in chosen]
    found = NearDuplicates(MeanColors(), radius=3.0, metric="euclidean").fit(paths)
    assert found.labels_.tolist() == [0, 0]
    assert found.keep_.tolist() == [i == kept for i in range(2)]


def test_what_is_alone_stays(same_photos):
    found = NearDuplicates(MeanColors(), radius=0.0, metric="euclidean").fit(PHOTOS)
    assert found.keep_.dtype == bool
    assert found.keep_.all()


def test_a_file_is_kept_and_not_the_links_to_it(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    file, link, folder_link = folder / "z.png", tmp_path / "a.png", tmp_path / "linked"
    Image.new("RGB", (20, 20), "red").save(file)
    link.symlink_to(file)
    folder_link.symlink_to(folder)
    paths = list(map(str, [link, folder_link / "z.png", file]))
    assert NearDuplicates().fit(paths).keep_.tolist() == [False, False, True]


def test_rows_say_nothing_of_what_to_keep_but_with_files(same_photos):
    rows = [[0.0], [0.0], [5.0], [5.0]]
    found = NearDuplicates(radius=0.1, metric="euclidean").fit(rows)
    assert not hasattr(found, "keep_")
    with pytest.raises(AttributeError, match="fit\\(X, files=paths\\)"):
        _ = found.keep_
    assert found.fit(rows, files=same_photos).keep_.tolist() == [False, True, False, True]


# Files beside rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("routing", [False, True])
def test_a_pipeline_passes_the_files(routing, saved_again, tmp_path):
    paths = _as_paths(saved_again[::5], tmp_path)
    copy = tmp_path / "copy.jpg"
    shutil.copy(paths[1], copy)
    X = [*paths, copy]
    with config_context(enable_metadata_routing=routing):
        last = NearDuplicates(metric="euclidean", radius=0.0)
        if routing:
            pipeline = make_pipeline(MeanColors(), last.set_fit_request(files=True))
            labels = pipeline.fit_predict(X, files=X)
        else:
            pipeline = make_pipeline(MeanColors(), last)
            labels = pipeline.fit_predict(X, nearduplicates__files=X)
    assert labels.tolist() == [-1, 0, -1, -1, -1, -1, 0]
    assert pipeline[-1].keep_.tolist() == [True] * 6 + [False]


def test_equal_files_are_one_group_however_far_their_rows_are(same_photos):
    rows = [[0.0], [10.0], [20.0], [30.0]]  # the last two files are equal
    found = NearDuplicates(radius=1.0, metric="euclidean").fit(rows, files=same_photos)
    assert found.labels_.tolist() == [-1, -1, 0, 0]


def test_columns_of_rows_are_forgotten_with_the_rows():
    found = NearDuplicates("gist", **NEAR).fit(ROWS)
    assert found.n_features_in_ == 2
    assert not hasattr(found.fit(make_shapes(3, random_state=0)[0]), "n_features_in_")
    assert isinstance(found.descriptor_, GISTDescriptor)
    assert found.fit(ROWS).descriptor_ is None


def test_shards_are_rows(tmp_path):
    shards = extract(GISTDescriptor(), [*PHOTOS, PHOTOS[2]], tmp_path)
    found = NearDuplicates(radius=0.05, metric="cosine").fit(shards)
    assert _listed(found.groups_) == [[2, 6]]


def test_images_may_be_made_from_the_files(same_photos):
    arrays = [np.asarray(Image.open(path).convert("RGB").resize((8, 8))) for path in same_photos]
    found = NearDuplicates(MeanColors(), radius=3.0, metric="euclidean")
    assert found.fit(arrays, files=same_photos).keep_.tolist() == [False, False, False, True]


# Leaks ---------------------------------------------------------------------------------------


def test_leaks_are_pairs_across_sets():
    rows = [[0.0], [0.1], [5.0], [0.2], [5.1], [9.0]]
    found = NearDuplicates(radius=0.15, metric="euclidean").fit(rows)
    sets = ["train", "test", "train", "train", "train", "test"]
    assert found.leaks(sets).tolist() == [[0, 1], [1, 3]]
    assert found.leaks(sets).dtype == np.int64
    assert found.leaks([0] * 6).shape == (0, 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=25))
def test_leaks_are_those_of_a_loop_over_all_pairs(photos):
    rows = np.array([[10.0 * place] for place, _ in photos])
    sets = [name for _, name in photos]
    found = NearDuplicates(radius=1.0, metric="euclidean").fit(rows).leaks(sets)
    expected = [
        [i, j]
        for i in range(len(photos))
        for j in range(i + 1, len(photos))
        if photos[i][0] == photos[j][0] and sets[i] != sets[j]
    ]
    assert found.tolist() == expected


def test_folds_of_the_partition_share_no_group(rng):
    rows = rng.integers(0, 12, size=(40, 1)).astype(float)
    found = NearDuplicates(radius=0.0, metric="euclidean").fit(rows)
    for train, test in GroupKFold(3).split(rows, groups=found.partition_):
        sets = np.zeros(40, dtype=int)
        sets[test] = 1
        assert len(found.leaks(sets)) == 0
        assert len(train) + len(test) == 40


# What every estimator does -------------------------------------------------------------------


@pytest.mark.parametrize("way", ["pickle", "file"])
def test_what_was_found_comes_back(way, saved_again, tmp_path):
    found = NearDuplicates(GISTDescriptor(image_size=24)).fit(saved_again[:10])
    if way == "pickle":
        again = pickle.loads(pickle.dumps(found))
    else:
        save(found, tmp_path / "found.cbir")
        again = load(tmp_path / "found.cbir")
    assert _listed(again.groups_) == _listed(found.groups_) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    for name in ("labels_", "partition_", "keep_"):
        assert getattr(again, name).tolist() == getattr(found, name).tolist()
    assert repr(again) == repr(found)


def test_a_clone_has_the_parameters_and_nothing_else():
    found = NearDuplicates(GISTDescriptor(24), radius=0.1, metric="cosine", n_jobs=2, verbose=0)
    found.fit(make_shapes(4, random_state=0)[0])
    again = clone(found)
    assert again.get_params().keys() == found.get_params().keys()
    assert again.descriptor.image_size == 24
    assert not hasattr(again, "labels_")
    with pytest.raises(AttributeError):
        again.leaks([0] * 4)


# Bad input -----------------------------------------------------------------------------------

ROWS = np.array([[0.0, 1.0], [1.0, 0.0]])
CODES = np.array([[0, 1], [1, 0]], dtype=np.uint8)
IMAGES = np.zeros((2, 8, 8), dtype=np.uint8)
NEAR = {"radius": 0.1, "metric": "cosine"}


class Odd(BaseEstimator):
    """Gives what it was told to."""

    near_duplicates = ("cosine", 1.0)

    def __init__(self, rows=None):
        self.rows = rows

    def transform(self, X):
        return self.rows


@pytest.mark.parametrize(
    ("parameters", "X", "message"),
    [
        ({}, ROWS, "X holds 2-D rows.*metric='cosine', radius=0.05"),
        ({"metric": "cosine"}, ROWS, "radius=None and metric='cosine'"),
        ({"radius": 0.1}, ROWS, "radius=0.1 and metric=None"),
        ({**NEAR, "radius": -1}, ROWS, "radius=-1 must be a number of at least 0"),
        ({**NEAR, "radius": np.nan}, ROWS, "radius=nan must be a finite number"),
        ({**NEAR, "radius": "0.1"}, ROWS, "radius='0.1' must be a finite number"),
        ({**NEAR, "metric": "l2"}, ROWS, "metric='l2' is not known.*'euclidean'"),
        ({**NEAR, "verbose": -1}, ROWS, "verbose=-1"),
        (NEAR, [[0.0, np.nan], [1.0, 0.0]], r"contains NaN: X\[0, 1\] is nan"),
        (NEAR, CODES, "X holds codes of 0 and 1, uint8, but metric='cosine'.*'hamming'"),
        (NEAR, CODES == 1, "X holds codes of 0 and 1, bool"),
        ({"radius": 1, "metric": "hamming"}, ROWS / 2, "codes hold only 0 and 1"),
        (NEAR, np.empty((0, 2)), "0 sample"),
        ({"descriptor": "gist"}, [], "0 sample"),
        ({"descriptor": "sift"}, IMAGES, "descriptor='sift' is not known"),
        ({"descriptor": GISTDescriptor}, IMAGES, "descriptor=.* has no transform"),
        ({"descriptor": 3}, IMAGES, "descriptor=3 has no transform"),
        (
            {"descriptor": "gist", "metric": "hamming"},
            IMAGES,
            "GISTDescriptor has no radius of its own with metric='hamming'",
        ),
        ({"descriptor": MeanColors()}, IMAGES, "MeanColors has no radius of its own. Pass"),
        ({"descriptor": Halves(), "metric": "cosine", "radius": 1}, IMAGES, "Halves gives codes"),
        ({"descriptor": Odd(np.zeros(2))}, IMAGES, r"gives float64 of shape \(2,\) for 2 images"),
        ({"descriptor": Odd(np.zeros((3, 1)))}, IMAGES, "one row of numbers per image"),
        ({"descriptor": Odd(np.array([[1], [np.inf]]))}, IMAGES, r"infinity for X\[1\]"),
        ({"descriptor": Odd(np.array([["a"], ["b"]]))}, IMAGES, "one row of numbers"),
    ],
)
def test_bad_input_is_one_clear_error(parameters, X, message):
    if isinstance(parameters.get("descriptor"), Odd):  # two different photos
        X = X + np.array([0, 9], dtype=np.uint8)[:, None, None]
    with pytest.raises(ValueError, match=message):
        NearDuplicates(**parameters).fit(X)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (PHOTOS[:1], "2 in X, 1 in files"),
        (
            ["X/lost.jpg", "gone.jpg"],
            r"^files\[0\] 'X/lost.jpg': the file does not exist.*1 more cannot be read: files\[1\]",
        ),
        ("lost.jpg", r"^files is a path, .* wrap it in a list, \[files\]\.$"),
        ([3, 4], r"^files\[0\] is 3 of type int"),
        ([], "^files: Found array with 0 sample"),
    ],
)
def test_bad_files_are_one_clear_error(files, message):
    for X in (ROWS, PHOTOS[:2]):
        with pytest.raises(ValueError, match=message):
            NearDuplicates(**NEAR).fit(X, files=files)


def test_files_that_cannot_be_read_are_listed_by_their_place_among_files():
    files = ["lost.jpg", "gone.jpg"]
    with pytest.raises(ImageReadError) as raised:
        NearDuplicates(**NEAR).fit(ROWS, files=files)
    assert [fault.path for fault in raised.value.faults] == files
    assert [str(fault).split()[0] for fault in raised.value.faults] == ["files[0]", "files[1]"]
    with pytest.raises(ImageReadError, match=r"^X\[0\] 'lost.jpg'"):
        NearDuplicates(**NEAR).fit(files, files=PHOTOS[:2])


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_an_error_names_all_photos_that_cannot_be_read(n_jobs, tmp_path, monkeypatch):
    monkeypatch.setattr("sklearn_cbir.duplicates.IMAGES_AT_ONCE", 2)
    (tmp_path / "damaged.jpg").write_bytes(PHOTOS[0].read_bytes()[:2000])
    (tmp_path / "cut.jpg").write_bytes(PHOTOS[1].read_bytes()[:2001])
    X = [*PHOTOS[:3], tmp_path / "damaged.jpg", tmp_path / "lost.jpg", PHOTOS[0]]
    both = [*X[:4], X[5], tmp_path / "cut.jpg"]  # in two blocks
    for photos, places in ((X, [3, 4]), ([*X[:4], X[5]], [3]), (both, [3, 5])):
        with pytest.raises(ImageReadError, match=r"^X\[3\]") as caught:
            NearDuplicates("gist", n_jobs=n_jobs).fit(photos)
        assert [fault.index for fault in caught.value.faults] == places


def test_an_error_of_no_photo_in_particular_stays_as_it_is():
    class Away(Odd):
        def transform(self, X):
            raise ImageReadError("The share is away.")

    with pytest.raises(ImageReadError, match="^The share is away.$"):
        NearDuplicates(Away()).fit(IMAGES)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["train"], "2 rows in X, 1 labels in groups"),
        ([["train", "test"]] * 2, r"groups has shape \(2, 2\)"),
        (np.eye(2), r"groups has shape \(2, 2\)"),
        ("train", "groups"),
        (None, "groups is None"),
        ([0.0, np.nan], r"groups\[1\] is nan"),
        (["train", None], r"groups\[1\] being None"),
        (np.array(["train", 3], dtype=object), "groups mixes labels of the types"),
        (np.ma.masked_array([0, 1], [False, True]), "masked"),
    ],
)
def test_bad_sets_are_one_clear_error(groups, message):
    found = NearDuplicates(**NEAR).fit(ROWS)
    with pytest.raises(ValueError, match=message):
        found.leaks(groups)


def test_more_pairs_than_a_list_holds_are_an_error(monkeypatch):
    monkeypatch.setattr("sklearn_cbir.duplicates.MOST_PAIRS", 5)
    found = NearDuplicates(radius=1.0, metric="euclidean").fit(np.zeros((5, 1)))
    assert len(found.leaks([0, 0, 0, 0, 1])) == 4
    with pytest.raises(ValueError, match="6 pairs are in one group and different sets.*5 photos"):
        found.leaks([0, 0, 0, 1, 1])
