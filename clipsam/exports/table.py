"""CSV: one line per region, and one for a photo without regions.

Input: a run. Output: lines of the table, as dictionaries with the keys `COLUMNS`. Boxes are in pixels, the
last edges exclusive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clipsam.exports.inspected import InspectedRun

COLUMNS = (
    "path", "sha256", "width", "height", "score", "decision", "region", "defect", "region_score", "area_px",
    "x0", "y0", "x1", "y1",
)  # fmt: skip


def lines_of(run: InspectedRun) -> Iterator[dict[str, Any]]:
    """The lines of the table."""
    for photo in run:
        common = {
            "path": str(photo.path).encode("utf-8", "backslashreplace").decode("utf-8"),
            "sha256": photo.row["sha256"],
            "width": photo.width,
            "height": photo.height,
            "score": photo.row["score"],
            "decision": photo.decision,
        }
        for number, region in enumerate(photo.row["regions"], start=1):
            box = dict(zip(("x0", "y0", "x1", "y1"), region["box_xyxy"], strict=True))
            own = {"region": number, "defect": region["defect"], "region_score": region["score"]}
            yield common | own | {"area_px": region["area_px"]} | box
        if not photo.row["regions"]:
            yield common
