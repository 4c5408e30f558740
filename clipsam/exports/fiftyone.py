"""FiftyOne: photos of a run as samples, with regions as detections that have masks, and the map to look at.

Input: a run folder. Output: `fo.Sample`s, for `Dataset.add_samples`. Needs the extra `fiftyone`, which
brings a database server of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from clipsam.errors import MissingExtra
from clipsam.exports.inspected import InspectedPhoto, InspectedRun
from clipsam.result import Region

if TYPE_CHECKING:
    import fiftyone as fo


def samples_of(folder: str | Path, field: str = "clipsam") -> Iterator[fo.Sample]:
    """A sample per photo, by default with the fields `clipsam` (detections), `clipsam_decision`,
    `clipsam_score`, and `clipsam_map` (the anomaly map) where the run keeps 16-bit PNGs.

    Raises `MissingExtra` without FiftyOne, `RunError` where the folder holds no run.
    """
    try:
        import fiftyone as fo
    except ImportError as error:
        raise MissingExtra("an export to FiftyOne", "fiftyone") from error
    run = InspectedRun(folder)
    for photo in run:
        sample = fo.Sample(filepath=str(photo.path.absolute()), tags=[photo.decision])
        sample[field] = fo.Detections(detections=[_detection(fo, photo, r) for r in photo.regions])
        sample[f"{field}_decision"] = fo.Classification(label=photo.decision)
        sample[f"{field}_score"] = photo.row["score"]
        picture = photo.row.get("files", {}).get("map", "")
        if picture.endswith(".png"):
            path = str((run.folder / picture).absolute())
            sample[f"{field}_map"] = fo.Heatmap(map_path=path, range=[0, 65535])
        yield sample


def _detection(fo: object, photo: InspectedPhoto, region: Region) -> fo.Detection:
    """Boxes are x, y, width, height in fractions of the photo, masks those of the box."""
    x0, y0, x1, y1 = region.box_xyxy
    box = [x0 / photo.width, y0 / photo.height, (x1 - x0) / photo.width, (y1 - y0) / photo.height]
    return fo.Detection(  # type: ignore[attr-defined]
        label=region.defect,
        bounding_box=box,
        mask=region.crop,
        confidence=region.score,
        area_px=region.area_px,
    )
