"""The server: the addresses and their answers."""

import hashlib
import mimetypes
import os
import re
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

from jinja2 import Environment, FunctionLoader, select_autoescape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from sklearn_cbir.collection import PhotoCollection
from sklearn_cbir.serve._answers import Failure, as_error, as_json
from sklearn_cbir.serve._body import LARGEST_JSON, LARGEST_UPLOAD, Bodies, check_type
from sklearn_cbir.serve._guard import LOOPBACK, Guard, on_fault
from sklearn_cbir.serve._jobs import DuplicatesJob, SyncJob
from sklearn_cbir.serve._pictures import (
    LARGEST_PHOTO,
    MOST_PIXELS,
    MOST_PIXELS_HERE,
    N_WORKERS,
    PHOTO,
    Pictures,
    Source,
    read,
)
from sklearn_cbir.serve._query import (
    LONGEST_PAGE,
    MOST_RESULTS,
    PAGE,
    Query,
    duplicates_of,
    page_of,
    parse,
    query_of,
    retry_of,
)
from sklearn_cbir.serve._search import Search, no_photo, source_in
from sklearn_cbir.serve._uploads import Uploads
from sklearn_cbir.serve._workers import Workers

API = "/api/v1"
LARGEST_NUMBER = 18  # digits
GATHERING, LONGEST_GATHERING = 0.002, 0.03  # seconds in which others may come that ask too


def create_app(
    collection: PhotoCollection, *, token: str | None, hosts: Collection[str] = LOOPBACK
) -> ASGIApp:
    """Return the server of a collection: the page and the JSON interface.

    Parameters
    ----------
    collection : PhotoCollection
        The collection to search. If it can be written, the page can sync it.

    token : str or None
        Secret that every request needs. None allows everybody: only for a server that nobody else
        can reach.

    hosts : collection of str, default=("127.0.0.1", "localhost", "[::1]")
        Names of the server that requests may use, without ports.

    Returns
    -------
    ASGI application
        Run it with an ASGI server such as uvicorn.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn_cbir.collection import PhotoCollection
    >>> from sklearn_cbir.descriptors import GISTDescriptor
    >>> from sklearn_cbir.serve import create_app
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with PhotoCollection.create(Path(folder, ".cbir"), folder, GISTDescriptor()) as photos:
    ...         app = create_app(photos, token="a secret")
    """
    return app_of(Server(collection), token, hosts)


def app_of(server: "Server", token: str | None, hosts: Collection[str]) -> ASGIApp:
    """Return a server behind its guard."""
    errors = {Failure: _on_failure, HTTPException: _on_http_error, Exception: on_fault}
    inner = Starlette(routes=server.routes(), lifespan=server.lifespan, exception_handlers=errors)
    return Guard(inner, token, hosts)


