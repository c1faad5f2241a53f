"""What cannot be read for a while is never forgotten, and what has changed is told at once."""

import builtins
import errno
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin

from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.extraction import extract, load_features
from sklearn_cbir.images import ImageReadError

IMAGES, _ = make_shapes(12, random_state=0)
GIST = GISTDescriptor(16)


@pytest.fixture
def paths(tmp_path):
    """Files of the images, which a test may damage."""
    (tmp_path / "photos").mkdir()
    found = [str(tmp_path / "photos" / f"{i:02d}.png") for i in range(len(IMAGES))]
    for path, image in zip(found, IMAGES):
        Image.fromarray(image).save(path)
    return found


@pytest.fixture
def refused(monkeypatch):
    """Paths that the operating system does not open, and with which error."""
    refused, real = {}, builtins.open

    def refuse(path, *args, **kwargs):
        if str(path) in refused:
            raise OSError(refused[str(path)], "simulated", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", refuse)
    return refused


def run(paths, tmp_path, message=None, **options):
    """Extract in shards of 4, skipping; a warning must come if, and only if, a message is given."""
    options = {"shard_size": 4, "on_error": "skip"} | options
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        features = extract(GIST, paths, tmp_path / "out", **options)
    texts = [str(warning.message) for warning in caught]
    assert len(texts) == (message is not None)
    assert message is None or message in texts[0]
    return features


class Renaming(TransformerMixin, BaseEstimator):
    """GIST, during whose second call the folder of the photos goes away."""

    def __init__(self, folder):
        self.folder = folder

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        counter = Path(f"{self.folder}.calls")
        counter.touch()
        with open(counter, "a") as file:
            file.write("x")
        if counter.stat().st_size == 2:
            os.rename(self.folder, f"{self.folder}.away")
        return GIST.transform(X)


# Faults that pass ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOENT]
)
def test_a_photo_that_could_not_be_opened_is_extracted_once_it_can_be(
    paths, tmp_path, refused, number
):
    expected = GIST.transform(paths)
    refused.update(dict.fromkeys(paths[1:3] + paths[7:8], number))
    text = "3 of 12 images have no row"
    features = run(paths, tmp_path, text)
    assert repr(features) == "FeatureShards(9 rows x 512, float32, 3 shards, 3 images skipped)"
    assert features.temporary == list(features.skipped) == [1, 2, 7]
    assert run(paths, tmp_path, "tries them again").temporary == [1, 2, 7]
    del refused[paths[1]]  # one of two in its shard
    assert list(run(paths, tmp_path, "2 of 12").skipped) == [2, 7]
    refused.clear()
    features = run(paths, tmp_path)
    assert repr(features) == "FeatureShards(12 rows x 512, float32, 3 shards)"
    assert features.temporary == []
    assert np.array_equal(features, expected)
    assert np.array_equal(load_features(tmp_path / "out"), expected)


def test_under_raise_too_a_photo_that_was_skipped_is_tried_again(paths, tmp_path, refused):
    refused[paths[5]] = errno.EACCES
    run(paths, tmp_path, "permission to read the file is denied")
    with pytest.raises(ImageReadError, match=r"X\[5\] .* An earlier call has skipped it"):
        run(paths, tmp_path, on_error="raise")
    refused.clear()
    assert np.array_equal(run(paths, tmp_path, on_error="raise"), GIST.transform(paths))


def test_a_folder_that_goes_away_during_a_call_is_an_error_and_loses_nothing(paths, tmp_path):
    folder = str(tmp_path / "photos")
    estimator = Renaming(folder).fit(None)
    expected = GIST.transform(paths)
    for _ in range(2):
        with pytest.raises(ImageReadError, match=r"photos', the folder of all images, cannot"):
            extract(estimator, paths, tmp_path / "out", shard_size=4, on_error="skip")
    os.rename(f"{folder}.away", folder)
    features = extract(estimator, paths, tmp_path / "out", shard_size=4, on_error="skip")
    assert features.skipped == {}
    assert np.array_equal(features, expected)


