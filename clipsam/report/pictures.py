"""What a page keeps of one photo, in a bounded number of bytes: picture, heat map, outlines, region table.

Input: a row of a run, the run's folder and manifest, a size. Output: a dictionary of plain values, for JSON,
as `viewer.js` takes it. The photo is read anew; where it is gone or has changed, the overlay that the run
kept stands in. Knows nothing of pages.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image, features

from clipsam.errors import PhotoError
from clipsam.images import read_photo
from clipsam.report.outlines import outline_path
from clipsam.result import Region
from clipsam.runs.manifest import Manifest
from clipsam.runs.pictures import read_map
from clipsam.runs.store import Row

SMALLEST, LARGEST = 6_000, 120_000  # bytes per photo, all together: still of use; no sharper on a screen
REGIONS = 12  # outlined and listed at SMALLEST; with more room up to four times as many
LONGEST = 1280  # pixels along the longer side of a picture
CLEAR = 16_000  # bytes of a picture, above which they are spent on clear pixels rather than on more
TRIES = 6
FORMAT = "WEBP" if features.check("webp") else "JPEG"


def pictured(run: Path, manifest: Manifest, row: Row, *, size: int, beside: Path) -> dict[str, Any]:
    """What a page shows of a photo; as JSON at most `size` bytes (at least `SMALLEST`), plus its file names.

    `beside` is the folder of the page: the link to the overlay in full size is relative to it.
    """
    image, note = _photo(run, manifest, row)
    if row.get("degraded"):
        note = f"Map and regions are those before SAM: there was no time for more. {note}".strip()
    width, height = _extent(row, image)
    found = {
        "width": width,
        "height": height,
        "regions": _regions(row, size),
        "more": max(0, len(row["regions"]) - _most(size)),
        "seconds": row.get("seconds"),
        "sha256": row["sha256"],
        "overlay": _link(run, row, beside),
        "note": note,
        "map": _map(run, row, size // 5),
    }
    fixed = found | {"overlay": "", "note": ""}
    room = size - len(json.dumps(fixed, separators=(",", ":"))) - 40
    return found | {"photo": None if image is None else encoded(image, room)}


def encoded(image: Image.Image, limit: int, density: float = 0.1) -> str | None:
    """The picture as a data URL of at most `limit` characters, as large as fits; None if nothing does.

    `density`: bytes per pixel for the first guess of the size, corrected by what comes out.
    """
    room = max(limit - 40, 0) * 3 // 4  # base64
    quality = 80 if room > CLEAR else 62
    whole = max(image.size)
    side = _side(image, room, density)
    image = image.copy()
    image.thumbnail((3 * side, 3 * side), Image.Resampling.BOX)  # once, so that no try starts from a huge one
    best: bytes | None = None
    for _ in range(TRIES):
        data, size = _compressed(image, side, quality)
        if len(data) <= room and (best is None or len(data) > len(best)):
            best = data
        if best is data and (side >= min(whole, LONGEST) or len(data) > 0.8 * room):
            break
        side = _side(image, 0.9 * room, len(data) / (size[0] * size[1]))
    if best is None:
        return None
    return f"data:image/{FORMAT.lower()};base64,{base64.b64encode(best).decode('ascii')}"


def _side(image: Image.Image, room: float, density: float) -> int:
    """How long the longer side may be, where so many bytes hold so many pixels."""
    part = math.sqrt(room / density / (image.width * image.height))
    return max(8, int(min(LONGEST, part * max(image.size), max(image.size))))


def _compressed(image: Image.Image, side: int, quality: int) -> tuple[bytes, tuple[int, int]]:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, FORMAT, quality=quality, method=2)  # method: the effort of WebP; JPEG has none
    return buffer.getvalue(), small.size


def _photo(run: Path, manifest: Manifest, row: Row) -> tuple[Image.Image | None, str]:
    """The photo as it was inspected, or the overlay and why."""
    try:
        photo = read_photo(row["path"], bit_depth=manifest.get("reading", {}).get("bit_depth"))
        if photo.sha256 == row["sha256"]:
            return Image.fromarray(photo.pixels), ""
        why = "The photo's file has changed since it was inspected"
    except PhotoError:
        why = "The photo is no longer where it was inspected"
    overlay = row.get("files", {}).get("overlay")
    try:
        with Image.open(run / overlay) as image:
            return image.convert("RGB"), f"{why}: this is the overlay that was made of it then."
    except (OSError, TypeError):
        return None, f"{why}, and the run kept no overlay of it."


def _extent(row: Row, image: Image.Image | None) -> tuple[int, int]:
    """Width and height of the photo in pixels."""
    if image is not None:
        return image.size
    if row["regions"]:
        height, width = row["regions"][0]["rle"]["size"]
        return width, height
    return 4, 3


def _regions(row: Row, size: int) -> list[dict[str, Any]]:
    """The table of regions, with outlines that share a quarter of the size; what the small ones leave, the
    large ones get."""
    kept = row["regions"][: _most(size)]
    room = size // 4 - 80 * len(kept)
    paths = {}
    for done, number in enumerate(sorted(range(len(kept)), key=lambda i: kept[i]["area_px"])):
        limit = min(max(room // (len(kept) - done), 60), 1500)
        paths[number] = outline_path(Region.from_dict(kept[number]), limit)
        room -= len(paths[number])
    return [
        {
            "defect": region["defect"],
            "score": round(region["score"], 3),
            "area": region["area_px"],
            "box": region["box_xyxy"],
            "path": paths[number],
        }
        for number, region in enumerate(kept)
    ]


def _most(size: int) -> int:
    return min(4, max(1, size // SMALLEST)) * REGIONS


def _map(run: Path, row: Row, limit: int) -> str | None:
    """The anomaly map as 8-bit grey, 255 = 1, small: it is smooth, and coloured by the page."""
    name = row.get("files", {}).get("map")
    try:
        values = read_map(run / name)
    except (OSError, TypeError):
        return None
    grey = Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))
    grey.thumbnail((320, 320), Image.Resampling.BOX)
    return encoded(grey.convert("RGB") if FORMAT == "WEBP" else grey, min(limit, 8_000), 0.04)


def _link(run: Path, row: Row, beside: Path) -> str:
    overlay = row.get("files", {}).get("overlay")
    if not overlay or not (run / overlay).is_file():
        return ""
    return quote(os.fsencode(os.path.relpath(run / overlay, beside).replace(os.sep, "/")))
