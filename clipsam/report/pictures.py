"""What a page keeps of one photo, in a bounded number of bytes: picture, heat map, outlines, region table.

Input: a row of a run, the run's folder and manifest, a size. Output: a dictionary of plain values, for JSON,
as `viewer.js` takes it. The photo is read anew; where it is gone or has changed, the overlay that the run
kept stands in. Knows nothing of pages.
"""

from __future__ import annotations

import base64
import io
import json
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
SIDES = (64, 1280)  # pixels along the longer side of a picture, from and to
QUALITIES = (82, 66, 48, 30)
FORMAT = "WEBP" if features.check("webp") else "JPEG"


def pictured(run: Path, manifest: Manifest, row: Row, *, size: int, beside: Path) -> dict[str, Any]:
    """What a page shows of a photo; as JSON at most `size` bytes (at least `SMALLEST`), plus its file names.

    `beside` is the folder of the page: the link to the overlay in full size is relative to it.
    """
    image, note = _photo(run, manifest, row)
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


def encoded(image: Image.Image, limit: int) -> str | None:
    """The picture as a data URL of at most `limit` characters, as large and clear as fits; None if none
    does."""
    room = max(limit - 40, 0) * 3 // 4  # base64
    shortest, longest = SIDES
    # About 0.1 bytes per pixel is what a photo takes at a good quality: the first guess of the side.
    area = image.width * image.height
    side = min(longest, max(image.size), int((room / 0.1 / area) ** 0.5 * max(image.size)))
    while side >= min(shortest, max(image.size)) and side > 0:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
        for quality in QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, FORMAT, quality=quality)
            if buffer.tell() <= room:
                data = base64.b64encode(buffer.getvalue()).decode("ascii")
                return f"data:image/{FORMAT.lower()};base64,{data}"
        side = int(side * 0.75)
    return None


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
    kept = row["regions"][: _most(size)]
    each = size // 4 // max(len(kept), 1) - 80
    return [
        {
            "defect": region["defect"],
            "score": round(region["score"], 3),
            "area": region["area_px"],
            "box": region["box_xyxy"],
            "path": outline_path(Region.from_dict(region), min(max(each, 60), 1500)),
        }
        for region in kept
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
    return encoded(grey.convert("RGB") if FORMAT == "WEBP" else grey, min(limit, 8_000))


def _link(run: Path, row: Row, beside: Path) -> str:
    overlay = row.get("files", {}).get("overlay")
    if not overlay or not (run / overlay).is_file():
        return ""
    return quote(os.fsencode(os.path.relpath(run / overlay, beside).replace(os.sep, "/")))
