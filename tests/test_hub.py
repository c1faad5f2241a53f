"""Files of pretrained networks: the cache, folders, the hub, and no network at all."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from sklearn_cbir.backbones import _hub

hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.constants")
COMMIT = "0123456789" * 4
NAME = "timm/hf-hub:org/net"
PLACE = "hf-hub:org/net"


class Repository(BaseHTTPRequestHandler):
    """What the hub answers for the files of ``org/net``; anything else is not there."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        time.sleep(self.server.delay)
        self.server.asked.append((self.command, self.path))
        if self.server.status is not None:
            self.send_response(self.server.status, "as told")
            for header in self.server.headers.items():
                self.send_header(*header)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        name = self.path.rpartition("/")[2]
        content = self.server.files.get(name) if "/org/net/resolve/" in self.path else None
        # What is there of a file may be asked to go on from, as older clients do.
        first = int(re.sub(r"bytes=(\d+)-", r"\1", self.headers.get("Range", "bytes=0-")))
        self.send_response(404 if content is None else 206 if first else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        if content is None:
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", f'"{name}"')
            if first:
                whole = len(content)
                self.send_header("Content-Range", f"bytes {first}-{whole - 1}/{whole}")
                content = content[first:]
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            for start in range(0, len(content or b""), 100):
                time.sleep(self.server.pause)
                self.wfile.write(content[start : start + 100])

    def log_message(self, *arguments):
        pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    return folder


def let_hub_be_at(url, monkeypatch):
    """Take another endpoint, as HF_ENDPOINT does for a process that has not yet begun."""
    monkeypatch.setattr(hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def server(cache, monkeypatch):
    """A hub of one repository on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Repository) as server:
        server.files, server.asked = {"config.json": b"{}"}, []
        server.status, server.headers = None, {}
        server.delay = server.pause = 0  # seconds before the answer, and before every 100 bytes
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        let_hub_be_at(f"http://127.0.0.1:{server.server_port}", monkeypatch)
        hub.close_session()
        yield server
        hub.close_session()
        server.shutdown()


def put_into_cache(cache, name, content=b"{}"):
    """Store a file as huggingface_hub does."""
    folder = cache / "models--org--net"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True, exist_ok=True)
    (snapshot / name).write_bytes(content)


def never_asked(*arguments, **options):
    raise AssertionError("the network was asked")


# No network -------------------------------------------------------------------------------------


def message_in_time(ask=lambda: _hub.weights_of(PLACE, NAME)):
    """Return the message of the one error that comes within two seconds, of what is imported."""
    assert hub.hf_hub_download
    assert hub.utils.get_session()
    began = time.monotonic()
    with pytest.raises(ConnectionError) as caught:
        ask()
    assert time.monotonic() - began < 2
    return str(caught.value)


@pytest.fixture
def impatient(monkeypatch):
    """Wait for a tenth of a second, which is as silent as one and a half."""
    monkeypatch.setattr(_hub, "FIRST_ANSWER", 0.1)


@pytest.fixture
def mute():
    """The address of a socket that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def dropping():
    """The address of a socket to which packets are lost: its queue of connections is full."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(closing(socket.socket()))
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            waiting = sockets.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_hub_that_never_answers_is_one_error_within_two_seconds(mute, cache, monkeypatch):
    # The only test that waits in full: what it bounds is the time.
    let_hub_be_at(f"http://{mute}", monkeypatch)
    message = message_in_time()
    assert f"http://{mute} cannot be reached (no answer within 1.5 seconds)" in message


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("silence", ["mute", "dropping"])
@pytest.mark.usefixtures("cache", "impatient")
def test_silence_of_any_kind_is_the_same_error(scheme, silence, monkeypatch, request):
    let_hub_be_at(f"{scheme}://{request.getfixturevalue(silence)}", monkeypatch)
    assert "cannot be reached (" in message_in_time()


@pytest.mark.usefixtures("cache", "impatient")
def test_a_name_that_is_looked_up_without_an_answer_is_that_error(monkeypatch):
    ends = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: ends.wait(60))
    try:
        assert "(no answer within 0.1 seconds)" in message_in_time()
    finally:
        ends.set()


@pytest.mark.usefixtures("cache")
def test_a_name_that_does_not_resolve_is_that_error(monkeypatch):
    let_hub_be_at("https://hub.invalid", monkeypatch)
    assert "https://hub.invalid cannot be reached (" in message_in_time()


def test_a_proxy_that_reaches_nobody_is_that_error(server):
    server.status = 504
    assert "(it answers with status 504)" in message_in_time()
    assert len(server.asked) == 1  # nothing is tried again


def test_the_variables_of_the_environment_are_kept_to_and_kept(tmp_path, mute):
    # In another process: huggingface_hub reads them when it is imported.
    program = f"""
from sklearn_cbir.backbones import _hub
import os
before = dict(os.environ)
try:
    _hub.weights_of({PLACE!r}, {NAME!r})
except ConnectionError as error:
    print(error)
print(before == dict(os.environ))
"""
    own = {"HF_ENDPOINT": f"http://{mute}", "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        check=True,
    )
    message, unchanged = done.stdout.splitlines()
    assert f"not in the cache {tmp_path}, and http://{mute} cannot be reached" in message
    assert "HF_HUB_OFFLINE" in message
    assert unchanged == "True"


@pytest.mark.usefixtures("impatient")
def test_the_error_names_the_cache_and_the_ways_out(cache, mute, monkeypatch):
    let_hub_be_at(f"http://{mute}", monkeypatch)
    message = message_in_time()
    for part in (str(cache), "'timm/local-dir:PATH'", "weights=...", "weights=None"):
        assert part in message
    # What is built can do without weights, but not without a config.
    message = message_in_time(lambda: _hub.config_of(PLACE, "config.json", NAME))
    assert "'timm/local-dir:PATH'" in message
    assert "weights=None" not in message


def test_who_sets_the_variable_of_the_hub_waits_longer(server, monkeypatch, impatient):
    server.delay = 0.3
    assert "no answer within 0.1 seconds" in message_in_time(
        lambda: _hub.config_of(PLACE, "config.json", NAME)
    )
    monkeypatch.setattr(hub.constants, "HF_HUB_ETAG_TIMEOUT", 5)
    assert _hub.config_of(PLACE, "config.json", NAME) == {}


def test_nothing_of_huggingface_hub_is_changed(server):
    before = dict(vars(hub.constants))
    _hub.config_of(PLACE, "config.json", NAME)
    assert dict(vars(hub.constants)) == before


# The hub ----------------------------------------------------------------------------------------


def test_a_slow_network_downloads_what_takes_longer_than_the_first_answer(server, monkeypatch):
    monkeypatch.setattr(_hub, "FIRST_ANSWER", 0.5)
    server.files["model.safetensors"], server.pause = b"0123456789" * 70, 0.1
    path = _hub.weights_of(PLACE, NAME)
    assert path.read_bytes() == server.files["model.safetensors"]


def test_what_is_cached_is_taken_without_asking(cache, monkeypatch):
    monkeypatch.setattr(_hub, "first_answer", never_asked)
    put_into_cache(cache, "pytorch_model.bin", b"weights")
    # Better forms may be on the hub; what is here needs no network.
    assert _hub.weights_of(PLACE, NAME).read_bytes() == b"weights"


def test_weights_of_one_library_are_not_taken_for_those_of_the_other(cache, server):
    put_into_cache(cache, "model.safetensors", b"of timm")
    server.files["open_clip_model.safetensors"] = b"of open_clip"
    path = _hub.weights_of(PLACE, NAME.replace("timm", "open_clip"))
    assert path.read_bytes() == b"of open_clip"


def test_what_was_downloaded_once_is_not_asked_for_again(server):
    first = _hub.file_of(PLACE, "config.json", backbone=NAME)
    n_asked = len(server.asked)
    assert _hub.file_of(PLACE, "config.json", backbone=NAME) == first
    assert len(server.asked) == n_asked


def test_the_best_form_of_weights_that_a_repository_has_is_taken(server):
    server.files |= {"pytorch_model.bin": b"pickle"}
    assert _hub.weights_of(PLACE, NAME).name == "pytorch_model.bin"
    server.files |= {"open_clip_pytorch_model.bin": b"p", "open_clip_model.safetensors": b"t"}
    path = _hub.weights_of(PLACE, NAME.replace("timm", "open_clip"))
    assert path.name == "open_clip_model.safetensors"


def test_a_file_that_a_repository_lacks_is_none_and_remembered(server):
    assert _hub.look_for(PLACE, "tokenizer.json", backbone=NAME) is None
    n_asked = len(server.asked)
    _hub.file_of(PLACE, "config.json", backbone=NAME)
    assert _hub.look_for(PLACE, "tokenizer.json", backbone=NAME) is None
    assert all("tokenizer" not in path for _, path in server.asked[n_asked:])


def test_a_repository_without_weights_says_what_was_looked_for(server):
    with pytest.raises(ValueError, match=r"'hf-hub:org/net' does not hold any of model\.safetens"):
        _hub.weights_of(PLACE, NAME)


def test_a_revision_is_part_of_the_place(server):
    _hub.file_of(f"{PLACE}@v1", "config.json", backbone=NAME)
    assert all("/resolve/v1/config.json" in path for _, path in server.asked)


def test_half_a_download_is_not_taken_for_the_file(cache, server):
    server.files["model.safetensors"] = b"0123456789" * 5
    blobs = cache / "models--org--net" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "model.safetensors.incomplete").write_bytes(b"01234")
    assert _hub.weights_of(PLACE, NAME).read_bytes() == server.files["model.safetensors"]


@pytest.mark.parametrize(
    ("status", "code", "kind", "says"),
    [
        (401, "RepoNotFound", ValueError, "backbone='timm/hf-hub:org/net' is not on http"),
        (404, "RevisionNotFound", ValueError, "is not on http"),
        (
            403,
            "GatedRepo",
            PermissionError,
            "Accept its terms on http://127.*/org/net, then log in",
        ),
    ],
)
def test_what_the_hub_refuses_is_no_fault_of_the_network(server, status, code, kind, says):
    server.status, server.headers = status, {"X-Error-Code": code}
    with pytest.raises(kind, match=says):
        _hub.weights_of(PLACE, NAME)


@pytest.mark.parametrize("repository", ["a/b/c", "", "a b", "a/"])
def test_a_name_that_no_repository_can_have_is_an_error(repository, cache):
    with pytest.raises(ValueError, match="backbone='timm/hf-hub:.* is not on https?://"):
        _hub.weights_of(f"hf-hub:{repository}", f"timm/hf-hub:{repository}")


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_network(server, cache):
    cache.write_bytes(b"a file where the folder should be")
    with pytest.raises(OSError, match=str(cache)) as caught:
        _hub.config_of(PLACE, "config.json", NAME)
    assert not isinstance(caught.value, ConnectionError)


def test_a_proxy_of_the_environment_is_asked(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    let_hub_be_at("http://hub.invalid", monkeypatch)
    hub.close_session()
    assert _hub.config_of(PLACE, "config.json", NAME) == {}
    assert all(path.startswith("http://hub.invalid/org/net") for _, path in server.asked)


def test_a_missing_client_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="pip install --upgrade huggingface_hub"):
        _hub.weights_of(PLACE, NAME)


# Folders ----------------------------------------------------------------------------------------

FOLDER_NAME = "open_clip/local-dir:folder"


def test_a_folder_stands_for_a_repository(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "net"}), encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"tensors")
    place = f"local-dir:{tmp_path}"
    assert _hub.is_place(place)
    assert _hub.config_of(place, "config.json", FOLDER_NAME) == {"architecture": "net"}
    assert _hub.weights_of(place, FOLDER_NAME) == tmp_path / "model.safetensors"
    assert _hub.look_for(place, "tokenizer.json", backbone=FOLDER_NAME) is None


def test_weights_of_another_name_are_found_in_a_folder_if_they_are_the_only_ones(tmp_path):
    (tmp_path / "best.pth").write_bytes(b"")
    assert _hub.weights_of(f"local-dir:{tmp_path}", FOLDER_NAME).name == "best.pth"
    (tmp_path / "last.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is ambiguous: .* holds best\.pth, last\.pth\. Name"):
        _hub.weights_of(f"local-dir:{tmp_path}", FOLDER_NAME)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="local-dir:folder' names a folder that does not exist"
    ):
        _hub.weights_of(f"local-dir:{tmp_path / 'nowhere'}", FOLDER_NAME)


@pytest.mark.parametrize("content", ["{", "[1]", "\xff"])
def test_a_config_that_is_none_names_the_file(content, tmp_path):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"cannot be built: .*config\.json (is not JSON|holds no)"):
        _hub.config_of(f"local-dir:{tmp_path}", "config.json", FOLDER_NAME)


# Addresses --------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """The cache of torch.hub, empty."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def address(server, name="org/net/resolve/net.pth"):
    return f"http://127.0.0.1:{server.server_port}/{name}"


def test_an_address_is_downloaded_once(server, checkpoints, capsys):
    server.files["net.pth"] = b"0123456789"
    for _ in range(2):
        path = _hub.file_at(address(server), "resnet18")
        assert (path, path.read_bytes()) == (checkpoints / "net.pth", b"0123456789")
    assert [command for command, _ in server.asked] == ["HEAD", "GET"]
    assert capsys.readouterr().err == ""  # no terminal, no bar


def test_a_download_shows_a_bar_on_a_terminal(server, checkpoints, capsys, monkeypatch):
    server.files["net.pth"] = b"0123456789"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    _hub.file_at(address(server), "resnet18")
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("silence", ["mute", "dropping"])
@pytest.mark.usefixtures("impatient")
def test_an_address_that_is_silent_is_an_error_in_time(silence, checkpoints, request):
    url = f"http://{request.getfixturevalue(silence)}/resnet18-abc.pth"
    message = message_in_time(lambda: _hub.file_at(url, "resnet18"))
    for part in (url, str(checkpoints), "weights=...", "weights=None"):
        assert part in message


def test_a_download_with_another_digest_is_not_kept(server, checkpoints, capsys):
    server.files["net-0123456789.pth"] = b"0123456789"
    with pytest.raises(ConnectionError, match="invalid hash value"):
        _hub.file_at(address(server, "org/net/resolve/net-0123456789.pth"), "resnet18")
    assert list(checkpoints.iterdir()) == []


def test_an_address_where_nothing_is_says_so(server, checkpoints, capsys):
    with pytest.raises(ConnectionError, match=r"cannot be downloaded \(HTTP Error 404"):
        _hub.file_at(address(server, "nowhere.pth"), "resnet18")
