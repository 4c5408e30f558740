"""The review page as text, and the content policy that lets it load and do nothing but its own.

Input: the product. Output: HTML. Styles and scripts stand inline; those of the viewer are the report's.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipsam import __version__
from clipsam.report.assets import asset


@cache
def _parts() -> tuple[str, str]:
    """Style and script of the page."""
    own = files("clipsam.serve")
    read = {name: (own / name).read_text("utf-8").strip() for name in ("review.css", "review.js", "roi.js")}
    style = asset("tokens.css", "viewer.css") + "\n" + read["review.css"]
    return style, "\n".join([asset("viewer.js"), read["roi.js"], read["review.js"]])


@cache
def policy() -> str:
    """The Content-Security-Policy: these inline texts, pictures as data, requests to this service alone."""
    style, script = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in _parts())
    return "; ".join(
        [
            "default-src 'none'",
            "connect-src 'self'",
            "img-src data: blob:",
            f"style-src 'sha256-{style}'",
            f"script-src 'sha256-{script}'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )


@cache
def page_text(product: str, *, needs_token: bool) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("clipsam.serve", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _parts()
    facts = json.dumps({"token": needs_token}).replace("<", "\\u003c")
    return environment.get_template("review.html.j2").render(
        product=product,
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        facts=Markup(facts),
    )