def test_a_mount_point_that_is_empty_is_away(paths, tmp_path):
    os.rename(tmp_path / "photos", tmp_path / "away")
    (tmp_path / "photos").mkdir()
    with pytest.raises(ImageReadError, match="call extract again when the folder is back"):
        run(paths, tmp_path)


def test_rows_stay_while_their_files_are_away(paths, tmp_path, refused):
    refused[paths[0]] = errno.EIO
    run(paths, tmp_path, "1 of 12")
    os.rename(paths[1], paths[1] + ".away")
    refused.clear()
    # The first photo is back, the second away: as many rows as before are no loss.
    assert run(paths, tmp_path, "1 of 12").shape[0] == 11
    os.rename(paths[2], paths[2] + ".away")
    os.rename(paths[5], paths[5] + ".away")
    assert run(paths, tmp_path, "1 of 12").shape[0] == 11
    with pytest.raises(ValueError, match=r"02.png' has changed .* found now, as 1 more: .*05"):
        run(paths, tmp_path, on_error="raise")
    for i in (1, 2, 5):
        os.rename(paths[i] + ".away", paths[i])
    assert np.array_equal(run(paths, tmp_path), GIST.transform(paths))


def test_too_many_open_files_end_the_call(paths, tmp_path, refused):
    refused.update(dict.fromkeys(paths, errno.EMFILE))
    with pytest.raises(OSError, match="Too many files are open"):
        run(paths, tmp_path)
    refused.clear()
    assert len(run(paths, tmp_path)) == 12


def test_folders_that_were_written_before_temporary_faults_were_told_apart(
    paths, tmp_path, refused
):
    refused[paths[3]] = errno.EACCES
    run(paths, tmp_path, "1 of 12")
    for path in (tmp_path / "out").glob("*.json"):
        content = json.loads(path.read_text())
        path.write_text(
            json.dumps({k: v for k, v in content.items() if k not in ("temporary", "reasons")})
        )
    assert list(load_features(tmp_path / "out").skipped) == [3]
    refused.clear()
    assert np.array_equal(run(paths, tmp_path), GIST.transform(paths))


# Faults that stay, and changes -----------------------------------------------------------------


def test_damaged_photos_are_not_read_again_until_they_change(paths, tmp_path):
    Path(paths[3]).write_bytes(b"no image")
    Path(paths[9]).write_bytes(b"")
    text = "2 of 12 images have no row, because they cannot be read: 1 x not an image that can be"
    features = run(paths, tmp_path, text)
    assert features.temporary == []
    times = [path.stat().st_mtime_ns for path in features.shards]
    features = run(paths, tmp_path, text)
    assert [path.stat().st_mtime_ns for path in features.shards] == times
    Image.fromarray(IMAGES[3]).save(paths[3])
    assert list(run(paths, tmp_path, "1 of 12").skipped) == [9]


def test_all_files_that_changed_are_named_at_once(paths, tmp_path):
    run(paths, tmp_path)
    for i in (0, 1, 9):
        Image.fromarray(IMAGES[i]).rotate(90).resize((40, 40)).save(paths[i])
    message = (
        r"00.png' has changed since .*shard-00000.npy' .* 2 more .*01.png', .*09.png'\. Pass on_"
    )
    for on_error in ("skip", "raise"):
        with pytest.raises(ValueError, match=message):
            run(paths, tmp_path, on_error=on_error)
    features = run(paths, tmp_path, on_change="extract")
    assert np.array_equal(features, GIST.transform(paths))
    assert np.array_equal(run(paths, tmp_path), features)


def test_a_call_that_is_killed_while_it_makes_a_shard_again_can_go_on(
    paths, tmp_path, refused, monkeypatch
):
    refused[paths[0]] = errno.EIO
    run(paths, tmp_path, "1 of 12")
    refused.clear()
    with monkeypatch.context() as patch:

        def killed(*args, **kwargs):
            raise KeyboardInterrupt

        patch.setattr(np.lib.format, "write_array", killed)
        with pytest.raises(KeyboardInterrupt):
            run(paths, tmp_path)
    with pytest.raises(ValueError, match="is not complete: 2 of 3 shards"):
        load_features(tmp_path / "out")
    assert np.array_equal(run(paths, tmp_path), GIST.transform(paths))


