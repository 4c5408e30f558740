"""Styles and scripts of the pages: their text, and the content policy that allows just these.

Input: names of files beside this one. Output: text to put into a page. `tokens.css`, `viewer.css`,
`viewer.js` and `zoom.js` are for every page (the report, the review page of the service). Knows nothing of
runs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files


def asset(*names: str) -> str:
    """The files of these names, one after the other."""
    folder = files("clipsam.report")
    return "\n".join((folder / name).read_text("utf-8").strip() for name in names)


def content_policy(styles: Sequence[str], scripts: Sequence[str]) -> str:
    """A Content-Security-Policy for a page on its own: these inline texts, embedded pictures, nothing else.

    The texts must stand in the page as they are given: every byte between the tags counts.
    """
    return "; ".join(
        [
            "default-src 'none'",
            "img-src data:",
            f"style-src {' '.join(map(_hash, styles))}",
            f"script-src {' '.join(map(_hash, scripts))}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
