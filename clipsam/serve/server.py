"""The service on a socket: uvicorn, with a limit on how long the head of a request may take.

Input: the app, an address, limits. Output: a server to run. Knows nothing of photos.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from clipsam.errors import UsageError
from clipsam.serve.guard import is_loopback
from clipsam.serve.limits import Limits

SHORTEST_TOKEN = 16


def token_for(host: str, token_file: Path | None) -> str | None:
    """The token from the file or $CLIPSAM_TOKEN; `UsageError` where one is needed and there is none."""
    token = os.environ.get("CLIPSAM_TOKEN")
    if token_file is not None:
        try:
            token = token_file.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the token file {token_file} cannot be read: {error}") from error
    if not token:
        if is_loopback(host) and token_file is None:
            return None
        raise UsageError(
            f"{host} can be reached from other machines, and there is no token; put one of at least "
            f"{SHORTEST_TOKEN} characters into a file for --token-file, or into CLIPSAM_TOKEN, or serve on "
            "127.0.0.1"
        )
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"the token has {len(token)} characters; expected {SHORTEST_TOKEN} or more, ASCII, without "
            "spaces, such as python -c 'import secrets; print(secrets.token_urlsafe())' gives"
        )
    return token


def make_server(app: ASGIApp, host: str, port: int, limits: Limits, **tls: Any) -> uvicorn.Server:
    """A server that is ready to `run`. It ends on SIGTERM and SIGINT."""

    class Impatient(H11Protocol):
        """Closes a connection whose request head does not come to its end in time."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._arm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._disarm()
            elif self._timer is None:
                self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def _arm(self) -> None:
            self._timer = self.loop.call_later(limits.header_seconds, self._expire)

        def _disarm(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _expire(self) -> None:
            self._timer = None
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self.transport.close()

    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=4 * limits.requests,  # of connections, idle ones too; requests are the guard's
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=16_384,
        **tls,
    )
    return uvicorn.Server(config)
