"""Files that are replaced: as if they had been written, but as a whole or not at all."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest

from sklearn_cbir import NeighborsRetriever
from sklearn_cbir._files import replace_file
from sklearn_cbir.persistence import load, save

POSIX = pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture
def umask():
    """Set a umask for one test."""
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


@pytest.fixture
def not_root(monkeypatch):
    """Let what may be written be told by modes, as for everybody but root."""

    def access(path, wanted):
        bits = mode(path) >> 6
        return bits & wanted == wanted

    monkeypatch.setattr(os, "access", access)


@POSIX
@pytest.mark.parametrize("rights", [0o600, 0o644, 0o640, 0o666, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(rights, tmp_path, umask):
    path = tmp_path / "gallery.cbir"
    path.write_bytes(b"old")
    path.chmod(rights)
    replace_file(path, b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", rights)


@POSIX
def test_a_new_file_follows_the_umask(tmp_path, umask):
    replace_file(tmp_path / "a", b"new")
    (tmp_path / "b").touch()
    assert mode(tmp_path / "a") == mode(tmp_path / "b") == 0o640


@POSIX
def test_nobody_can_read_what_is_on_its_way_to_a_private_file(tmp_path, umask):
    from sklearn_cbir._files import replacement

    path = tmp_path / "private"
    path.touch(0o600)
    with replacement(path) as file:
        file.write(b"new")
        part = next(name for name in tmp_path.iterdir() if name != path)
        assert mode(part) == 0o600


@POSIX
def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "v1", tmp_path / "latest"
    target.write_bytes(b"old")
    link.symlink_to(Path("there", "v1"))
    (tmp_path / "newest").symlink_to(link)
    replace_file(tmp_path / "newest", b"new")
    assert link.is_symlink()
    assert (tmp_path / "newest").is_symlink()
    assert target.read_bytes() == b"new"
    target.unlink()
    replace_file(link, b"newer")  # a link to what is not there yet
    assert link.is_symlink()
    assert target.read_bytes() == b"newer"
    assert [file.name for file in target.parent.iterdir()] == ["v1"]


@POSIX
def test_another_hard_link_keeps_the_previous_file(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    os.link(tmp_path / "a", tmp_path / "b")
    replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "b").read_bytes() == b"old"


@POSIX
def test_the_owner_stays(tmp_path):
    if os.getuid():
        pytest.skip("only root gives files away")
    path = tmp_path / "a"
    path.write_bytes(b"old")
    os.chown(path, 1234, 2345)
    path.chmod(0o640)
    replace_file(path, b"new")
    status = path.stat()
    assert (status.st_uid, status.st_gid, mode(path)) == (1234, 2345, 0o640)


@POSIX
def test_a_file_that_may_not_be_written_is_refused(tmp_path, not_root):
    path = tmp_path / "archive.cbir"
    path.write_bytes(b"old")
    path.chmod(0o444)
    with pytest.raises(PermissionError, match=r"you may not write.*archive\.cbir"):
        save(NeighborsRetriever(), path)
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


@POSIX
def test_a_folder_that_may_not_be_written_is_refused_at_once(tmp_path, not_root):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").write_bytes(b"old")
    folder.chmod(0o555)
    with pytest.raises(PermissionError, match=r"you may not write to their folder.*old"):
        replace_file(folder / "old", b"new")
    with pytest.raises(PermissionError, match=r"write into the folder of 'new'.*new"):
        replace_file(folder / "new", b"new")
    folder.chmod(0o755)
    assert [file.name for file in folder.iterdir()] == ["old"]


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "図" * 85], ids=["ascii", "umlaut", "han"])
def test_a_name_may_be_as_long_as_names_are(name, tmp_path):
    replace_file(tmp_path / name, b"old")
    replace_file(tmp_path / name, b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, b"new")]


@POSIX
def test_a_name_longer_than_names_are_is_an_error_that_names_it(tmp_path):
    with pytest.raises(OSError, match="too long") as raised:
        replace_file(tmp_path / ("a" * 256), b"new")
    assert raised.value.filename == str(tmp_path / ("a" * 256))
    assert not list(tmp_path.iterdir())


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match="A folder is there"):
        save(NeighborsRetriever(), tmp_path)


@POSIX
def test_a_device_or_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/null"):
        with pytest.raises(OSError, match="not a regular file"):
            replace_file(path, b"new")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_a_file_that_windows_keeps_is_an_error_that_says_so(tmp_path, monkeypatch):
    def replace(part, path):
        raise PermissionError(errno.EACCES, "Access is denied", str(part), None, str(path))

    (tmp_path / "a").write_bytes(b"old")
    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(PermissionError, match=r"open or mapped.*another name: .*a'$"):
        replace_file(tmp_path / "a", b"new")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"old")]


@pytest.mark.parametrize("algorithm", ["exact", "nndescent", "faiss"])
def test_a_retriever_that_is_mapped_from_a_file_is_saved(algorithm, tmp_path, rng):
    if algorithm == "faiss":
        pytest.importorskip("faiss")
    rows, queries = rng.normal(size=(1300, 4)), rng.normal(size=(5, 4))
    retriever = NeighborsRetriever(3, algorithm=algorithm)
    retriever.fit(rows, np.arange(1300) % 7, ids=[f"p{i}.jpg" for i in range(1300)])
    joblib.dump(retriever, tmp_path / "a.joblib")
    mapped = joblib.load(tmp_path / "a.joblib", mmap_mode="r")
    save(mapped, tmp_path / "a.cbir")
    loaded = load(tmp_path / "a.cbir")
    np.testing.assert_array_equal(loaded.kneighbors(queries), retriever.kneighbors(queries))
    assert type(loaded._gallery.engine.rows) is np.ndarray
    save(retriever, tmp_path / "b.cbir")
    assert (tmp_path / "a.cbir").read_bytes() == (tmp_path / "b.cbir").read_bytes()


def test_save_over_the_very_file_that_is_mapped_is_safe(tmp_path, rng):
    rows = rng.normal(size=(3000, 8))
    joblib.dump(NeighborsRetriever(3, algorithm="exact").fit(rows), tmp_path / "a")
    code = (
        "import joblib, sys; from sklearn_cbir.persistence import load, save\n"
        "mapped = joblib.load(sys.argv[1], mmap_mode='r'); save(mapped, sys.argv[1])\n"
        "rows = mapped._gallery.engine.rows.copy()\n"
        "assert (load(sys.argv[1]).kneighbors(rows)[1] == mapped.kneighbors(rows)[1]).all()"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True)


def test_other_kinds_of_arrays_are_saved_as_arrays_or_refused(tmp_path):
    class Tagged(np.ndarray):
        pass

    retriever = NeighborsRetriever(1).set_params(expected_queries=np.arange(3).view(Tagged))
    save(retriever, tmp_path / "a")
    assert type(load(tmp_path / "a").expected_queries) is np.ndarray
    retriever.set_params(expected_queries=np.ma.array([1, 2], mask=[0, 1]))
    with pytest.raises(ValueError, match="expected_queries is a numpy.ma.MaskedArray"):
        save(retriever, tmp_path / "a")


def test_names_in_bytes_are_names(tmp_path):
    rows = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    np.save(tmp_path / "old.npy", rows)
    retriever = NeighborsRetriever(2, storage="memory_map").fit(tmp_path / "old.npy")
    expected = retriever.kneighbors(rows)
    save(retriever, tmp_path / "first")
    os.rename(tmp_path / "old.npy", tmp_path / "new.npy")
    name = os.fsencode(tmp_path / "gallery")
    save(load(tmp_path / "first").relocate(os.fsencode(tmp_path / "new.npy")), name)
    np.testing.assert_array_equal(load(name).kneighbors(rows), expected)
