"""Region and Segmentation: what comes out for one photo, and how it is written down.

Input: maps, regions and scores of one photo. Output: frozen dataclasses, COCO run-length encodings, and
dictionaries for a row of `results.jsonl`. Region masks are stored as crops. Knows nothing of models,
folders or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

if TYPE_CHECKING:
    import supervision as sv


@dataclass(frozen=True, eq=False)
class Region:
    """A connected defect of a photo. Boxes name pixel edges: `photo[y0:y1, x0:x1]` is inside."""

    box_xyxy: tuple[int, int, int, int]  # x0, y0, x1, y1, the last two exclusive
    area_px: int
    score: float  # in [0, 1], from the anomaly map inside the region
    defect: str  # the type that explains the region best
    crop: NDArray[np.bool_]  # the region's pixels, [y1 - y0, x1 - x0]
    photo_size: tuple[int, int]  # height, width

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The region's pixels, bool [H, W] of the whole photo; built at every access."""
        x0, y0, x1, y1 = self.box_xyxy
        full = np.zeros(self.photo_size, dtype=bool)
        full[y0:y1, x0:x1] = self.crop
        return full

    def rle(self) -> dict[str, Any]:
        """COCO's compressed run-length encoding of `mask`: `size` [height, width] and `counts` (str)."""
        height, width = self.photo_size
        runs = {
            "size": [height, width],
            "counts": _column_runs(self.crop, self.box_xyxy[:2], self.photo_size),
        }
        encoded = coco.frPyObjects(runs, height, width)
        return {"size": [height, width], "counts": encoded["counts"].decode("ascii")}

    def to_dict(self) -> dict[str, Any]:
        """The region as it stands in a row of `results.jsonl`."""
        return {
            "box_xyxy": list(self.box_xyxy),
            "area_px": self.area_px,
            "score": self.score,
            "defect": self.defect,
            "rle": self.rle(),
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Region:
        """The region that `to_dict` wrote."""
        x0, y0, x1, y1 = (int(edge) for edge in row["box_xyxy"])
        height, width = row["rle"]["size"]
        full = coco.decode({"size": [height, width], "counts": row["rle"]["counts"].encode("ascii")})
        crop = full[y0:y1, x0:x1].astype(bool)
        box, score, defect = (x0, y0, x1, y1), float(row["score"]), str(row["defect"])
        return cls(box, int(row["area_px"]), score, defect, crop, (int(height), int(width)))


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What `AnomalySegmenter.segment` returns for one photo. All maps have the size of the photo."""

    score: float  # in [0, 1], of the whole photo
    anomaly_map: NDArray[np.float32]  # [H, W] in [0, 1]
    coarse_map: NDArray[np.float32]  # [H, W] in [0, 1], before SAM
    mask: NDArray[np.bool_]  # [H, W], the anomaly map at or above the pixel threshold
    regions: tuple[Region, ...]  # highest score first
    is_defective: bool | None = None  # None while nothing is calibrated
    timings: Mapping[str, float] = field(default_factory=dict)  # seconds per stage
    path: Path | None = None
    sha256: str | None = None  # of the file's bytes
    degraded: bool = False  # map, mask and regions are those before SAM: there was no time for more

    @property
    def seconds(self) -> float:
        """Seconds that the photo took, all stages together."""
        return sum(self.timings.values())

    def to_dict(self) -> dict[str, Any]:
        """The row of `results.jsonl`: JSON types only, maps left out."""
        return {
            "path": None if self.path is None else self.path.as_posix(),
            "sha256": self.sha256,
            "score": self.score,
            "is_defective": self.is_defective,
            "regions": [region.to_dict() for region in self.regions],
            "seconds": round(self.seconds, 4),
        } | ({"degraded": True} if self.degraded else {})

    def to_supervision(self) -> sv.Detections:
        """The regions as `Detections` of supervision: boxes, masks, scores, `data["class_name"]`.

        Raises `MissingExtra` where supervision is not installed.
        """
        from clipsam.exports.supervision import detections_of

        return detections_of(self.regions)


def _column_runs(crop: NDArray[np.bool_], corner: tuple[int, int], photo: tuple[int, int]) -> list[int]:
    """Lengths of the runs of 0 and 1, in turn, down the columns of the photo, which is never built."""
    (x0, y0), (height, width) = corner, photo
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), dtype=np.int8)
    columns[:, 1:-1] = crop.T
    steps = np.diff(columns, axis=1)
    starts, ends = (_places(steps == step, x0 * height + y0, height) for step in (1, -1))
    # A run that reaches the bottom goes on at the top of the next column.
    apart = starts[1:] != ends[:-1]
    starts, ends = starts[np.r_[True, apart]], ends[np.r_[apart, True]]
    edges = np.r_[0, np.stack([starts, ends], axis=1).ravel(), height * width]
    runs = np.diff(edges).tolist()
    return runs if runs[-1] else runs[:-1]


def _places(steps: NDArray[np.bool_], first: int, height: int) -> NDArray[np.intp]:
    """Where in the photo's columns, run together, the steps [w, h + 1] of a crop lie."""
    column, row = np.divmod(np.flatnonzero(steps), steps.shape[1])
    return first + column * height + row
