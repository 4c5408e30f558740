"""The report: one self-contained HTML page of a run, to be opened from a file, with nothing to load.

Input: a run folder, finished or not. Output: `report.html`: counts, how the scores spread, a gallery of all
photos that can be searched, sorted and filtered, each with its heat map and outlines, what could not be read,
settings and hashes. The page is written photo by photo and never held in memory. Knows nothing of models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from clipsam.errors import PhotoError, RunError, UsageError
from clipsam.images import photo_size
from clipsam.remote import as_path
from clipsam.report.assets import asset, content_policy
from clipsam.report.histogram import histogram, kinds
from clipsam.report.pictures import LARGEST, SMALLEST, pictured
from clipsam.runs.ahead import map_ahead
from clipsam.runs.manifest import STORY, Manifest, read_manifest, story_of
from clipsam.runs.store import Row, is_suspicious, ranked, read_rows

STYLES = ("tokens.css", "viewer.css", "page.css")
SCRIPTS = ("viewer.js", "zoom.js", "gallery.js", "page.js")
MAX_MB = 100.0
PIXELS_IN_FLIGHT = 48e6  # of photos that are made small at a time; a larger one comes alone


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    limit: int | None = None,
    max_mb: float = MAX_MB,
    on_photo: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the page of a run (`run`/report.html by default) and give its path.

    All photos are listed. `limit`: only so many, those with the highest scores, get a picture. `max_mb`: the
    pictures share this many million bytes, 6 to 120 kB each; where 6 kB are too much, again the highest
    scores win. `on_photo(done, of)` is called after each. Raises `RunError` when `run` is no run folder and
    `UsageError` for a `max_mb` that is not positive.
    """
    if not max_mb > 0:
        raise UsageError(f"the report cannot take {max_mb:g} MB; expected a positive number")
    run = Path(run)
    out = run / "report.html" if out is None else Path(out)
    manifest = read_manifest(run)
    rows = read_rows(run / "results.jsonl")
    ordered = [*ranked(rows), *(row for row in rows if "error" in row)]
    count, size = _shares(sum("error" not in row for row in rows), limit, max_mb)
    pictures = _pictures(run, manifest, ordered[:count], size, out.resolve().parent, on_photo)
    fresh = out.with_name(out.name + ".new")
    try:
        with fresh.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(_page(run, manifest, ordered, count, pictures))
        os.replace(fresh, out)
    except OSError as error:
        raise RunError(f"{out}: the report cannot be written: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)
    return out


def shown(text: str) -> str:
    """Text that can be written as UTF-8, even when it is a file name of other bytes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _shares(photos: int, limit: int | None, max_mb: float) -> tuple[int, int]:
    """How many photos get a picture, and how many bytes each."""
    room = int(max_mb * 1e6)
    count = min(photos if limit is None else limit, photos, room // SMALLEST)
    return count, min(LARGEST, room // count) if count else SMALLEST


def _page(
    run: Path, manifest: Manifest, rows: list[Row], count: int, pictures: Iterable[Markup]
) -> Iterator[str]:
    environment = Environment(
        loader=PackageLoader("clipsam.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    style, script = asset(*STYLES), asset(*SCRIPTS)
    bars, tallest = histogram(rows)
    calibration = manifest.get("calibration") or {}
    calibrated = bool(calibration) or any(row.get("is_defective") is not None for row in rows)
    words = {"ng": "NG", "ok": "OK"} if calibrated else {"ng": "suspicious", "ok": "nothing found"}
    threshold = calibration.get("pixel_threshold", manifest.get("pixel_threshold"))
    settings = {key: value for key, value in manifest.items() if key not in STORY}
    return environment.get_template("page.html.j2").generate(
        title=run.resolve().name,
        policy=content_policy([style], [script]),
        style=Markup(style),
        script=Markup(script),
        manifest=manifest,
        story=story_of(rows),
        calibrated=calibrated,
        calibration=calibration,
        drift=_drift(manifest),
        words=words,
        threshold=threshold,
        facts=_json({"words": words, "threshold": 0.5 if threshold is None else threshold}),
        marks=_marks(manifest),
        bars=bars,
        tallest=tallest,
        kinds=kinds(rows),
        scored=sum("error" not in row for row in rows),
        pictured=count,
        index=_json([_entry(manifest, row) for row in rows]),
        pictures=pictures,
        settings=list(_leaves(settings)),
        versions=manifest["versions"],
    )


@dataclass(frozen=True)
class Mark:
    """A threshold in the picture of the scores."""

    at: float
    title: str


def _marks(manifest: Manifest) -> list[Mark]:
    if calibration := manifest.get("calibration"):
        at = calibration["score_threshold"]
        return [Mark(at, f"calibrated threshold {at:.4g}")]
    if (at := manifest.get("pixel_threshold")) is None:
        return []
    return [Mark(at, f"threshold of the map {at:.2f}")]


def _drift(manifest: Manifest) -> str:
    """The last warning of the run that passed parts differ from the calibration's; or nothing."""
    warnings = (manifest.get("drift") or {}).get("warnings")
    return str(warnings[-1]["sentence"]) if warnings else ""


def _entry(manifest: Manifest, row: Row) -> dict[str, Any]:
    """What the gallery sorts, filters and searches by."""
    name = _name(manifest, row)
    if "error" in row:
        message = row["error"]["message"].removeprefix(f"{row['path']}: ")
        return {"name": name, "state": "error", "kind": row["error"]["kind"], "message": shown(message)}
    return {
        "name": name,
        "state": "ng" if is_suspicious(row) else "ok",
        "score": round(row["score"], 4),
        "types": list(dict.fromkeys(region["defect"] for region in row["regions"])),
        "regions": len(row["regions"]),
        "area": sum(region["area_px"] for region in row["regions"]),
    }


def _name(manifest: Manifest, row: Row) -> str:
    path, root = as_path(row["path"]), as_path(manifest["root"])
    return shown(path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path))


def _pictures(
    run: Path,
    manifest: Manifest,
    rows: list[Row],
    size: int,
    beside: Path,
    on_photo: Callable[[int, int], None] | None,
) -> Iterator[Markup]:
    """The pictures of each row in order, as JSON; made in threads, a few ahead."""
    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, "report") as pool:
        work = partial(pictured, run, manifest, size=size, beside=beside)
        made = map_ahead(pool, work, rows, weight=_pixels, depth=2 * workers, limit=PIXELS_IN_FLIGHT)
        for done, picture in enumerate(made, start=1):
            yield _json(picture)
            if on_photo is not None:
                on_photo(done, len(rows))


def _pixels(row: Row) -> float:
    try:
        width, height = photo_size(row["path"])
    except PhotoError:  # it is gone: the overlay that stands in is as large
        height, width = row["regions"][0]["rle"]["size"] if row["regions"] else (0, 0)
    return float(width * height)


def _json(value: Any) -> Markup:
    """JSON that may stand in a script element, whatever it holds."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("&", "\\u0026"))


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key in value:
            yield from _leaves(value[key], f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(map(str, value))
    else:
        yield name, "-" if value is None else str(value)
