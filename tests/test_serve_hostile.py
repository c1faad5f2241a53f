"""Nobody else gets anything from the server: other sites, other users, files that are traps."""

import asyncio
import io
import json
import os
import pickle
import re
import struct
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from PIL import Image
from starlette.testclient import TestClient

from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.datasets import make_shapes
from sklearn_cbir.descriptors import GISTDescriptor
from sklearn_cbir.serve import _app, _body, _guard, _pictures, _workers, create_app, run
from sklearn_cbir.serve._answers import Failure
from sklearn_cbir.serve._workers import Workers

IMAGES, _ = make_shapes(6, random_state=0)
ADDRESS = "http://127.0.0.1:8642"
API = "/api/v1"
TOKEN = "the-token-of-these-tests"
EVIL_NAMES = ["<img src=x onerror=alert(1)>.jpg", "a\r\nSet-Cookie: x=1\r\n.jpg", "caf\udce9.jpg"]
SECRET = b"nobody may read this"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    (place / "secret.txt").write_bytes(SECRET)
    Image.fromarray(IMAGES[5]).save(place / "outside.jpg")
    root = place / "photos"
    root.mkdir()
    for number, name in enumerate(EVIL_NAMES):
        Image.fromarray(IMAGES[number]).save(root / f"{number}.jpg")
        os.rename(root / f"{number}.jpg", os.fsencode(root / "x")[:-1] + os.fsencode(name))
    Image.fromarray(IMAGES[4]).save(root / "4.jpg")
    with PhotoCollection.create(root / ".cbir", root, GISTDescriptor()) as collection:
        collection.sync()
    return root


@pytest.fixture(scope="module")
def collection(root):
    with PhotoCollection.open(root / ".cbir") as collection:
        yield collection


@pytest.fixture(scope="module")
def app(collection):
    return create_app(collection, token=TOKEN)


@pytest.fixture(scope="module")
def stranger(app):
    """Who has no token."""
    with TestClient(app, base_url=ADDRESS, follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="module")
