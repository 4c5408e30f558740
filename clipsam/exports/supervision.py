"""supervision: regions as `sv.Detections`, for its annotators, trackers, zones and sinks.

Input: regions of a photo, or a run. Output: `Detections` with boxes, masks [n, H, W], scores as confidence,
and the types as `class_name`. Needs the extra `supervision`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipsam.errors import MissingExtra
from clipsam.exports.inspected import InspectedRun

if TYPE_CHECKING:
    import supervision as sv

    from clipsam.result import Region


def detections_of(regions: Sequence[Region], classes: Sequence[str] | None = None) -> sv.Detections:
    """Regions of one photo as `Detections`, in their order.

    `class_id` counts through `classes`, by default through the types of these regions, sorted; across photos
    give the same `classes`, or go by `data["class_name"]`. Raises `MissingExtra` without supervision.
    """
    try:
        import supervision as sv
    except ImportError as error:
        raise MissingExtra("an export to supervision", "supervision") from error
    if not regions:
        return sv.Detections.empty()
    names = [region.defect for region in regions]
    numbers = {name: number for number, name in enumerate(classes or sorted(set(names)))}
    return sv.Detections(
        xyxy=np.array([region.box_xyxy for region in regions], dtype=np.float32),
        mask=np.stack([region.mask for region in regions]),
        confidence=np.array([region.score for region in regions], dtype=np.float32),
        class_id=np.array([numbers[name] for name in names]),
        data={"class_name": np.array(names), "area_px": np.array([region.area_px for region in regions])},
    )


def run_detections(folder: str | Path) -> Iterator[tuple[Path, sv.Detections]]:
    """Path and `Detections` of each photo of a run; `class_id` counts through the run's types, sorted."""
    run = InspectedRun(folder)
    for photo in run:
        yield photo.path, detections_of(photo.regions, run.defects)
