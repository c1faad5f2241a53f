"""A collection whose rows are on a Milvus server answers, lasts and dies as one of files does."""

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from milvus_fake import FakeClient
from photo_cases import IMAGES, write
from sklearn.pipeline import make_pipeline

from sklearn_cbir.collection import PhotoCollection, _sync, _table
from sklearn_cbir.collection._table import Table
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.hashing import LSHHasher
from sklearn_cbir.index import _milvus_client
from sklearn_cbir.index._milvus_collection import Collection

URI = "http://photos.example:19530"
CODES = make_pipeline(GISTDescriptor(), LSHHasher(70, random_state=0)).fit(IMAGES)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for number in range(8):
        write(root / "ab"[number % 2] / f"{number}.png", number)
    return root


@pytest.fixture
def server():
    client = FakeClient()
    _milvus_client._clients[URI] = os.getpid(), client
    yield client
    _milvus_client._clients.pop(URI, None)


@pytest.fixture(params=["server", "file"])
def uri(request, server, tmp_path):
    if request.param == "file":
        pytest.importorskip("milvus_lite")
        return str(tmp_path / "rows.db")
    return URI


def change(photos):
    """Let photos be new, changed, gone, moved and copied."""
    write(photos / "new.png", 10)
    write(photos / "a/2.png", 11)
    (photos / "b/3.png").unlink()
    os.rename(photos / "a/4.png", photos / "moved.png")
    shutil.copy2(photos / "b/5.png", photos / "copy.png")


def answers(collection):
    """All that a collection answers, without where it lies."""
    hits = [
        *collection.search(IMAGES[:12], k=5),
        *collection.search(IMAGES[:3], k=4, where={"folder": "a"}),
        *collection.search(IMAGES[:3], k=100),
        collection.like([1, 2], unlike=[5], k=4),
        *collection.duplicates(radius=1e-4),
    ]
    rows = collection.retriever()
    return (
        [[(hit.number, os.path.basename(hit.path), hit.label) for hit in of] for of in hits],
        [[hit.distance for hit in of] for of in hits],
        collection.score("precision@2"),
        rows.ids_.tolist(),
    )


def assert_same(found, expected):
    assert found[0] == expected[0]
    for ours, theirs in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert found[2:] == expected[2:]


def row_numbers(server):
    return {name: sorted(table["rows"]) for name, table in server.tables.items()}


@pytest.mark.parametrize("extractor", [GISTDescriptor(), CODES], ids=["floats", "codes"])
def test_answers_are_those_of_a_collection_of_files(photos, tmp_path, uri, extractor):
    options = {"labels": "folder", "dtype": "float32"}
    with (
        PhotoCollection.create(tmp_path / "f", photos, extractor, **options) as files,
        PhotoCollection.create(tmp_path / "m", photos, extractor, uri=uri, **options) as ours,
    ):
        assert ours.search(IMAGES[:1]) == [[]]
        assert files.sync() == ours.sync()
        assert_same(answers(ours), answers(files))
        change(photos)
        assert files.sync() == ours.sync()
        assert_same(answers(ours), answers(files))
        ours.check()
        assert files.compact() == ours.compact() == 2
        assert_same(answers(ours), answers(files))
        write(photos / "last.png", 12)
        assert files.sync() == ours.sync()
        ours.check()
        expected = answers(files)
    assert not list((tmp_path / "m").glob("rows-*"))
    for read_only in (True, False):
        with PhotoCollection.open(tmp_path / "m", read_only=read_only) as ours:
            assert_same(answers(ours), expected)


def test_rows_of_photos_that_are_gone_leave_the_server(photos, tmp_path, server):
    with PhotoCollection.create(tmp_path / "m", photos, GISTDescriptor(), uri=URI) as ours:
        ours.sync()
        ((name, rows),) = row_numbers(server).items()
        assert rows == list(range(8))
        change(photos)
        ours.sync()
        live = ours._table.ask("SELECT row FROM photo ORDER BY row").fetchall()
        assert row_numbers(server) == {name: [line[0] for line in live]}
        assert len(live) == 9
        ours.compact()
        ((other, rows),) = row_numbers(server).items()
        assert (other != name, rows) == (True, list(range(9)))


def test_two_collections_share_a_server(photos, tmp_path, server):
    one = PhotoCollection.create(tmp_path / "1", photos, GISTDescriptor(), uri=URI)
    two = PhotoCollection.create(tmp_path / "2", photos / "a", GISTDescriptor(), uri=URI)
    one.sync()
    two.sync()
    assert sorted(map(len, row_numbers(server).values())) == [4, 8]
    change(photos)
    one.sync()
    one.compact()
    two.check()
    one.check()
    assert len(two.search(IMAGES[:1], k=100)[0]) == 4


