"""What stands before every request: who may ask, how much may come, and how long it may take.

Input: ASGI requests. Output: the same with their body read whole, or a refusal with a reason. Without a token
only this machine's own names are answered, so that no web page elsewhere can speak to the service through a
browser here. Knows nothing of photos.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clipsam.serve.limits import Limits

OPEN = frozenset({"/", "/healthz", "/readyz"})  # no data of the plant: may be read without a token
READS = frozenset({"GET", "HEAD"})
PIECE = 1 << 18  # bytes of a body that are looked at before others have their turn

LET_PASS_SECONDS, LET_PASS_PIECES = 2.0, 4096  # a piece is at most 64 kB

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class Refused(Exception):
    """A request that goes no further: HTTP status, kind and reason."""

    def __init__(self, status: int, kind: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.headers = status, kind, headers


def refusal(status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """A refusal as every error of the service looks."""
    return JSONResponse({"error": {"kind": kind, "message": message}}, status, headers)


class Guard:
    """ASGI middleware; `token` None: only loopback names are answered."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        token: str | None = None,
        on_refusal: Callable[[str], None] = lambda kind: None,
        on_answer: Callable[[str, int], None] = lambda route, status: None,
    ) -> None:
        self._app = app
        self._limits = limits
        self._token = None if token is None else token.encode()
        self._on_refusal = on_refusal
        self._on_answer = on_answer
        self._buffered = 0  # bytes of bodies in memory, promised or there
        self._active = 0  # requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        reserved = counted = 0
        send = _hardened(send, lambda status: self._on_answer(_route(scope), status))
        try:
            # Who has no token takes no room from those who have: a request counts from here on.
            self._check_caller(scope, headers)
            counted = 1
            self._active += counted
            if self._active > self._limits.requests:
                raise Refused(503, "busy", "too many requests at a time; try again", **{"Retry-After": "2"})
            reserved = 0 if _is_open(scope) else self._reserve(headers)
            body = await self._body(receive, reserved)
            await self._app(scope, replayed(body, receive), send)
        except Refused as reason:
            self._on_refusal(reason.kind)
            response: Response = refusal(reason.status, reason.kind, str(reason), reason.headers)
            if reason.status == 408:
                response.headers["Connection"] = "close"  # what is still coming is not wanted
            else:
                await _let_pass(receive)
            await response(scope, receive, send)
        finally:
            self._buffered -= reserved
            self._active -= counted

    def _check_caller(self, scope: Scope, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._token is None and not is_loopback(_name(host)):
            raise Refused(
                403, "wrong-host", "without a token the service answers to localhost and 127.0.0.1 only"
            )
        origin = headers.get("origin")
        if origin is not None and scope["method"] not in READS and urlsplit(origin).netloc != host:
            raise Refused(403, "wrong-origin", "a page of another site may not send anything here")
        if self._token is None or _is_open(scope):
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        # Compared as bytes in constant time: neither length of a match nor odd characters tell anything.
        if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._token):
            raise Refused(
                401,
                "no-token",
                "expected the header Authorization: Bearer TOKEN with the service's token",
                **{"WWW-Authenticate": "Bearer"},
            )

    def _reserve(self, headers: Headers) -> int:
        """Room in memory for the body, as long as it says it is, or as long as it may be."""
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "encoded", "a compressed body is not read; send the photo as it is")
        declared = headers.get("content-length")
        chunked = "transfer-encoding" in headers
        if declared is None and not chunked:
            return 0
        if declared is not None and not (declared.isascii() and declared.isdigit()):
            raise Refused(400, "bad-request", "Content-Length is no number")
        length = self._limits.upload_bytes if chunked or declared is None else int(declared)
        self._check_length(length)
        if self._buffered + length > self._limits.buffer_mb * 1e6:
            raise Refused(503, "busy", "too many uploads at a time; try again soon", **{"Retry-After": "2"})
        self._buffered += length
        return length

    def _check_length(self, length: int) -> None:
        if length > self._limits.upload_bytes:
            raise Refused(
                413,
                "too-large",
                f"the upload is larger than {self._limits.upload_mb:g} MB, the most that is read",
            )

    async def _body(self, receive: Receive, reserved: int) -> bytes:
        if reserved == 0:
            return b""
        chunks: list[bytes] = []
        length = 0
        try:
            async with asyncio.timeout(self._limits.upload_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "gone", "the sender left before the upload was whole")
                    chunks.append(message.get("body", b""))
                    length += len(chunks[-1])
                    self._check_length(length)
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError as error:
            raise Refused(
                408, "slow", f"the upload took longer than {self._limits.upload_seconds:g} s"
            ) from error


async def _let_pass(receive: Receive) -> None:
    """Throw away what is on its way, for a moment: who is cut off while sending never reads the reason."""
    try:
        async with asyncio.timeout(LET_PASS_SECONDS):
            for _ in range(LET_PASS_PIECES):
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone. No name but localhost is: others lead where they like."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_open(scope: Scope) -> bool:
    """Whether anyone may ask it. Such a request has no body that is read: strangers get no memory."""
    return scope["path"] in OPEN and scope["method"] in READS


def _name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def replayed(body: bytes, receive: Receive) -> Receive:
    """The body in pieces, then whatever comes. Between two pieces of a form, which takes long to read where
    it is made to, other requests have their turn.
    """
    ends = iter(range(PIECE, max(len(body), 1) + PIECE, PIECE))

    async def replay() -> Message:
        end = next(ends, None)
        if end is None:
            return await receive()
        await asyncio.sleep(0)
        return {"type": "http.request", "body": body[end - PIECE : end], "more_body": end < len(body)}

    return replay


def _route(scope: Scope) -> str:
    """The template of the route that answered, never what a client made up."""
    return str(getattr(scope.get("route"), "path", "other"))


def _hardened(send: Send, on_status: Callable[[int], None]) -> Send:
    """Answers with the headers that browsers need to be careful."""

    async def harden(message: Message) -> None:
        if message["type"] == "http.response.start":
            on_status(message["status"])
            present = {name.lower() for name, _ in message["headers"]}
            extra = [(name.lower().encode(), value.encode()) for name, value in SAFE_HEADERS.items()]
            extra = [(name, value) for name, value in extra if name not in present]
            message = {**message, "headers": [*message["headers"], *extra]}
        await send(message)

    return harden