class Server:
    """The functions that answer requests, and the state that requests share.

    Parameters
    ----------
    collection : PhotoCollection
        The collection to search.
    """

    def __init__(self, collection: PhotoCollection) -> None:
        self.collection = collection
        self.uploads, self.bodies = Uploads(), Bodies()
        self.pictures = Pictures(collection.path, not collection.read_only)
        self.search_of = Search(collection, self.uploads, self.pictures)
        self.sync_job = SyncJob(collection, self.pictures)
        self.duplicates_job = DuplicatesJob(collection)
        self.engine, self.decoders = Workers(1, "cbir-search"), Workers(N_WORKERS, "cbir-decode")
        self.waiting: list[Query] = []  # searches that are not answered yet
        self.static = _static_files()
        self.version: str = import_module("sklearn_cbir").__version__
        loader = FunctionLoader(_template)
        self.templates = Environment(loader=loader, autoescape=select_autoescape(default=True))

    def routes(self) -> list[Route]:
        """Return the addresses."""
        return [
            Route("/", self.page),
            Route("/health", self.health),
            Route("/static/{name:path}", self.static_file),
            Route(f"{API}/state", self.state),
            Route(f"{API}/unreadable", self.unreadable),
            Route(f"{API}/search", self.search, methods=["POST"]),
            Route(f"{API}/facts/{{number}}", self.facts),
            Route(f"{API}/upload", self.upload, methods=["POST"]),
            Route(f"{API}/upload/{{name}}", self.uploaded),
            Route(f"{API}/duplicates", self.duplicates, methods=["POST"]),
            Route(f"{API}/sync", self.start_sync, methods=["POST"]),
            Route(f"{API}/sync", self.sync),
            Route(f"{API}/thumbnail/{{number}}", self.thumbnail),
            Route(f"{API}/photo/{{number}}", self.photo),
        ]

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """End what works when the server ends."""
        try:
            yield
        finally:
            self.engine.close()
            self.decoders.close()
            self.sync_job.stop()

    # Page ----------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """Answer the page."""
        shown = {"name": self.name, "version": self.version, "assets": self.assets}
        text = self.templates.get_template("index.html").render(shown)
        return HTMLResponse(text, headers={"Cache-Control": "no-store"})

    async def static_file(self, request: Request) -> Response:
        """Answer a file of the page; all of them are in memory, so that no path is opened."""
        name = request.path_params["name"]
        if name not in self.static:
            raise HTTPException(404)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(
            self.static[name], headers={"Cache-Control": "private, no-cache"}, media_type=kind
        )

    @property
    def assets(self) -> str:
        """A text that is another one when a file of the page is another."""
        parts = [name.encode() + content for name, content in sorted(self.static.items())]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:12]

    @property
    def name(self) -> str:
        """The name of the folder of photos."""
        place = self.collection.path
        hidden = os.path.basename(place).startswith(".")
        return os.path.basename(os.path.dirname(place) if hidden else place)

    async def health(self, request: Request) -> Response:
        """Answer that the server is there."""
        return as_json({"status": "ok", "version": self.version})

    # Questions -----------------------------------------------------------------------------------

    async def state(self, request: Request) -> Response:
        """Answer what the collection is."""
        found = await self.engine.run(self.search_of.state)
        limits = {
            "page": LONGEST_PAGE,
            "results": MOST_RESULTS,
            "upload_bytes": LARGEST_UPLOAD,
            "upload_pixels": MOST_PIXELS,
        }
        sync = self.sync_job.progress()
        return as_json({"name": self.name, **found, "limits": limits, "sync": sync})

    async def unreadable(self, request: Request) -> Response:
        """Answer which photos cannot be read, and why."""
        given = {
            name: _integer(request.query_params[name], name)
            for name in ("offset", "limit")
            if name in request.query_params
        }
        if not 1 <= given.get("limit", PAGE) <= LONGEST_PAGE:
            raise Failure(400, f"limit must be a number from 1 to {LONGEST_PAGE}.")
        return as_json(await self.engine.run(self.search_of.unreadable, page_of(given, PAGE)))

    async def search(self, request: Request) -> Response:
        """Answer a search."""
        query = query_of(await self._json(request))
        self.waiting.append(query)
        try:
            return as_json(await self.engine.run(self._search, query))
        finally:
            self.waiting.remove(query)

    def _search(self, query: Query) -> dict[str, Any]:
        n_before, until = 0, time.monotonic() + LONGEST_GATHERING
        if query.is_click and not self.search_of.has_found(query):
            while n_before < len(self.waiting) and time.monotonic() < until:
                n_before = len(self.waiting)
                time.sleep(GATHERING)
        return self.search_of.search(query, tuple(self.waiting))

    async def facts(self, request: Request) -> Response:
        """Answer what is known of a photo."""
        return as_json(await self.engine.run(self.search_of.facts, _number(request)))

    async def duplicates(self, request: Request) -> Response:
        """Answer groups of near-duplicates, or that they are being found."""
        asked = duplicates_of(await self._json(request))
        radius = asked.radius
        if radius is None:
            radius = await self.engine.run(lambda: self.search_of.duplicates_radius)
        if radius is None:
            raise Failure(
                400, "radius is missing: the extractor has no radius of its own. Pass one."
            )
        version = (await self.engine.run(self.search_of.catalogs.current)).version
        groups = self.duplicates_job.groups(version, radius, asked.where)
        if groups is None:
            return as_json({"state": "running"}, 202)
        page = asked.page
        return as_json(
            {
                "state": "done",
                "radius": radius,
                "n_groups": len(groups),
                "n_photos": sum(map(len, groups)),
                "offset": page.offset,
                "has_more": len(groups) > page.offset + page.limit,
                "groups": await self.engine.run(self.search_of.groups, groups, page),
            }
        )

    async def start_sync(self, request: Request) -> Response:
        """Begin a sync."""
        return as_json(self.sync_job.start(retry_of(await self._json(request))), 202)

    async def sync(self, request: Request) -> Response:
        """Answer how far the sync is."""
        return as_json(self.sync_job.progress())

    # Photos --------------------------------------------------------------------------------------

    async def upload(self, request: Request) -> Response:
        """Keep a photo."""
        check_type(request, "application/octet-stream", "image/")
        content = await self.bodies.read(request, LARGEST_UPLOAD)
        if not content:
            raise Failure(422, "The photo cannot be read: it has no bytes. Send the file itself.")
        width, height = await self.decoders.run(self.pictures.size_of, content)
        name = self.uploads.keep(content)
        try:
            await self.engine.run(self.search_of.take_in, name)
        except BaseException:
            self.uploads.drop(name)
            raise
        return as_json({"upload": name, "width": width, "height": height})

    async def uploaded(self, request: Request) -> Response:
        """Show a photo that was uploaded."""
        content, side = self.uploads.photo(request.path_params["name"]), _side(request)
        encoded = self.pictures.encoded
        shown = await self.decoders.run(encoded, content, side, "JPEG", MOST_PIXELS)
        return Response(shown, headers={"Cache-Control": "no-store"}, media_type="image/jpeg")

    async def thumbnail(self, request: Request) -> Response:
        """Show a photo of the collection, small."""
        source = await self.decoders.run(self._source, _number(request))
        headers = _kept_by(source.key)
        if _is_known(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        content = await self.decoders.run(self.pictures.thumbnail, source)
        return Response(content, headers=headers, media_type="image/webp")

    async def photo(self, request: Request) -> Response:
        """Show a photo of the collection, large."""
        side = _side(request)
        source = await self.decoders.run(self._source, _number(request))
        headers = _kept_by(f"{source.key}-{side}")
        if _is_known(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)

        def encoded() -> bytes:
            return self.pictures.encoded(read(source), side, "JPEG", MOST_PIXELS_HERE)

        content = await self.decoders.run(encoded)
        return Response(content, headers=headers, media_type="image/jpeg")

    def _source(self, number: int) -> Source:
        """Return the file of a photo, where it is now."""
        catalogs = self.search_of.catalogs
        catalog, at = catalogs.with_photo(number)
        if at is None:
            raise no_photo(number)
        try:
            return source_in(catalog, at)
        except Failure:
            newer = catalogs.current()
            at = newer.position(number)
            if newer is catalog or at is None:
                raise
            return source_in(newer, at)

    async def _json(self, request: Request) -> Any:
        check_type(request, "application/json")
        return parse(await self.bodies.read(request, LARGEST_JSON))


# Requests and answers ----------------------------------------------------------------------------


def _integer(text: str, name: str) -> int:
    if not re.fullmatch(f"[0-9]{{1,{LARGEST_NUMBER}}}", text):
        raise Failure(400, f"{name} must be a number from 0 on.")
    return int(text)


def _number(request: Request) -> int:
    """Return the number of the photo that an address names."""
    text = request.path_params["number"]
    if not re.fullmatch(f"[0-9]{{1,{LARGEST_NUMBER}}}", text):
        raise Failure(404, "There is no such photo: photos are named by their numbers.")
    return int(text)


def _side(request: Request) -> int:
    """Return how large a photo is shown."""
    side = _integer(request.query_params.get("side", str(PHOTO)), "side")
    if not 1 <= side <= LARGEST_PHOTO:
        raise Failure(400, f"side must be a number from 1 to {LARGEST_PHOTO:,}.")
    return side


def _kept_by(key: str) -> dict[str, str]:
    """Return what lets a browser keep a photo, as long as its file is the same."""
    return {"ETag": f'"{key}"', "Cache-Control": "private, no-cache"}


def _is_known(request: Request, tag: str) -> bool:
    """Say whether a browser has what it asks for."""
    given = request.headers.get("if-none-match", "")
    return tag in [one.strip().removeprefix("W/") for one in given.split(",")]


async def _on_failure(_: Request, failure: Exception) -> Response:
    assert isinstance(failure, Failure)
    return as_error(failure)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    said = {
        404: "There is no such address.",
        405: f"This address does not support {request.method}.",
    }
    message = said.get(error.status_code, f"{error.detail}.")
    return as_error(Failure(error.status_code, message, error.headers))


# Files of the package ----------------------------------------------------------------------------


def _template(name: str) -> str:
    return files("sklearn_cbir.serve").joinpath("templates", name).read_text(encoding="utf-8")


def _static_files() -> dict[str, bytes]:
    """Return the files of the page by their names below ``static``."""
    found: dict[str, bytes] = {}

    def look(folder: Traversable, before: str) -> None:
        for place in folder.iterdir():
            if place.is_dir():
                look(place, f"{before}{place.name}/")
            else:
                found[before + place.name] = place.read_bytes()

    look(files("sklearn_cbir.serve").joinpath("static"), "")
    return found