def friend(app, stranger):
    """Who has the token; the server runs already."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    client = TestClient(
        app,
        base_url=ADDRESS,
        headers=headers,
        follow_redirects=False,
        raise_server_exceptions=False,
    )
    client.portal = stranger.portal
    return client


EVERYTHING = [
    ("GET", "/"),
    ("GET", "/static/page.css"),
    ("GET", f"{API}/state"),
    ("GET", f"{API}/unreadable"),
    ("POST", f"{API}/search"),
    ("GET", f"{API}/facts/1"),
    ("POST", f"{API}/upload"),
    ("GET", f"{API}/upload/x"),
    ("POST", f"{API}/duplicates"),
    ("POST", f"{API}/sync"),
    ("GET", f"{API}/sync"),
    ("GET", f"{API}/thumbnail/1"),
    ("GET", f"{API}/photo/1"),
]


# Who may ask -------------------------------------------------------------------------------------


def test_the_list_of_addresses_is_whole(collection):
    known = {(sorted(route.methods)[-1], route.path) for route in _app.Server(collection).routes()}
    asked = {
        (method, re.sub("/1$", "/{number}", path).replace("upload/x", "upload/{name}"))
        for method, path in EVERYTHING
    }
    asked = {
        (method, path.replace("static/page.css", "static/{name:path}")) for method, path in asked
    }
    assert {("GET", "/health"), *asked} == {
        ("GET" if method == "HEAD" else method, path) for method, path in known
    }


@pytest.mark.parametrize(("method", "path"), EVERYTHING)
def test_nothing_is_told_without_the_token(stranger, method, path):
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Cookie": f"cbir-00000000={TOKEN}"},
    ):
        answer = stranger.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert list(answer.json()) == ["error"]
    assert stranger.request(method, path + "?token=wrong").status_code == 401
    if path != "/":  # it is taken in the address of the page alone
        assert stranger.request(method, f"{path}?token={TOKEN}").status_code == 401


def test_health_needs_no_token(stranger):
    answer = stranger.get("/health")
    assert answer.status_code == 200
    assert set(answer.json()) == {"status", "version"}


def test_the_address_with_the_token_gives_a_cookie_that_other_sites_cannot_use(app, stranger):
    answer = stranger.get(f"/?token={TOKEN}&like=3&words=a%20boat")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/?like=3&words=a+boat"
    cookie = answer.headers["set-cookie"]
    stranger.cookies.clear()
    name, _, rest = cookie.partition("=")
    value, *flags = rest.split("; ")
    assert value == TOKEN
    assert {flag.lower() for flag in flags} == {"httponly", "path=/", "samesite=strict"}
    assert TOKEN not in answer.text
    with_cookie = stranger.get(f"{API}/state", headers={"Cookie": f"{name}={value}"})
    assert with_cookie.status_code == 200
    assert stranger.get(f"{API}/state", headers={"Cookie": f"{name}=x"}).status_code == 401


def test_a_link_from_elsewhere_is_led_on_by_the_page_itself(stranger):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    answer = stranger.get(f'/?token={TOKEN}&words="><script>alert(1)</script>', headers=headers)
    stranger.cookies.clear()
    assert answer.status_code == 200
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert 'content="0;url=/?words=%22%3E%3Cscript' in answer.text
    assert TOKEN not in answer.text


def test_the_token_is_compared_in_constant_time(app, monkeypatch, stranger):
    compared = []
    monkeypatch.setattr(
        _guard.secrets, "compare_digest", lambda *both: bool(compared.append(both)) or False
    )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    assert stranger.get(f"{API}/state", headers=headers).status_code == 401
    assert compared == [(TOKEN.encode(), TOKEN.encode())]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8642",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "127.0.0.2",
        "",
        "localhost:x",
        "localhost:",
        "[::2]:8642",
    ],
)
@pytest.mark.parametrize(("method", "path"), [*EVERYTHING[:5], ("GET", "/health")])
def test_the_server_goes_by_its_own_names_alone(friend, host, method, path):
    answer = friend.request(method, path, headers={"Host": host})
    assert answer.status_code == 421
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize("host", ["127.0.0.1:8642", "localhost:9", "LOCALHOST", "[::1]:8642"])
def test_a_tunnel_may_have_another_port(friend, host):
    assert friend.get(f"{API}/state", headers={"Host": host}).status_code == 200


def test_named_hosts_are_served(collection):
    app = create_app(collection, token=None, hosts=["photos.home"])
    with TestClient(app, base_url="http://photos.home:8642") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/health", headers={"Host": "localhost"}).status_code == 421


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.example",
        "http://localhost:3000",  # another program of this machine
        "http://127.0.0.1:8642.evil.example",
        "http://127.0.0.1",
        "https://evil.example:8642",
        "file://",
        "",
    ],
)
@pytest.mark.parametrize(("method", "path"), EVERYTHING)
def test_pages_of_other_sites_get_nothing(friend, origin, method, path):
    answer = friend.request(method, path, headers={"Origin": origin})
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_requests_that_browsers_mark_as_of_other_sites_are_refused(friend, site):
    for mode in ("no-cors", "cors", "navigate"):
        headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
        assert friend.post(f"{API}/sync", json={}, headers=headers).status_code == 403
        status = 200 if mode == "navigate" else 403  # a link to the page is followed
        assert friend.get("/", headers=headers).status_code == status


def test_own_pages_may_ask(friend):
    headers = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    assert friend.post(f"{API}/search", json={}, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"]
)
def test_bodies_that_forms_of_other_sites_can_send_are_refused(friend, kind):
    for path in ("search", "duplicates", "sync", "upload"):
        answer = friend.post(f"{API}/{path}", content=b"{}", headers={"Content-Type": kind})
        assert answer.status_code == 415


def test_other_machines_need_the_token(collection):
    with pytest.raises(ValueError, match=r"host='0\.0\.0\.0' can be reached by others"):
        run(collection, host="0.0.0.0", token=False)
    with pytest.raises(ValueError, match="can be reached by others"):
        run(collection, host="192.168.1.5", token=False)
    with pytest.raises(ValueError, match="all addresses"):
        run(collection, host="0.0.0.0")


# What every answer carries -----------------------------------------------------------------------


def test_every_answer_carries_the_policy(friend, stranger, monkeypatch):
    answers = [friend.request(method, path) for method, path in EVERYTHING]
    answers += [friend.get("/none"), friend.delete("/"), stranger.get("/"), friend.get("/health")]
    answers += [friend.get("/", headers={"Host": "evil.example"})]
    answers += [friend.get("/", headers={"Origin": "null"})]
    monkeypatch.setattr(_app.Server, "name", property(lambda self: 1 / 0))
    answers += [friend.get("/")]
    assert {200, 401, 403, 404, 405, 415, 421, 500} <= {a.status_code for a in answers}
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["referrer-policy"] == "no-referrer"
        if answer.status_code >= 400:
            assert list(answer.json()) == ["error"]


def test_a_fault_of_the_server_tells_nothing_of_it(friend, monkeypatch, caplog):
    monkeypatch.setattr(_app.Server, "name", property(lambda self: 1 / 0))
    answer = friend.get("/")
    assert answer.status_code == 500
    assert "Zero" not in answer.text
    assert "ZeroDivisionError" in caplog.text


# Files -------------------------------------------------------------------------------------------


TRAVERSALS = [
    "../secret.txt",
    "..%2fsecret.txt",
    "%2e%2e/%2e%2e/secret.txt",
    "..%5c..%5csecret.txt",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "1/../../secret.txt",
    "1%00",
    "1.0",
    "-1",
    "+1",
    " 1",
    "1e3",
    "0x1",
    "٣",
    "9" * 19,
    "9" * 400,
    "900",
    "0",
    "....//secret.txt",
    "file:///etc/passwd",
    "4.jpg",
]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_files_are_named_by_number_and_by_nothing_else(friend, name):
    for before in ("photo/", "thumbnail/", "facts/", "upload/"):
        answer = friend.get(f"{API}/{before}{name}")
        assert answer.status_code in (404, 405), answer.text
        assert SECRET not in answer.content
    answer = friend.get(f"/static/{name}")
    assert answer.status_code == 404


@pytest.mark.parametrize("name", TRAVERSALS)
def test_paths_in_bodies_open_nothing(friend, name):
    for query in (
        {"upload": name[:64]},
        {"region": {"of": name[:64], "box": [0, 0, 1, 1]}},
        {"where": {"folder": name}},
        {"where": {"label": name}},
        {"like": [name]},
    ):
        answer = friend.post(f"{API}/search", json=query)
        assert answer.status_code in (200, 400, 404)
        assert SECRET not in answer.content
        assert answer.status_code != 200 or not answer.json()["photos"] or "where" in query


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    root, secret = tmp_path / "photos", tmp_path / "secret"
    for place in (root, secret):
        place.mkdir()
    for number, place in enumerate([root / "a.jpg", root / "b/c.jpg", secret / "a.jpg"]):
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(IMAGES[number]).save(place)
    with PhotoCollection.create(root / ".cbir", root, GISTDescriptor()) as collection:
        collection.sync()
        numbers = dict(
            zip(collection.items()["name"].tolist(), collection.items()["number"].tolist())
        )
        with TestClient(create_app(collection, token=None), base_url=ADDRESS) as client:
            (root / "a.jpg").unlink()
            (root / "a.jpg").symlink_to(secret / "a.jpg")
            (root / "b/c.jpg").unlink()
            (root / "b").rmdir()
            (root / "b").symlink_to(secret)
            (secret / "c.jpg").write_bytes((secret / "a.jpg").read_bytes())
            for number in numbers.values():
                for place in ("photo", "thumbnail"):
                    answer = client.get(f"{API}/{place}/{number}")
                    assert answer.status_code == 404, answer.text
                    assert "outside of the folders" in answer.json()["error"]
                region = {"region": {"of": number, "box": [0, 0, 1, 1]}}
                assert client.post(f"{API}/search", json=region).status_code == 404


def test_a_file_that_is_exchanged_meanwhile_is_not_opened(tmp_path):
    photo, secret = tmp_path / "a.jpg", tmp_path / "secret"
    photo.write_bytes(b"1" * len(SECRET))
    secret.write_bytes(SECRET)
    source = _pictures.source_of(1, str(photo), [str(tmp_path)])
    photo.unlink()
    photo.symlink_to(secret)
    with pytest.raises(Failure):
        _pictures.read(source)


def test_pipes_and_folders_in_the_place_of_photos_hang_nobody(tmp_path):
    for name, make in (("pipe.jpg", os.mkfifo), ("folder.jpg", os.mkdir)):
        make(tmp_path / name)
        with pytest.raises(Failure, match="not a file any more"):
            _pictures.source_of(1, str(tmp_path / name), [str(tmp_path)])


def test_nothing_is_written_outside_of_the_collection(tmp_path):
    root, outside = tmp_path / "photos", tmp_path / "outside"
    for place in (root, outside):
        place.mkdir()
    Image.fromarray(IMAGES[0]).save(root / "a.jpg")
    with PhotoCollection.create(root / ".cbir", root, GISTDescriptor()) as collection:
        collection.sync()
        (root / ".cbir/thumbnails").mkdir()
        (root / ".cbir/thumbnails/0").symlink_to(outside)
        with TestClient(create_app(collection, token=None), base_url=ADDRESS) as client:
            assert client.get(f"{API}/thumbnail/1").status_code == 200
        (root / ".cbir/thumbnails/0").unlink()
        (root / ".cbir/thumbnails").rmdir()
        (root / ".cbir/thumbnails").symlink_to(outside)
        with TestClient(create_app(collection, token=None), base_url=ADDRESS) as client:
            assert client.get(f"{API}/thumbnail/1").status_code == 200
    assert not list(outside.iterdir())
    assert sorted(path.name for path in root.iterdir()) == [".cbir", "a.jpg"]


def test_names_do_no_harm(friend):
    answer = friend.post(f"{API}/search", json={})
    found = answer.json()["photos"]
    assert len(found) == 4
    assert {"<img src=x onerror=alert(1)>.jpg"} < {photo["name"] for photo in found}
    assert answer.headers["content-type"] == "application/json"
    assert answer.content.isascii()
    for photo in found:
        answer = friend.get(f"{API}/photo/{photo['number']}")
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
        assert "content-disposition" not in answer.headers


# Bodies ------------------------------------------------------------------------------------------


def upload(client, content, **headers):
    headers = {"Content-Type": "application/octet-stream", **headers}
    return client.post(f"{API}/upload", content=content, headers=headers)


def png(width, height, data):
    """Return a PNG that says how large it is, whatever is in it."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SPRUNG = os.path.join(tempfile.gettempdir(), f"trap-{os.getpid()}")