@pytest.mark.parametrize("address", [None, URI])
def test_a_collection_that_has_lost_all_its_rows_goes_on(photos, tmp_path, server, address):
    with PhotoCollection.create(tmp_path / "m", photos, CODES, uri=address) as collection:
        collection.sync()
        for path in photos.rglob("*.png"):
            path.write_bytes(b"no photo")
        assert collection.sync().unreadable == 8
        assert collection.compact() == 8
        assert collection.search(IMAGES[:1]) == [[]]
    with PhotoCollection.open(tmp_path / "m") as collection:
        collection.check()
        write(photos / "new.png", 9)
        collection.sync()
        assert len(collection.search(IMAGES[:1])[0]) == 1
        collection.check()


def test_a_reader_follows_a_compaction_that_comes_in_between(kept, photos, monkeypatch):
    (photos / "new.png").unlink()
    kept.sync()
    kept.close()
    monkeypatch.setattr(_table, "WAIT", 0.05)  # for readers, before the log is moved
    there, done = Collection.is_there, []

    def compact_first(collection):
        if not done:
            done.append(True)
            with PhotoCollection.open(kept.path) as writer:
                writer.compact()
        return there(collection)

    with PhotoCollection.open(kept.path, read_only=True) as reader:
        reader._view = None
        monkeypatch.setattr(Collection, "is_there", compact_first)
        assert len(reader.search(IMAGES[:1], k=100)[0]) == 8
    assert done


# Crashes -----------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process has ended here."""


class Deadly(FakeClient):
    """A server whose client dies at one of its calls, or at a commit of the table."""

    def __init__(self):
        super().__init__()
        self.at, self.n = None, 0

    def _step(self):
        self.n += 1
        if self.at is not None and self.n >= self.at:  # and nothing is done any more
            raise Killed

    def __getattribute__(self, name):
        method = super().__getattribute__(name)
        if name.startswith("_") or name in ("close", "shift") or not callable(method):
            return method

        def called(*arguments, **options):
            self._step()
            if name == "upsert" and self.n + 1 == self.at:  # some of the rows came
                options["data"] = options["data"][:1]
            return method(*arguments, **options)

        return called


@pytest.mark.parametrize("what", ["sync", "compact"])
def test_a_process_that_is_killed_at_any_call_is_continued(photos, tmp_path, monkeypatch, what):
    monkeypatch.setattr(_sync, "PHOTOS_AT_ONCE", 2)
    monkeypatch.setattr(_sync, "PHOTOS_PER_COMMIT", 4)
    folder, client = tmp_path / "m", Deadly()
    monkeypatch.setitem(_milvus_client._clients, URI, (os.getpid(), client))
    commit = Table.commit

    def commit_or_die(self):
        client._step()
        commit(self)
        client._step()

    monkeypatch.setattr(Table, "commit", commit_or_die)
    with PhotoCollection.create(folder, photos, GISTDescriptor(), labels="folder", uri=URI) as made:
        made.sync()
        change(photos)
        if what == "compact":
            made.sync()
    shutil.copytree(folder, tmp_path / "before")
    before = {name: {**table, "rows": dict(table["rows"])} for name, table in client.tables.items()}

    def reset(at):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder)
        client.tables = {name: {**of, "rows": dict(of["rows"])} for name, of in before.items()}
        client.at, client.n = at, 0

    def finish():
        with PhotoCollection.open(folder) as opened:
            getattr(opened, what)()
            opened.check()
            (rows,) = row_numbers(client).values()
            n_rows = opened._table.ask("SELECT count(row) FROM photo").fetchone()[0]
            return answers(opened), len(rows) == n_rows

    reset(None)
    expected, is_clean = finish()
    assert is_clean
    n_deaths = 0
    while True:
        n_deaths += 1
        reset(n_deaths)
        opened = None
        try:
            opened = PhotoCollection.open(folder)
            getattr(opened, what)()
        except Killed:
            client.at = None
        else:
            break
        if opened is not None:
            opened._table.close()
        found, is_clean = finish()
        assert is_clean
        assert_same(found, expected)
    assert n_deaths > 15


