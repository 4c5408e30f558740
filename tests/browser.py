"""Headless Chromium for tests of pages: one browser per test session, and pages that are watched.

A watched page keeps its console errors and all addresses that it asked for. Where there is no Chromium or no
playwright, the tests that use it are skipped, and say why.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
LOCAL = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "http://localhost")


@dataclass
class Watched:
    """A page, what its console complained of and what it asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def assert_quiet(self) -> None:
        """No console error, no uncaught exception, and nothing that left the machine."""
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith(LOCAL)] == []


@contextmanager
def headless() -> Iterator[Any]:
    """A running Chromium (playwright's `Browser`), or a skipped test with the reason."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        pytest.skip(f"no Chromium on this machine; looked for {', '.join(NAMES)}")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def watched(browser: Any, **options: Any) -> Iterator[Watched]:
    """A page in a context of its own, with `options` of `new_context` (viewport, color_scheme ...)."""
    context = browser.new_context(**options)
    watch = Watched(context.new_page())
    watch.page.set_default_timeout(10_000)
    watch.page.on("pageerror", lambda error: watch.complaints.append(str(error)))
    watch.page.on("console", lambda said: said.type == "error" and watch.complaints.append(said.text))
    watch.page.on("request", lambda request: watch.requests.append(request.url))
    yield watch
    context.close()


def until(page: Any, script: str, seconds: float = 8.0) -> None:
    """Wait until the script is true. (Playwright's own waiting evaluates text; a strict page forbids it.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(script):
        assert time.monotonic() < end, f"never came true: {script}"
        page.wait_for_timeout(20)


def fits(page: Any, within: str = "html") -> bool:
    """Whether the page, or all that scrolls of what `within` selects, needs no scrolling to the side."""
    return page.evaluate(
        """selector => [...document.querySelectorAll(selector)].every(e => e.scrollWidth <= e.clientWidth
          || !(e === document.documentElement || /auto|scroll/.test(getComputedStyle(e).overflowX)))""",
        within,
    )