class Trap:
    def __reduce__(self):
        return (os.mkdir, (SPRUNG,))


JUNK = {
    "nothing": b"",
    "text": b"hello",
    "html": b"<script>alert(1)</script>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    "pickle": pickle.dumps(Trap()),
    "path": b"/etc/passwd",
    "zeros": bytes(10_000),
    "head": b"\xff\xd8\xff\xe0" + b"\0" * 100,
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "bomb": png(60_000, 60_000, zlib.compress(bytes(1_000_000))),
    "large": png(12_000, 12_000, zlib.compress(bytes(1_000_000))),
    "torn": png(100, 100, zlib.compress(bytes(30_100))[:20]),
}


@pytest.mark.parametrize("kind", JUNK)
def test_what_is_no_photo_is_said_to_be_none(friend, kind):
    answer = upload(friend, JUNK[kind])
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"].startswith("The photo cannot be read: ")
    assert "fsdecode" not in answer.json()["error"]  # the way out of who programs
    assert not os.path.exists(SPRUNG)


def test_a_body_that_says_it_is_too_large_is_not_read(friend):
    for path, kind in (("upload", "image/png"), ("search", "application/json")):
        headers = {"Content-Type": kind, "Content-Length": str(2**40)}
        answer = friend.post(f"{API}/{path}", content=b"{}", headers=headers)
        assert answer.status_code == 413
    headers = {"Content-Type": "application/json", "Content-Length": "-1"}
    assert friend.post(f"{API}/search", content=b"{}", headers=headers).status_code == 413


