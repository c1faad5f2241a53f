"""Access control, and headers of every answer: the outermost layer of the server.

A page of another site can make a browser send requests here, and can let its own name resolve to
this machine. So the Host must be one of ours, the Origin our own, and the token is in a cookie that
the browser does not send for other sites.
"""

import hashlib
import logging
import secrets
from collections.abc import Collection
from html import escape
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sklearn_cbir.serve._answers import Failure, as_error

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOST_REQUESTS = 1000  # at once; a browser asks for six
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
OPEN = "/health"  # needs no token
SAFE = ("GET", "HEAD")

logger = logging.getLogger(__name__)


class Guard:
    """The server as others see it.

    Parameters
    ----------
    app : ASGI application
        What answers those who may ask.

    token : str or None
        What they have to know; None lets everybody in who reaches the server.

    hosts : collection of str
        Names that the server goes by, without ports.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str]) -> None:
        self.app, self.hosts = app, {host.lower() for host in hosts}
        self.token = None if token is None else token.encode()
        # Cookies are sent to all ports of a host: another server of ours has one of another name.
        self.cookie = f"cbir-{hashlib.sha256(self.token or b'').hexdigest()[:8]}"
        self.n_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it; what fails inside is said in one sentence."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # no web sockets
            await send({"type": "websocket.close", "code": 1008})
            return
        has_begun = False

        async def send_guarded(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        self.n_requests += 1
        try:
            answer = self._refusal(scope) or self._entry(scope)
            await (answer or self.app)(scope, receive, send_guarded)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if not has_begun:
                await on_fault()(scope, receive, send_guarded)
        finally:
            self.n_requests -= 1

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to whoever may not ask here at all."""
        headers = Headers(scope=scope)
        try:
            if self.n_requests > MOST_REQUESTS:
                raise Failure(503, "Too many requests at once. Try again.", {"Retry-After": "5"})
            self._check_host(headers)
            _check_origin(scope, headers)
        except Failure as failure:
            return as_error(failure)
        return None

    def _check_host(self, headers: Headers) -> None:
        """Raise unless the server goes by the name that it was asked by."""
        given = headers.getlist("host")
        if len(given) != 1 or _without_port(given[0]) not in self.hosts:
            raise Failure(
                421,
                "The server does not answer under this name. Open the address that it has "
                "printed, or start it with --name HOST.",
            )

    def _entry(self, scope: Scope) -> Response | None:
        """Return the answer to whoever shows no token, or shows it in the address; else None."""
        if self.token is None or scope["path"] == OPEN:
            return None
        headers = Headers(scope=scope)
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if given and scope["path"] == "/" and scope["method"] in SAFE:
            if self._is_token(given[0]):
                rest = urlencode([(name, value) for name, value in query if name != "token"])
                return self._let_in(headers, "/" + (f"?{rest}" if rest else ""))
        elif self._is_token(_shown(headers, self.cookie)):
            return None
        return as_error(
            Failure(
                401,
                "The token is missing or wrong. Open the whole address that cbir serve has "
                "printed, or send the token as Authorization: Bearer TOKEN.",
                {"WWW-Authenticate": "Bearer"},
            )
        )

    def _is_token(self, given: str) -> bool:
        assert self.token is not None
        return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), self.token)

    def _let_in(self, headers: Headers, address: str) -> Response:
        """Return the answer that hands out the cookie and leads to an address without the token."""
        assert self.token is not None
        if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
            answer: Response = RedirectResponse(address, 303)
        else:
            # A browser that came from elsewhere would not send the cookie along on a redirect.
            refresh = f'<meta http-equiv="refresh" content="0;url={escape(address)}">'
            answer = HTMLResponse(f"<!doctype html><title>cbir</title>{refresh}")
        answer.set_cookie(
            self.cookie, self.token.decode(), path="/", httponly=True, samesite="strict"
        )
        answer.headers["Cache-Control"] = "no-store"
        return answer


def on_fault(*_: object) -> Response:
    """Return the answer of a server that failed: it tells nothing of what happened."""
    return as_error(Failure(500, "The server failed. Its own output has the details."))


def _check_origin(scope: Scope, headers: Headers) -> None:
    """Raise if a page of another site asks; links to the page may lead here from anywhere."""
    own = {f"{scheme}://{headers['host'].lower()}" for scheme in ("http", "https")}
    for origin in headers.getlist("origin"):
        if origin.lower() not in own:
            raise Failure(
                403,
                "This request comes from another site. Open the page at the address that "
                "the server has printed.",
            )
    is_link = headers.get("sec-fetch-mode") == "navigate" and scope["method"] in SAFE
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_link:
        raise Failure(
            403, "This request comes from another site. Open the page at its own address."
        )


def _without_port(host: str) -> str:
    """Return a Host in small letters, without its port."""
    name, _, port = host.lower().rpartition(":")
    return name if name and port.isdecimal() and port.isascii() else host.lower()


def _shown(headers: Headers, cookie: str) -> str:
    """Return the token that a request carries, empty if it carries none."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    return cookie_parser(headers.get("cookie", "")).get(cookie, "")
