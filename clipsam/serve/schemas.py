"""The answers of the service as they stand in its OpenAPI. Input and output: plain values. Knows no HTTP."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from clipsam.runs.pictures import map_to_png

if TYPE_CHECKING:
    from clipsam.serve.worker import Inspected


class Strict(BaseModel):
    """A body or answer with no other fields than it says."""

    model_config = ConfigDict(extra="forbid")


class Reason(Strict):
    kind: str = Field(description="short and machine-readable", examples=["too-large"])
    message: str = Field(description="one sentence for a person")


class Error(Strict):
    error: Reason


class Rle(Strict):
    """COCO's compressed run-length encoding."""

    size: tuple[int, int] = Field(description="height and width")
    counts: str


class RegionOut(Strict):
    box_xyxy: tuple[int, int, int, int] = Field(description="pixel edges, the last two exclusive")
    area_px: int
    score: float = Field(ge=0, le=1)
    defect: str
    rle: Rle


class Inspection(Strict):
    """What was found on one photo."""

    sha256: str
    width: int
    height: int
    score: float = Field(ge=0, le=1)
    is_defective: bool | None = Field(description="null while nothing is calibrated")
    regions: list[RegionOut] = Field(description="the highest score first")
    seconds: float = Field(description="of decoding and the models")
    waited: float = Field(description="seconds in the queue")
    timings: dict[str, float] = Field(description="seconds per stage")
    map_png: str | None = Field(None, description="if asked for: 16-bit PNG, value / 65535, as base64")


class BatchItem(Strict):
    """One photo of a batch: a result, or the error of this photo alone."""

    index: int
    result: Inspection | None = None
    error: Reason | None = None


class Batch(Strict):
    results: list[BatchItem] = Field(description="in the order of the upload")


class Health(Strict):
    status: str = "ok"


def inspection(outcome: Inspected, *, with_map: bool = False) -> Inspection:
    """The answer for one photo."""
    result = outcome.result
    height, width = outcome.photo.pixels.shape[:2]
    values: dict[str, Any] = {
        **{name: getattr(result, name) for name in ("score", "is_defective")},
        "regions": [region.to_dict() for region in result.regions],
        "timings": {stage: round(seconds, 5) for stage, seconds in result.timings.items()},
    }
    return Inspection(
        sha256=outcome.photo.sha256 or "",
        width=width,
        height=height,
        seconds=round(outcome.seconds, 4),
        waited=round(outcome.waited, 4),
        map_png=b64encode(map_to_png(result.anomaly_map)).decode("ascii") if with_map else None,
        **values,
    )