def test_a_body_that_turns_out_too_large_is_cut_off(friend):
    sent = []

    def parts():
        for _ in range(100):
            sent.append(1)
            yield b" " * 2**14

    answer = friend.post(
        f"{API}/search", content=parts(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"3",
        b"null",
        b"{",
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"like": NaN}',
        b'{"a": 1e999}',
    ],
)
def test_bodies_that_are_no_objects_are_refused(friend, body):
    for path in ("search", "duplicates", "sync"):
        answer = friend.post(
            f"{API}/{path}", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400
        assert answer.json()["error"].endswith(".")


async def asked(app, scope, receive):
    """Ask as a server does, and return status and body."""
    messages = []

    async def send(message):
        messages.append(message)

    base = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": f"{API}/search",
        "raw_path": b"",
        "query_string": b"",
        "scheme": "http",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
    }
    await app({**base, **scope}, receive, send)
    body = b"".join(message.get("body", b"") for message in messages[1:])
    return messages[0]["status"], json.loads(body)


def test_a_slow_body_is_given_up(collection, monkeypatch):
    monkeypatch.setattr(_body.Bodies.__init__, "__defaults__", (0.05,))
    app = create_app(collection, token=None)

    async def receive():
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b" ", "more_body": True}

    status, answer = asyncio.run(asked(app, {}, receive))
    assert status == 408
    assert "did not arrive" in answer["error"]


