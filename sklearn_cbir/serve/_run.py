"""`run`: a server on this machine, until Ctrl-C."""

import logging
import secrets
import socket
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from threading import Thread
from typing import Any

import uvicorn

from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.serve._app import Server, app_of
from sklearn_cbir.serve._guard import LOOPBACK

PORT = 8642
EVERYWHERE = ("0.0.0.0", "::", "")


def run(
    collection: PhotoCollection,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    token: bool = True,
    browser: bool = True,
    names: Sequence[str] = (),
) -> None:
    """Serve a collection until Ctrl-C.

    The address is printed on standard error when the server answers. There is no encryption: from
    another machine, use a tunnel such as ``ssh -L 8642:localhost:8642 MACHINE``.

    Parameters
    ----------
    collection : PhotoCollection
        The collection to search. If it can be written, the page can sync it.

    host : str, default="127.0.0.1"
        Address of this machine to listen at. With any other than a local address, other machines
        can reach the server. Requests may name the server by this address.

    port : int, default=8642
        Port, or 0 for a free one. If 8642 is in use, the server takes a free port.

    token : bool, default=True
        Whether requests need the token in the printed address. False is an error unless `host`
        is local.

    browser : bool, default=True
        Whether to open the page in the browser.

    names : sequence of str, default=()
        More names of the server that requests may use, such as the name of this machine in its
        network.

    Raises
    ------
    ValueError
        If `token` is False and other machines can reach the server, or if `host` means all
        addresses and there are no `names`.

    OSError
        If the port is taken.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_cbir.collection import PhotoCollection
    >>> from sklearn_cbir.descriptors import GISTDescriptor
    >>> from sklearn_cbir.serve import run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     photos = PhotoCollection.create(Path(folder, ".cbir"), folder, GISTDescriptor())
    ...     try:
    ...         run(photos, host="192.168.1.5", token=False)
    ...     except ValueError as error:
    ...         print(str(error).partition(". ")[0])
    host='192.168.1.5' can be reached by others, so a token is needed
    """
    is_local = host in ("127.0.0.1", "localhost", "::1")
    if not is_local and not token:
        raise ValueError(
            f"host={host!r} can be reached by others, so a token is needed. Leave token=False "
            "out, or serve on 127.0.0.1."
        )
    if host in EVERYWHERE and not names:
        raise ValueError(
            f"host={host!r} means all addresses of this machine. Pass one of them, or names=."
        )
    listening = _listening(host, port)
    secret = secrets.token_urlsafe(32) if token else None
    known = [*LOOPBACK, *(() if host in EVERYWHERE else (_in_address(host),)), *names]
    with listening:
        server = Server(collection)
        server.search_of.prepare()  # before the address is printed: the first screen does not wait
        app = app_of(server, secret, known)
        shown = _in_address(names[0] if host in EVERYWHERE else host)
        address = f"http://{shown}:{listening.getsockname()[1]}/"
        _serve(app, listening, address + (f"?token={secret}" if secret else ""), browser)


class _Server(uvicorn.Server):
    """A server that says when it answers."""

    def __init__(self, config: uvicorn.Config, address: str, browser: bool) -> None:
        super().__init__(config)
        self.address, self.browser = address, browser

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"Serving at {self.address}", "Ctrl-C ends it.", sep="\n", file=sys.stderr)
            sys.stderr.flush()
            if self.browser:
                opening: Any = webbrowser.open
                Thread(target=opening, args=(self.address,), daemon=True).start()


def _serve(app: Any, listening: socket.socket, address: str, browser: bool) -> None:
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,  # addresses hold tokens
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
    )
    with suppress(KeyboardInterrupt):  # which the server raises again when it has ended
        _Server(config, address, browser).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(sys.platform != "win32"))
    try:
        try:
            found.bind((host, port))
        except OSError:
            if port != PORT:
                raise
            found.bind((host, 0))
        found.listen(128)
    except OSError as error:
        found.close()
        raise OSError(
            error.errno,
            f"Port {port} of {host!r} cannot be used ({error.strerror}). Give another one, or 0 "
            "for one that is free",
        ) from error
    found.set_inheritable(True)
    return found


def _in_address(host: str) -> str:
    """Return a host as it stands in an address."""
    return f"[{host}]" if ":" in host else host
