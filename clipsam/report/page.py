"""The report: one self-contained HTML page of a run, with no script and nothing to load.

Input: a run folder, finished or not. Output: `report.html`. Shows the counts, how the scores spread, the
photos by score as embedded pictures, what could not be read, settings and hashes. Knows nothing of models.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from clipsam.errors import RunError
from clipsam.runs.manifest import STORY, Manifest, read_manifest, story_of
from clipsam.runs.store import Row, is_suspicious, ranked, read_rows

THUMBNAIL = 560  # pixels along the longer side: about 30 kB, and a label can still be read
BINS = 40  # of the histogram of scores over [0, 1]


@dataclass(frozen=True)
class Card:
    """One photo in the gallery."""

    name: str
    score: float
    suspicious: bool
    regions: int
    defects: str
    picture: str  # a data URL, or empty
    link: str  # to the picture in full size, relative to the page; or empty


@dataclass(frozen=True)
class Bar:
    """Photos with a score in one bin of [0, 1]; heights are fractions of the tallest bar."""

    left: float
    suspicious: float
    clean: float
    title: str


def write_report(run: str | Path, out: str | Path | None = None, *, limit: int = 120) -> Path:
    """Write the page of a run (`run`/report.html by default) and give its path.

    The `limit` photos with the highest scores get a picture. Raises `RunError` when `run` is no run folder.
    """
    run = Path(run)
    out = run / "report.html" if out is None else Path(out)
    manifest = read_manifest(run)
    rows = read_rows(run / "results.jsonl")
    page = _page(run, out, manifest, rows, limit)
    try:
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{out}: the report cannot be written: {error.strerror}") from error
    return out


def _page(run: Path, out: Path, manifest: Manifest, rows: list[Row], limit: int) -> str:
    environment = Environment(
        loader=PackageLoader("clipsam.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["shown"] = shown
    ordered = ranked(rows)
    settings = {key: value for key, value in manifest.items() if key not in STORY}
    return environment.get_template("page.html.j2").render(
        title=run.resolve().name,
        manifest=manifest,
        story=story_of(rows),
        cards=[_card(run, out, manifest, row) for row in ordered[:limit]],
        scored=len(ordered),
        bars=histogram(ordered),
        threshold=manifest.get("pixel_threshold"),
        errors=[row for row in rows if "error" in row],
        settings=list(_leaves(settings)),
        versions=manifest["versions"],
    )


def shown(text: str) -> str:
    """Text that can be written as UTF-8, even when it is a file name of other bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def histogram(rows: Iterable[Row]) -> list[Bar]:
    """How the scores spread over [0, 1], suspicious photos apart from the others."""
    suspicious, clean = [0] * BINS, [0] * BINS
    for row in rows:
        side = suspicious if is_suspicious(row) else clean
        side[min(int(row["score"] * BINS), BINS - 1)] += 1
    tallest = max(map(sum, zip(suspicious, clean, strict=True)))
    return [
        Bar(
            left=i / BINS,
            suspicious=suspicious[i] / tallest,
            clean=clean[i] / tallest,
            title=f"{i / BINS:.3f} to {(i + 1) / BINS:.3f}: {suspicious[i] + clean[i]} photos",
        )
        for i in range(BINS)
        if suspicious[i] + clean[i]
    ]


def _card(run: Path, out: Path, manifest: Manifest, row: Row) -> Card:
    path = Path(row["path"])
    root = Path(manifest["root"])
    overlay = row.get("files", {}).get("overlay")
    picture = _thumbnail(run / overlay) if overlay else ""
    relative = os.path.relpath(run / overlay, out.parent) if picture else ""
    return Card(
        name=str(path.relative_to(root) if path.is_relative_to(root) else path),
        score=row["score"],
        suspicious=is_suspicious(row),
        regions=len(row["regions"]),
        defects=", ".join(dict.fromkeys(region["defect"] for region in row["regions"])),
        picture=picture,
        link=quote(os.fsencode(relative.replace(os.sep, "/"))),
    )


def _thumbnail(path: Path) -> str:
    """A JPEG data URL of a picture, scaled down; empty when the picture is gone."""
    try:
        with Image.open(path) as image:
            image.draft("RGB", (THUMBNAIL, THUMBNAIL))
            small = image.convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    except OSError:
        return ""
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key in value:
            yield from _leaves(value[key], f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    else:
        yield name, "-" if value is None else str(value)