def test_bodies_together_have_a_limit(collection, monkeypatch):
    monkeypatch.setattr(_body, "MOST_IN_FLIGHT", 100)
    app = create_app(collection, token=None)

    async def receive():
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b" " * 60, "more_body": True}

    status, _ = asyncio.run(asked(app, {}, receive))
    assert status == 503


def test_two_hosts_in_one_request_are_refused(collection):
    app = create_app(collection, token=None)
    headers = [(b"host", b"localhost"), (b"host", b"evil.example")]
    status, _ = asyncio.run(asked(app, {"headers": headers}, None))
    assert status == 421
    status, _ = asyncio.run(asked(app, {"headers": []}, None))
    assert status == 421


# Many at once ------------------------------------------------------------------------------------


def test_two_decode_and_others_wait_and_then_are_told_to_come_again(monkeypatch):
    monkeypatch.setattr(_workers, "MOST_WAITING", 3)
    workers, may_end, running = Workers(2, "test", longest_wait=0.2), Event(), []

    def decode():
        running.append(1)
        may_end.wait(10)
        return "decoded"

    async def ask_for_five():
        calls = [asyncio.ensure_future(workers.run(decode)) for _ in range(5)]
        done, _ = await asyncio.wait(calls, timeout=0.1)
        assert len(done) == 2  # more than may wait
        await asyncio.sleep(0.3)
        assert len(running) == 2
        assert calls[2].done()  # has waited for too long
        may_end.set()
        return await asyncio.gather(*calls, return_exceptions=True)

    found = asyncio.run(ask_for_five())
    assert found[:2] == ["decoded", "decoded"]
    assert [failure.status for failure in found[2:]] == [503] * 3
    assert found[2].headers == {"Retry-After": "5"}
    workers.close()


def test_whoever_decodes_has_one_of_two_slots(collection, monkeypatch):
    pictures = _pictures.Pictures(collection.path, False)
    assert pictures.slots.acquire(blocking=False)
    assert pictures.slots.acquire(blocking=False)
    assert not pictures.slots.acquire(blocking=False)


def test_two_hundred_at_once_end_in_answers(friend):
    file = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(file, "JPEG")

    def ask(number):
        kind = number % 4
        if kind == 0:
            return upload(friend, file.getvalue())
        if kind == 1:
            return friend.post(f"{API}/search", json={"like": [1 + number % 4]})
        if kind == 2:
            return friend.get(f"{API}/photo/{1 + number % 4}")
        return upload(friend, JUNK["bomb"])

    with ThreadPoolExecutor(200) as threads:
        answers = list(threads.map(ask, range(200)))
    assert {answer.status_code for answer in answers} <= {200, 422, 503}
    assert sum(answer.status_code == 200 for answer in answers) >= 100
    assert friend.get(f"{API}/state").status_code == 200


def test_more_requests_than_the_server_takes_are_told_so(collection, monkeypatch):
    monkeypatch.setattr(_guard, "MOST_REQUESTS", 0)
    with TestClient(create_app(collection, token=None), base_url=ADDRESS) as client:
        assert client.get("/health").status_code == 503