def test_a_process_that_dies_between_rows_and_commit_is_continued(photos, tmp_path):
    pytest.importorskip("milvus_lite")
    folder, file = tmp_path / "m", str(tmp_path / "rows.db")
    with PhotoCollection.create(
        folder, photos, GISTDescriptor(), labels="folder", uri=file
    ) as made:
        made.sync()
    change(photos)
    script = textwrap.dedent("""
        import os, sys
        from sklearn_cbir.collection import PhotoCollection, _sync
        from sklearn_cbir.collection._table import Table
        collection = PhotoCollection.open(sys.argv[1])
        _sync.PHOTOS_AT_ONCE = _sync.PHOTOS_PER_COMMIT = 1
        commit, todo = Table.commit, [1, 2]
        Table.commit = lambda self: commit(self) if todo and todo.pop() else os._exit(9)
        collection.sync()
    """)
    done = subprocess.run([sys.executable, "-c", script, str(folder)], check=False, timeout=120)
    assert done.returncode == 9
    with PhotoCollection.open(folder) as ours:
        assert 8 <= len(ours.search(IMAGES[:1], k=100)[0]) <= 10
        ours.check()
        ours.sync()
        ours.check()
        with PhotoCollection.create(
            tmp_path / "f", photos, GISTDescriptor(), labels="folder", dtype="float32"
        ) as files:
            files.sync()
            theirs = files.search(IMAGES[:12], k=9)
        found = ours.search(IMAGES[:12], k=9)
        assert [[hit.path for hit in of] for of in found] == [
            [hit.path for hit in of] for of in theirs
        ]
    _milvus_client.forget(file)


# Faults ------------------------------------------------------------------------------------------


@pytest.fixture
def kept(photos, tmp_path, server):
    with PhotoCollection.create(tmp_path / "m", photos, GISTDescriptor(), uri=URI) as collection:
        collection.sync()
        write(photos / "new.png", 10)
        collection.sync()
        yield collection


def rows_of(server):
    (table,) = server.tables.values()
    return table["rows"]


def test_a_row_that_somebody_else_has_changed_is_found(kept, server):
    rows_of(server)[2] = rows_of(server)[3]
    PhotoCollection.open(kept.path).close()  # which looks at the last commit
    with pytest.raises(ValueError, match="of rows 0 to 7, 0 are no longer at .* and 1 are not"):
        kept.check()


@pytest.mark.parametrize("how", ["missing", "other", "all"])
def test_a_damaged_last_commit_is_one_error(kept, server, how):
    if how == "all":
        server.tables.clear()
    elif how == "missing":
        del rows_of(server)[8]
    else:
        rows_of(server)[8] = rows_of(server)[1]
    with pytest.raises(ValueError, match=r"is damaged: .*http://photos\.example:19530"):
        PhotoCollection.open(kept.path)


def test_a_server_that_is_away_is_one_error(photos, tmp_path, kept, monkeypatch):
    pytest.importorskip("grpc")
    monkeypatch.setattr(_milvus_client, "SECONDS_OF_RETRIES", 0.1)
    address = "http://127.0.0.1:9"
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 does not answer"):
        PhotoCollection.create(tmp_path / "n", photos, GISTDescriptor(), uri=address)
    assert not Table.is_there(str(tmp_path / "n"))
    with PhotoCollection.create(tmp_path / "n", photos, GISTDescriptor()) as collection:
        assert collection.sync().added == 9  # what was left of it is in nobody's way
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 does not answer"):
        PhotoCollection.open(kept.path, uri=address)


def test_a_password_is_refused_and_a_token_is_kept_nowhere(photos, tmp_path, server, monkeypatch):
    with pytest.raises(ValueError, match="contains a password") as raised:
        PhotoCollection.create(tmp_path / "m", photos, GISTDescriptor(), uri="http://me:secret@h:1")
    assert "secret" not in str(raised.value)
    monkeypatch.setenv("MILVUS_TOKEN", "me:secret")
    monkeypatch.setenv("MILVUS_URI", URI)
    with PhotoCollection.create(tmp_path / "m", photos, GISTDescriptor(), uri=URI) as collection:
        collection.sync()
        assert "secret" not in str(collection.about())
    assert all(b"secret" not in file.read_bytes() for file in (tmp_path / "m").iterdir())


def test_an_address_that_is_none_is_one_error(photos, tmp_path):
    with pytest.raises(ValueError, match="neither a local file nor a server"):
        PhotoCollection.create(tmp_path / "m", photos, GISTDescriptor(), uri="rows.sqlite")
    with PhotoCollection.create(tmp_path / "f", photos, GISTDescriptor()):
        pass
    with pytest.raises(ValueError, match="keeps its rows in files"):
        PhotoCollection.open(tmp_path / "f", uri=URI)