def test_one_photo_more_is_refused_with_a_way_out(paths, tmp_path):
    run(paths[:-1], tmp_path)
    with pytest.raises(ValueError, match="New images can be extracted alone"):
        run(paths, tmp_path)


# Rows without a path -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple, pd.Series, lambda x: pd.DataFrame({"path": x})])
@pytest.mark.parametrize("nothing", [None, float("nan"), ""])
def test_rows_of_a_table_that_name_no_photo_are_skipped(paths, tmp_path, kind, nothing):
    named = [nothing, *paths[:5], nothing, nothing, nothing, nothing, *paths[5:], nothing]
    with open(paths[1], "wb"):
        pass
    message = r"7 of 18 images have no row, because they cannot be read: 6 x there is no path; 1 x"
    features = run(kind(named), tmp_path, message)  # the second shard has no row of its last three
    assert list(features.skipped) == [0, 2, 6, 7, 8, 9, 17]
    assert features.skipped[6].startswith("X[6]: there is no path")
    assert features.positions.tolist() == [1, 3, 4, 5, *range(10, 17)]
    assert features.ids.tolist() == [named[position] for position in features.positions]
    assert len(run(kind(named), tmp_path, message)) == 11
    with pytest.raises(ValueError, match=r"X\[0\]"):
        extract(GIST, kind(named), tmp_path / "other")
    with pytest.raises(ImageReadError, match="2 x there is no path"):
        extract(GIST, kind([nothing, ""]), tmp_path / "third", on_error="skip")


def test_columns_of_arrow_may_have_rows_without_a_path(paths, tmp_path):
    pa = pytest.importorskip("pyarrow")
    column = pa.chunked_array([[None, *paths[:5]], [None, *paths[5:]]])
    features = run(column, tmp_path, "2 of 14 images have no row")
    assert features.ids.tolist() == paths
    assert list(features.skipped) == [0, 6]


def test_a_dictionary_that_is_missing_is_refused(paths, tmp_path):
    with pytest.raises(ValueError, match=r"X\[1\] is None"):
        extract(GIST, [{"path": paths[0]}, None], tmp_path / "out", on_error="skip")


def test_an_address_in_a_list_of_paths_does_not_take_its_folder_away(paths, tmp_path):
    message = "2 of 14 images have no row"
    named = [*paths, "https://host/a.jpg", "data:image/png;base64,AAAA"]
    assert len(run(named, tmp_path, message)) == 12


# One error, and folders that need no more --------------------------------------------------------


def test_one_error_names_the_damaged_photos_of_all_shards(paths, tmp_path):
    extract(GIST, paths, tmp_path / "out", shard_size=4)
    (tmp_path / "out" / "shard-00001.npy").unlink()
    (tmp_path / "out" / "shard-00002.npy").unlink()
    for position in (5, 7, 8, 11):
        Path(paths[position]).write_bytes(Path(paths[position]).read_bytes()[:60])
    with pytest.raises(
        ImageReadError, match=r"^X\[5\] .* 3 more cannot be read: X\[7\], X\[8\]"
    ) as e:
        extract(GIST, paths, tmp_path / "out", shard_size=4, on_change="extract")
    assert [fault.index for fault in e.value.faults] == [5, 7, 8, 11]
    assert [fault.path for fault in e.value.faults] == [paths[i] for i in (5, 7, 8, 11)]
    assert str(e.value).endswith("or pass on_error='skip' to leave them out.")


def test_a_finished_folder_is_not_written_again(paths, tmp_path):
    with open(paths[1], "wb"):
        pass
    run(paths, tmp_path, "1 of 12 images have no row")
    before = {path: path.stat() for path in (tmp_path / "out").iterdir()}
    assert len(run(paths, tmp_path, "1 of 12 images have no row")) == 11
    assert {path: path.stat() for path in (tmp_path / "out").iterdir()} == before


def test_a_file_is_no_folder_for_shards(paths, tmp_path):
    with pytest.raises(NotADirectoryError, match=r"folder='.*00.png' is a file. Pass a folder"):
        extract(GIST, paths, paths[0])
