"""The server finds, shows, keeps up with and describes what is in a collection."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from PIL import ExifTags, Image
from starlette.testclient import TestClient

from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor, PerceptualHash
from sklearn_cbir.serve import create_app
from sklearn_cbir.serve._answers import Failure
from sklearn_cbir.serve._app import Server
from sklearn_cbir.serve._query import Query
from sklearn_cbir.serve._uploads import Uploads

IMAGES, _ = make_shapes(12, random_state=0)
PLACES = [f"{'sea' if n % 2 else 'hills/high'}/{n}.jpg" for n in range(10)]
ADDRESS = "http://127.0.0.1:8642"
API = "/api/v1"


def write(path, number):
    """Write a photo with EXIF: when and where it was taken, and by what."""
    exif = Image.Exif()
    exif[ExifTags.Base.DateTime] = f"{2015 + number}:07:01 10:00:00"
    exif[ExifTags.Base.Make] = "Secret camera"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    photo = Image.fromarray(IMAGES[number]).resize((96, 64))
    photo.save(path, exif=exif, comment=b"Secret comment", quality=95)
    os.utime(path, ns=(10**18, 10**18 + number))


def make(root):
    for number, place in enumerate(PLACES):
        write(root / place, number)
    (root / "sea/torn.jpg").write_bytes((root / PLACES[0]).read_bytes()[:600])
    (root / "loose.png").write_bytes(b"")
    shutil.copy(root / PLACES[3], root / "sea/copy.jpg")
    for place in ("sea/torn.jpg", "loose.png", "sea/copy.jpg"):
        os.utime(root / place, ns=(10**18, 10**18))
    with PhotoCollection.create(
        root / ".cbir", root, GISTDescriptor(), labels="folder"
    ) as collection:
        collection.sync()


def client_of(collection, **options):
    app = create_app(collection, token=None, **options)
    return TestClient(app, base_url=ADDRESS, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "holidays"
    make(root)
    return root


@pytest.fixture(scope="module")
def client(made):
    with PhotoCollection.open(made / ".cbir") as collection, client_of(collection) as client:
        yield client


@pytest.fixture
def own(tmp_path, made):
    """A collection that a test may change."""
    root = tmp_path / "holidays"
    shutil.copytree(made, root, ignore=shutil.ignore_patterns("thumbnails"))
    with PhotoCollection.open(root / ".cbir") as collection, client_of(collection) as client:
        yield root, client


@pytest.fixture(scope="module")
def numbers(client):
    """The number of every photo by its name."""
    return {photo["name"]: photo["number"] for photo in ask(client, {})["photos"]}


def ask(client, query, status=200):
    answer = client.post(f"{API}/search", json=query)
    assert answer.status_code == status, answer.text
    return answer.json()


def names(answer):
    return [photo["name"] for photo in answer["photos"]]


def until_done(call):
    for _ in range(300):
        answer = call().json()
        if answer["state"] != "running":
            return answer
        time.sleep(0.02)
    raise AssertionError("It runs for ever.")


def upload(client, content, status=200, kind="image/jpeg"):
    headers = {"Content-Type": kind}
    answer = client.post(f"{API}/upload", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


# What there is -----------------------------------------------------------------------------------


def test_the_state_says_what_the_collection_is(client):
    state = client.get(f"{API}/state").json()
    assert state["name"] == "holidays"
    assert (state["n_photos"], state["n_ready"], state["n_unreadable"]) == (13, 11, 2)
    assert state["folders"] == [
        {"folder": "", "n_photos": 11},
        {"folder": "hills", "n_photos": 5},
        {"folder": "hills/high", "n_photos": 5},
        {"folder": "sea", "n_photos": 6},
    ]
    assert state["labels"] == [
        {"label": "hills", "n_photos": 5},
        {"label": "sea", "n_photos": 6},
    ]
    assert state["years"][:2] == [{"year": 2015, "n_photos": 1}, {"year": 2016, "n_photos": 1}]
    assert (state["metric"], state["max_distance"]) == ("cosine", 2.0)
    assert state["has_words"] is False
    assert state["is_writable"] is True
    assert state["duplicates_radius"] == GISTDescriptor().near_duplicates[1]
    assert state["sync"] == {"state": "idle"}


def test_codes_have_whole_distances(tmp_path):
    for number in range(3):
        write(tmp_path / f"{number}.jpg", number)
    with PhotoCollection.create(tmp_path / ".cbir", tmp_path, PerceptualHash()) as collection:
        collection.sync()
        with client_of(collection) as client:
            state = client.get(f"{API}/state").json()
            assert state["metric"] == "hamming"
            found = ask(client, {"like": [1]})["photos"]
    assert all(photo["distance"] == int(photo["distance"]) for photo in found)
    assert all(0 < photo["distance"] <= state["max_distance"] for photo in found)


def test_an_empty_collection_answers(tmp_path):
    with (
        PhotoCollection.create(tmp_path / ".cbir", tmp_path, GISTDescriptor()) as collection,
        client_of(collection) as client,
    ):
        state = client.get(f"{API}/state").json()
        assert (state["n_photos"], state["metric"]) == (0, None)
        assert state["folders"] == [{"folder": "", "n_photos": 0}]
        assert ask(client, {})["photos"] == []
        content = io.BytesIO()
        Image.fromarray(IMAGES[0]).save(content, "PNG")
        name = upload(client, content.getvalue())["upload"]
        assert ask(client, {"upload": name})["photos"] == []


def test_photos_that_cannot_be_read_have_reasons(client):
    answer = client.get(f"{API}/unreadable").json()
    assert answer["n_photos"] == 2
    assert sorted(photo["name"] for photo in answer["photos"]) == ["loose.png", "torn.jpg"]
    assert all(photo["state"] == "unreadable" and photo["reason"] for photo in answer["photos"])
    page = client.get(f"{API}/unreadable?offset=1&limit=1").json()
    assert len(page["photos"]) == 1
    assert not page["has_more"]


def test_facts_of_one_photo(client, numbers, made):
    facts = client.get(f"{API}/facts/{numbers['3.jpg']}").json()
    assert facts["path"] == str(made / "sea/3.jpg")
    assert (facts["width"], facts["height"], facts["label"]) == (96, 64, "sea")
    assert facts["taken"] == "2018-07-01 10:00:00"
    assert facts["state"] == "ready"


# Search ------------------------------------------------------------------------------------------


def test_nothing_asked_lists_all_photos_by_number(client):
    answer = ask(client, {})
    assert [photo["number"] for photo in answer["photos"]] == sorted(
        photo["number"] for photo in answer["photos"]
    )
    assert answer["n_photos"] == len(answer["photos"]) == 11
    assert {photo["distance"] for photo in answer["photos"]} == {None}


def test_like_is_what_the_collection_finds(client, numbers, made):
    with PhotoCollection.open(made / ".cbir", read_only=True) as collection:
        hits = collection.like([numbers["3.jpg"]], [numbers["4.jpg"]], k=20)
    answer = ask(client, {"like": [numbers["3.jpg"]], "unlike": [numbers["4.jpg"]]})
    assert [photo["number"] for photo in answer["photos"]] == [hit.number for hit in hits]
    assert [photo["path"] for photo in answer["photos"]] == [hit.path for hit in hits]
    assert [photo["distance"] for photo in answer["photos"]] == pytest.approx(
        [hit.distance for hit in hits], abs=1e-6
    )
    assert answer["photos"][0]["name"] == "copy.jpg"
    assert [photo["name"] for photo in answer["asked"]["like"]] == ["3.jpg"]
    assert [photo["name"] for photo in answer["asked"]["unlike"]] == ["4.jpg"]


def test_an_uploaded_photo_finds_itself(client, made):
    kept = upload(client, (made / PLACES[5]).read_bytes())
    assert (kept["width"], kept["height"]) == (96, 64)
    photo = ask(client, {"upload": kept["upload"]})["photos"][0]
    assert photo["name"] == "5.jpg"
    assert photo["distance"] == pytest.approx(0, abs=1e-5)
    shown = client.get(f"{API}/upload/{kept['upload']}")
    assert shown.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(shown.content)).size == (96, 64)


def test_a_region_is_a_part_of_a_photo_as_it_is_shown(own):
    root, client = own
    whole = np.concatenate([IMAGES[0], IMAGES[1]], axis=1)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3  # upside down in the file
    file = io.BytesIO()
    Image.fromarray(whole[::-1, ::-1]).save(file, "PNG", exif=exif)
    Image.fromarray(IMAGES[1]).save(root / "part.png")
    client.post(f"{API}/sync", json={})
    assert until_done(lambda: client.get(f"{API}/sync"))["report"]["added"] == 1
    of = upload(client, file.getvalue(), kind="application/octet-stream")["upload"]
    found = ask(client, {"region": {"of": of, "box": [0.5, 0, 1, 1]}})["photos"]
    assert found[0]["name"] == "part.png"
    assert found[0]["distance"] == pytest.approx(0, abs=1e-5)
    of = found[0]["number"]
    found = ask(client, {"region": {"of": of, "box": [0, 0, 1, 1]}})["photos"]
    assert found[0]["number"] == of


def test_parts_of_a_query_are_added_up(client, numbers, made):
    name = upload(client, (made / PLACES[5]).read_bytes())["upload"]
    region = {"of": numbers["2.jpg"], "box": [0, 0, 0.5, 0.5]}
    query = {"like": [numbers["1.jpg"]], "upload": name, "region": region}
    both = ask(client, query)
    assert names(both) != names(ask(client, {"like": [numbers["1.jpg"]]}))
    assert "1.jpg" not in names(both)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"folder": "hills"}, {0, 2, 4, 6, 8}),
        ({"folder": "/hills/high/"}, {0, 2, 4, 6, 8}),
        ({"folder": "hill"}, set()),
        ({"label": "hills", "years": [2017, 2021]}, {2, 4, 6}),
        ({"label": ["hills", None]}, {0, 2, 4, 6, 8}),
        ({"label": None}, set()),
        ({"years": [None, 2017]}, {0, 1, 2}),
        ({"years": [2023, None]}, {8, 9}),
    ],
)
def test_conditions_hold_for_lists_and_for_searches(client, made, where, expected):
    expected = {f"{n}.jpg" for n in expected}
    assert set(names(ask(client, {"where": where}))) == expected
    name = upload(client, (made / PLACES[5]).read_bytes())["upload"]
    found = ask(client, {"where": where, "upload": name})
    assert set(names(found)) == expected
    assert found["n_photos"] == len(expected)


def test_pages_hold_every_result_once(client, numbers):
    whole = ask(client, {"like": [numbers["3.jpg"]]})
    pages = [
        ask(client, {"like": [numbers["3.jpg"]], "offset": offset, "limit": 4})
        for offset in (0, 4, 8)
    ]
    assert [name for page in pages for name in names(page)] == names(whole)
    assert [page["has_more"] for page in pages] == [True, True, False]


def test_no_result_is_farther_than_asked(client, numbers):
    whole = ask(client, {"like": [numbers["3.jpg"]]})["photos"]
    most = whole[4]["distance"]
    near = ask(client, {"like": [numbers["3.jpg"]], "max_distance": most, "limit": 3})
    assert near["has_more"]
    near = ask(client, {"like": [numbers["3.jpg"]], "max_distance": most})["photos"]
    assert near == whole[:5]


def test_words_are_asked_where_the_network_knows_them(client):
    error = ask(client, {"words": "the sea"}, 400)["error"]
    assert "does not understand words" in error


@pytest.mark.parametrize(
    ("query", "status", "part"),
    [
        ({"like": [900]}, 404, "900"),
        ({"like": [1], "unlike": [1]}, 400, "Photo 1"),
        ({"unlike": [1]}, 400, "unlike alone"),
        ({"upload": "x" * 22}, 404, "Upload it again"),
        ({"like": "3"}, 400, "like"),
        ({"like": [True]}, 400, "like"),
        ({"like": list(range(101))}, 400, "at most 100"),
        ({"like": [2**80]}, 400, "like"),
        ({"limit": 201}, 400, "200"),
        ({"limit": 0}, 400, "limit"),
        ({"offset": -1}, 400, "offset"),
        ({"offset": 9990}, 400, "10,000"),
        ({"region": {"of": 1, "box": [0, 0, 0, 1]}}, 400, "empty"),
        ({"region": {"of": 1, "box": [0, 0, 2, 1]}}, 400, "box"),
        ({"region": {"of": None, "box": [0, 0, 1, 1]}}, 400, "region.of"),
        ({"region": 4}, 400, "region"),
        ({"words": 4}, 400, "words"),
        ({"words": "a" * 1001}, 400, "1,000"),
        ({"words": "\ud800"}, 400, "Unicode"),
        ({"max_distance": -1}, 400, "max_distance"),
        ({"max_distance": "near"}, 400, "max_distance"),
        ({"where": []}, 400, "where"),
        ({"where": {"path": "/etc"}}, 400, "folder, label and years"),
        ({"where": {"folder": ["a"]}}, 400, "where.folder"),
        ({"where": {"folder": "\ud800"}}, 400, "where.folder"),
        ({"where": {"years": [2020]}}, 400, "where.years"),
        ({"where": {"years": ["2020", None]}}, 400, "where.years"),
        ({"path": "/etc/passwd"}, 400, "path"),
    ],
)
def test_errors_say_what_is_wrong(client, query, status, part):
    answer = client.post(
        f"{API}/search",
        content=json.dumps(query).encode(),
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == status, answer.text
    assert part in answer.json()["error"]
    assert answer.json()["error"].endswith(".")


def test_photos_that_cannot_be_read_are_like_nothing(client):
    torn = client.get(f"{API}/unreadable").json()["photos"][0]["number"]
    assert "cannot be read" in ask(client, {"like": [torn]}, 400)["error"]


# Uploads -----------------------------------------------------------------------------------------


def test_an_upload_is_decoded_once_for_itself_and_its_search(own, monkeypatch):
    root, client = own
    read, transform = [], GISTDescriptor.transform

    def counting(self, X):
        read.append(len(X))
        return transform(self, X)

    monkeypatch.setattr(GISTDescriptor, "transform", counting)
    client.get(f"{API}/state")
    read.clear()
    content = (root / PLACES[5]).read_bytes()
    name = upload(client, content)["upload"]
    found = ask(client, {"upload": name})["photos"]
    ask(client, {"upload": name, "offset": 2, "limit": 4})
    assert read == [1]
    with PhotoCollection.open(root / ".cbir", read_only=True) as collection:
        hits = collection.search([content], k=11)[0]
    assert [photo["number"] for photo in found] == [hit.number for hit in hits]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_an_upload_has_the_sides_that_are_shown(own, orientation):
    _, client = own
    exif, file = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(IMAGES[0]).resize((96, 64)).save(file, "JPEG", exif=exif)
    kept = upload(client, file.getvalue())
    shown = Image.open(io.BytesIO(client.get(f"{API}/upload/{kept['upload']}").content))
    assert (kept["width"], kept["height"]) == shown.size
    assert shown.size == ((96, 64) if orientation < 5 else (64, 96))


def test_an_upload_that_cannot_be_read_to_its_end_is_not_kept(own, monkeypatch):
    root, client = own
    names, keep = [], Uploads.keep
    monkeypatch.setattr(
        Uploads, "keep", lambda self, photo: names.append(keep(self, photo)) or names[-1]
    )
    content = (root / PLACES[5]).read_bytes()
    answer = upload(client, content[: len(content) // 2], status=422)
    assert answer["error"].startswith("The photo cannot be read: truncated")
    assert client.get(f"{API}/upload/{names[0]}").status_code == 404


def test_what_the_first_screen_needs_is_there_before_it_is_asked_for(made, monkeypatch):
    with PhotoCollection.open(made / ".cbir") as collection:
        server = Server(collection)
        server.search_of.prepare()
        for name in ("items", "like", "search"):
            monkeypatch.delattr(PhotoCollection, name)
        monkeypatch.delattr(GISTDescriptor, "transform")
        monkeypatch.delattr("sklearn_cbir.collection._collection.load")
        assert server.search_of.state()["n_ready"] == 11
        assert len(server.search_of.search(Query())["photos"]) == 11


def test_a_server_of_no_photos_prepares(tmp_path):
    with PhotoCollection.create(tmp_path / ".cbir", tmp_path, GISTDescriptor()) as collection:
        Server(collection).search_of.prepare()


def test_a_search_that_fails_does_not_keep_the_server_from_its_page(made, monkeypatch):
    def damaged(*args, **options):
        raise ValueError("The collection is damaged.")

    monkeypatch.setattr(PhotoCollection, "like", damaged)
    with PhotoCollection.open(made / ".cbir") as collection:
        server = Server(collection)
        server.search_of.prepare()
        number = server.search_of.search(Query())["photos"][0]["number"]
        with pytest.raises(Failure, match="damaged"):
            server.search_of.search(Query(like=(number,)))


def test_uploads_are_forgotten_beyond_their_number_and_bytes():
    uploads = Uploads(most=2, most_bytes=10)
    first, second = uploads.keep(b"1234"), uploads.keep(b"5678")
    assert first != second
    assert uploads.photo(first) == b"1234"  # asked for last
    third = uploads.keep(b"9")
    with pytest.raises(Failure, match="gone"):
        uploads.photo(second)
    uploads.keep(b"12345678")
    with pytest.raises(Failure, match="gone"):
        uploads.photo(first)
    assert uploads.photo(third) == b"9"
    assert uploads.n_bytes == 9
    uploads.drop(third)
    uploads.drop(first)
    assert uploads.n_bytes == 8


# Near-duplicates ---------------------------------------------------------------------------------


def test_near_duplicates_say_what_would_be_kept(client, numbers):
    answer = until_done(lambda: client.post(f"{API}/duplicates", json={"radius": 1e-4}))
    assert (answer["n_groups"], answer["n_photos"]) == (1, 2)
    (group,) = answer["groups"]
    assert {photo["name"] for photo in group} == {"3.jpg", "copy.jpg"}
    assert [photo["keep"] for photo in group] == [True, False]
    assert group[0]["number"] == min(numbers["3.jpg"], numbers["copy.jpg"])
    assert group[0]["size"] == group[1]["size"] > 0
    where = {"folder": "hills"}
    few = until_done(
        lambda: client.post(f"{API}/duplicates", json={"radius": 1e-4, "where": where})
    )
    assert few["n_groups"] == 0
    own_radius = until_done(lambda: client.post(f"{API}/duplicates", json={}))
    assert own_radius["radius"] == GISTDescriptor().near_duplicates[1]


# Sync --------------------------------------------------------------------------------------------


def test_a_sync_from_the_page_is_seen_by_the_next_search(own):
    root, client = own
    before = client.get(f"{API}/state").json()
    write(root / "sea/new.jpg", 11)
    (root / PLACES[0]).unlink()
    answer = client.post(f"{API}/sync", json={})
    assert (answer.status_code, answer.json()["state"]) == (202, "running")
    done = until_done(lambda: client.get(f"{API}/sync"))
    assert (done["report"]["added"], done["report"]["removed"]) == (1, 1)
    after = client.get(f"{API}/state").json()
    assert after["version"] > before["version"]
    assert after["sync"] == done
    assert "new.jpg" in names(ask(client, {}))
    assert "0.jpg" not in names(ask(client, {}))


def test_one_sync_runs_at_a_time_and_says_how_far_it_is(own, monkeypatch):
    root, client = own
    may_go_on, transform = Event(), GISTDescriptor.transform
    monkeypatch.setattr(
        GISTDescriptor, "transform", lambda self, X: (may_go_on.wait(20), transform(self, X))[1]
    )
    for number in range(3):
        write(root / f"new/{number}.jpg", 11 - number)
        Image.fromarray(IMAGES[number][::-1]).save(root / f"new/{number}.jpg")
    client.post(f"{API}/sync", json={})
    for _ in range(200):
        progress = client.get(f"{API}/sync").json()
        if progress["total"] is not None:
            break
        time.sleep(0.01)
    assert (progress["state"], progress["done"], progress["total"]) == ("running", 0, 3)
    again = client.post(f"{API}/sync", json={})
    assert again.status_code == 409
    may_go_on.set()
    assert until_done(lambda: client.get(f"{API}/sync"))["report"]["added"] == 3


def test_a_sync_that_fails_says_why(own):
    root, client = own
    client.post(f"{API}/sync", json={})
    assert until_done(lambda: client.get(f"{API}/sync"))["state"] == "done"
    (root / "moved").mkdir()
    shutil.rmtree(root / "sea")
    shutil.rmtree(root / "hills")
    shutil.rmtree(root / "moved")
    (root / "loose.png").unlink()
    client.post(f"{API}/sync", json={})
    failed = until_done(lambda: client.get(f"{API}/sync"))
    assert failed["state"] == "failed"
    assert "Nothing was changed" in failed["error"]
    assert len(ask(client, {})["photos"]) == 11


def test_a_collection_for_reading_is_not_synced(made):
    with (
        PhotoCollection.open(made / ".cbir", read_only=True) as collection,
        client_of(collection) as client,
    ):
        assert client.get(f"{API}/state").json()["is_writable"] is False
        assert client.post(f"{API}/sync", json={}).status_code == 403


# Photos ------------------------------------------------------------------------------------------


def test_photos_leave_without_exif(client, numbers):
    number = numbers["3.jpg"]
    for place, kind in (("thumbnail", "webp"), ("photo", "jpeg")):
        answer = client.get(f"{API}/{place}/{number}")
        assert answer.headers["content-type"] == f"image/{kind}"
        image = Image.open(io.BytesIO(answer.content))
        assert image.size == (96, 64)
        assert not image.getexif()
        assert b"Secret" not in answer.content
        assert b"Exif" not in answer.content


def test_thumbnails_are_small_and_kept_until_the_photo_changes(own):
    root, client = own
    big = Image.fromarray(IMAGES[0]).resize((1200, 800))
    big.save(root / "big.png")
    client.post(f"{API}/sync", json={})
    until_done(lambda: client.get(f"{API}/sync"))
    number = {photo["name"]: photo["number"] for photo in ask(client, {})["photos"]}["big.png"]
    first = client.get(f"{API}/thumbnail/{number}")
    assert Image.open(io.BytesIO(first.content)).size == (320, 213)
    (kept,) = (root / ".cbir/thumbnails").rglob("*.webp")
    assert kept.read_bytes() == first.content
    tag = first.headers["etag"]
    again = client.get(f"{API}/thumbnail/{number}", headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")
    big.transpose(Image.Transpose.ROTATE_90).save(root / "big.png")
    turned = client.get(f"{API}/thumbnail/{number}", headers={"If-None-Match": tag})
    assert Image.open(io.BytesIO(turned.content)).size == (213, 320)
    client.post(f"{API}/sync", json={})
    until_done(lambda: client.get(f"{API}/sync"))
    (left,) = (root / ".cbir/thumbnails").rglob("*.webp")  # that of the file that is gone is, too
    assert left.read_bytes() == turned.content
    (root / "big.png").unlink()
    client.post(f"{API}/sync", json={})
    until_done(lambda: client.get(f"{API}/sync"))
    assert not list((root / ".cbir/thumbnails").rglob("*.webp"))


def test_nothing_is_written_into_a_collection_for_reading(own):
    root, _ = own
    before = sorted(map(str, root.rglob("*")))
    with (
        PhotoCollection.open(root / ".cbir", read_only=True) as collection,
        client_of(collection) as client,
    ):
        number = ask(client, {})["photos"][0]["number"]
        first = client.get(f"{API}/thumbnail/{number}").content
        assert client.get(f"{API}/thumbnail/{number}").content == first
    assert sorted(map(str, root.rglob("*"))) == before


def test_a_photo_that_is_gone_or_torn_says_so(own):
    root, client = own
    photos = {photo["name"]: photo["number"] for photo in ask(client, {})["photos"]}
    (root / PLACES[1]).unlink()
    gone = client.get(f"{API}/photo/{photos['1.jpg']}")
    assert gone.status_code == 404
    assert "Sync" in gone.json()["error"]
    torn = client.get(f"{API}/unreadable").json()["photos"]
    number = {photo["name"]: photo["number"] for photo in torn}["torn.jpg"]
    answer = client.get(f"{API}/thumbnail/{number}")
    assert answer.status_code == 422
    assert "truncated" in answer.json()["error"]


def test_a_moved_photo_is_shown_where_it_is(own):
    root, client = own
    number = ask(client, {})["photos"][0]["number"]
    assert client.get(f"{API}/photo/{number}").status_code == 200
    (root / "there").mkdir()
    place = Path(client.get(f"{API}/facts/{number}").json()["path"])
    shutil.move(place, root / "there" / place.name)
    with PhotoCollection.open(root / ".cbir") as other:  # another process, say
        assert other.sync().moved == 1
    assert client.get(f"{API}/photo/{number}").status_code == 200


def test_how_large_a_photo_is_shown(client, numbers):
    answer = client.get(f"{API}/photo/{numbers['3.jpg']}?side=48")
    assert Image.open(io.BytesIO(answer.content)).size == (48, 32)
    for side in ("0", "9999", "-1", "x", "", "1" * 30):
        assert client.get(f"{API}/photo/{numbers['3.jpg']}?side={side}").status_code == 400


# Beside the server -------------------------------------------------------------------------------


def test_each_of_many_finds_what_it_finds_alone(made):
    with PhotoCollection.open(made / ".cbir", read_only=True) as collection:
        numbers = collection.items()["number"][collection.items()["state"] == "ready"].tolist()
        for where in (None, {"folder": "sea"}, {"folder": "none"}):
            for k in (1, 4, 6, 50):
                asked = [*numbers, numbers[0]]
                distances, found = collection.like_each(asked, k=k, where=where)
                alone = [collection.like([n], k=k, where=where) for n in asked]
                assert [row.tolist() for row in found] == [
                    [hit.number for hit in hits] for hits in alone
                ]
                for row, hits in zip(distances, alone, strict=True):
                    np.testing.assert_allclose(row, [hit.distance for hit in hits], atol=1e-7)
        assert collection.like_each([]) == ([], [])
        with pytest.raises(ValueError, match="900"):
            collection.like_each([900])


def test_each_of_many_finds_photos_by_their_numbers_after_others_are_gone(own):
    root, _ = own
    with PhotoCollection.open(root / ".cbir") as collection:
        before = collection.like_each([4], k=3)
        gone = next(hit for hit in collection.like([4], k=3) if hit.number != 4)
        Path(gone.path).unlink()
        write(root / "new.jpg", 11)
        collection.sync()
        numbers = collection.items()["number"][collection.items()["state"] == "ready"]
        distances, found = collection.like_each(numbers.tolist(), k=4)
        alone = [collection.like([number], k=4) for number in numbers.tolist()]
        assert [row.tolist() for row in found] == [[hit.number for hit in hits] for hits in alone]
        assert gone.number in before[1][0]
        assert gone.number not in np.concatenate(found)
        assert max(numbers) in np.concatenate(found)
        assert {row.dtype for row in distances} == {np.dtype(float)}


def test_the_command_serves_until_ctrl_c(made):
    words = ["serve", str(made), "--port", "0", "--no-browser"]
    program = "import sys; from sklearn_cbir.cli import main; sys.exit(main(sys.argv[1:]))"
    with subprocess.Popen([sys.executable, "-c", program, *words], stderr=subprocess.PIPE) as done:
        assert done.stderr is not None
        line = done.stderr.readline().decode()
        address = line.removeprefix("Serving at ").strip()
        place, _, token = address.partition("?token=")
        assert len(token) == 43
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{place}api/v1/state")
        asked = urllib.request.Request(f"{place}api/v1/state")
        asked.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(asked) as answer:
            assert json.load(answer)["n_photos"] == 13
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "server" not in answer.headers
        done.send_signal(signal.SIGINT)
        rest = done.stderr.read().decode()
        assert done.wait(20) == 0
    assert rest == "Ctrl-C ends it.\n"
    assert token not in rest


# Page, health, many at once ----------------------------------------------------------------------


def test_the_page_and_its_files_are_served(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "/static/page.css" in page.text
    style = client.get("/static/page.css")
    assert style.headers["content-type"].startswith("text/css")
    assert client.get("/static/../_app.py").status_code == 404
    assert client.get("/static/none.css").status_code == 404


def test_health_says_that_the_server_is_there(client):
    assert client.get("/health").json()["status"] == "ok"


def test_many_at_once_are_answered_as_one_is(client, numbers):
    some = list(numbers.values())
    alone = [ask(client, {"like": [number]}) for number in some]
    with ThreadPoolExecutor(50) as threads:
        found = list(threads.map(lambda n: ask(client, {"like": [some[n % len(some)]]}), range(50)))
        shown = list(
            threads.map(lambda n: client.get(f"{API}/thumbnail/{some[n % 11]}"), range(50))
        )
    assert found == [alone[n % len(some)] for n in range(50)]
    assert {answer.status_code for answer in shown} == {200}


@pytest.fixture
def together(monkeypatch):
    """Make the server wait for all who click; what it asks together is listed."""
    monkeypatch.setattr("sklearn_cbir.serve._app.GATHERING", 0.1)
    monkeypatch.setattr("sklearn_cbir.serve._app.LONGEST_GATHERING", 2.0)
    asked, like_each = [], PhotoCollection.like_each

    def listed(self, numbers, k=10, where=None):
        asked.append((list(numbers), k, where))
        return like_each(self, numbers, k, where)

    monkeypatch.setattr(PhotoCollection, "like_each", listed)
    return asked


def click_at_once(client, queries):
    """Return the status and the answer of every query, all of them sent at once."""

    def click(query):
        answer = client.post(f"{API}/search", json=query)
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(len(queries)) as threads:
        return list(threads.map(click, queries))


def test_clicks_at_once_are_answered_as_alone_and_a_wrong_one_spoils_none(own, together):
    root, client = own
    photos = {photo["name"]: photo["number"] for photo in ask(client, {})["photos"]}
    torn = next(p["number"] for p in client.get(f"{API}/unreadable").json()["photos"])
    queries = [
        *({"like": [photos[f"{n}.jpg"]]} for n in range(6)),
        {"like": [900]},
        {"like": [torn]},
        {"like": [photos["7.jpg"]], "limit": 3},
        {"like": [photos["8.jpg"]], "max_distance": 0.01},
        {"like": [photos["1.jpg"]], "where": {"folder": "sea"}},
        {"like": [photos["3.jpg"]], "where": {"folder": "sea"}, "offset": 2, "limit": 2},
        {"like": [photos["1.jpg"]], "where": {"folder": "none"}},
        {"like": ["1"]},
    ]
    found = click_at_once(client, queries)
    assert max(len(numbers) for numbers, _, _ in together) >= 2
    with PhotoCollection.open(root / ".cbir") as other, client_of(other) as fresh:
        alone = [fresh.post(f"{API}/search", json=query) for query in queries]
    for query, (status, answer), one in zip(queries, found, alone, strict=True):
        expected = one.json()
        assert status == one.status_code, query
        for photo, of_alone in zip(answer.get("photos", []), expected.get("photos", [])):
            assert photo.pop("distance") == pytest.approx(of_alone.pop("distance"), abs=1e-7)
        assert answer == expected, query
    assert [status for status, _ in found].count(200) == 11


def test_a_photo_that_goes_while_many_click_spoils_none(own, together, monkeypatch):
    _, client = own
    listed = PhotoCollection.like_each

    def without(self, numbers, k=10, where=None):
        listed(self, numbers, k, where)
        raise ValueError("numbers names 1, which is gone.")

    monkeypatch.setattr(PhotoCollection, "like_each", without)
    numbers = [photo["number"] for photo in ask(client, {})["photos"]]
    found = click_at_once(client, [{"like": [number]} for number in numbers])
    assert together
    assert {status for status, _ in found} == {200}
    for number, (_, answer) in zip(numbers, found, strict=True):
        assert len(answer["photos"]) == len(numbers) - 1
        assert number not in [photo["number"] for photo in answer["photos"]]


def test_a_click_that_was_answered_with_others_is_not_asked_again(own, together):
    _, client = own
    numbers = [photo["number"] for photo in ask(client, {})["photos"]]
    queries = [{"like": [number]} for number in numbers]
    first = click_at_once(client, queries)
    n_asked = len(together)
    assert click_at_once(client, queries) == first
    assert len(together) == n_asked