def test_a_server_that_has_moved_is_noted(kept, server, photos):
    other = "http://other.example:19530"
    _milvus_client._clients[other] = os.getpid(), server
    del _milvus_client._clients[URI]
    with PhotoCollection.open(kept.path, uri=other) as opened:
        assert len(opened.search(IMAGES[:1], k=100)[0]) == 9
    with PhotoCollection.open(kept.path) as opened:
        assert opened.sync().n_changes == 0
    del _milvus_client._clients[other]


def test_a_server_that_has_no_such_rows_is_not_noted(kept):
    other = "http://other.example:19530"
    _milvus_client._clients[other] = os.getpid(), FakeClient()
    with pytest.raises(ValueError, match=r"is damaged: its rows are not at http://other"):
        PhotoCollection.open(kept.path, uri=other)
    del _milvus_client._clients[other]
    PhotoCollection.open(kept.path).close()


def test_a_local_file_moves_with_its_collection(photos, tmp_path):
    pytest.importorskip("milvus_lite")
    folder = tmp_path / "here"
    with PhotoCollection.create(
        folder / "m", photos, GISTDescriptor(), uri=folder / "rows.db"
    ) as collection:
        collection.sync()
    os.rename(folder, tmp_path / "there")
    with PhotoCollection.open(tmp_path / "there/m") as collection:
        assert len(collection.search(IMAGES[:1], k=100)[0]) == 8
    os.rename(tmp_path / "there/rows.db", tmp_path / "other.db")
    with pytest.raises(FileNotFoundError, match=r"missing.*open\(path, uri=\.\.\.\)"):
        PhotoCollection.open(tmp_path / "there/m")
    with PhotoCollection.open(tmp_path / "there/m", uri=tmp_path / "other.db") as collection:
        collection.check()


def test_a_local_file_is_free_for_others_when_the_collection_is_closed(photos, tmp_path):
    pytest.importorskip("milvus_lite")
    file = tmp_path / "rows.db"
    with PhotoCollection.create(tmp_path / "m", photos, GISTDescriptor(), uri=file) as collection:
        collection.sync()
    script = (
        "import sys; from sklearn_cbir.collection import PhotoCollection; "
        "c = PhotoCollection.open(sys.argv[1]); c.check(); print(len(c))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "m")],
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["8"]


def test_the_table_names_the_server_and_nothing_else(kept):
    with sqlite3.connect(Path(kept.path) / "collection.sqlite") as connection:
        about = dict(connection.execute("SELECT key, value FROM about"))
    connection.close()
    assert about["uri"] == URI.encode()
    assert about["dtype"] == "float32"


def test_the_server_answers_as_over_files(photos, server, uri, tmp_path):
    client_of = pytest.importorskip("starlette.testclient").TestClient
    create_app = pytest.importorskip("sklearn_cbir.serve").create_app
    content = (photos / "a/2.png").read_bytes()
    queries = [
        {},
        *({"like": [number]} for number in range(1, 7)),
        {"like": [1, 2], "unlike": [5], "where": {"folder": "a"}},
        {"like": [3], "where": {"folder": "b"}, "limit": 2},
        {"like": [900]},
        {"region": {"of": 4, "box": [0.1, 0.1, 0.9, 0.9]}},
    ]

    def answered(place, **options):
        """All that the server of a collection answers, to some clicks at once, too."""
        with PhotoCollection.create(
            place, photos, GISTDescriptor(), dtype="float32", **options
        ) as made:
            made.sync()
        with (
            PhotoCollection.open(place) as opened,
            client_of(create_app(opened, token=None), base_url="http://localhost") as client,
            ThreadPoolExecutor(len(queries)) as threads,
        ):
            ask = partial(client.post, "/api/v1/search")
            found = list(threads.map(lambda query: ask(json=query), queries))
            kept = client.post(
                "/api/v1/upload", content=content, headers={"Content-Type": "image/png"}
            )
            found.append(ask(json={"upload": kept.json()["upload"]}))
            assert client.get("/api/v1/state").json()["n_ready"] == 8
            assert client.get("/api/v1/thumbnail/3").status_code == 200
            each = opened.like_each([1, 2, 3], k=4)
        return [answer.json() for answer in found], each

    (found, each), (expected, of_files) = (
        answered(tmp_path / "milvus", uri=uri),
        answered(tmp_path / "files"),
    )
    for answer, one in zip(found, expected, strict=True):
        assert [photo["number"] for photo in answer.get("photos", [])] == [
            photo["number"] for photo in one.get("photos", [])
        ]
        assert answer.get("error") == one.get("error")
    assert [row.tolist() for row in each[1]] == [row.tolist() for row in of_files[1]]
    np.testing.assert_allclose(each[0], of_files[0], atol=1e-5)
