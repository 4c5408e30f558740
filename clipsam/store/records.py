"""What the store gives back: frozen records of runs, parts, regions, verdicts and moved thresholds.

A part is one photo in one run. Times are aware, in UTC. Knows nothing of databases.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

OK, NG, ERROR = "OK", "NG", "error"
DECISIONS = (OK, NG, ERROR)
CONFIRM, REJECT = "confirm", "reject"


@dataclass(frozen=True)
class Run:
    """A run as `Station.run` registers it: what its parts have in common."""

    id: int
    key: str  # the same for all sittings of the run
    kind: str  # inspect, watch, serve ...
    product: str
    station: str
    threshold: float | None  # on the score, of the calibration; None while nothing is calibrated
    folder: Path | None  # the run folder, to which `Part.files` are relative
    started: datetime
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredRegion:
    """A region of a part. `as_row` is what `Region.from_dict` reads."""

    id: int
    box_xyxy: tuple[int, int, int, int]
    area_px: int
    score: float
    defect: str
    rle: Mapping[str, Any]  # COCO's compressed run-length encoding: size and counts
    verdict: str | None = None  # the newest of this region: confirm, reject, or None

    def as_row(self) -> dict[str, Any]:
        return {
            "box_xyxy": list(self.box_xyxy),
            "area_px": self.area_px,
            "score": self.score,
            "defect": self.defect,
            "rle": dict(self.rle),
        }


@dataclass(frozen=True)
class Verdict:
    """What a reviewer said of a part (`region` None) or of one of its regions."""

    id: int
    part: int
    region: int | None
    reviewer: str
    time: datetime
    verdict: str  # confirm or reject, of what the store says
    comment: str = ""


@dataclass(frozen=True)
class Part:
    """A photo in a run. `regions` and `verdicts` are filled by `Station.part`, and by `parts` on request."""

    id: int
    run: int
    path: str
    sha256: str | None
    product: str
    station: str
    time: datetime
    score: float | None  # in [0, 1]; None where `decision` is "error"
    threshold: float | None
    decision: str | None  # OK, NG, error; None while nothing is calibrated
    flagged: bool  # NG, or while nothing is calibrated: some region passes the pixel threshold
    seconds: float | None
    error: Mapping[str, str] | None  # kind and message
    files: Mapping[str, str]  # pictures by kind, relative to the run folder
    folder: Path | None  # the run folder
    truth: bool | None  # whether the part is defective, after the newest verdict on its photo
    superseded: bool  # the same photo was inspected again later: that one counts
    degraded: bool = False  # by the coarse map alone, for want of time
    regions: tuple[StoredRegion, ...] = ()
    verdicts: tuple[Verdict, ...] = ()  # oldest first

    def as_row(self) -> dict[str, Any]:
        """The part as a row of `results.jsonl`, with its id, product and time."""
        common = {
            "id": self.id,
            "path": self.path,
            "sha256": self.sha256,
            "product": self.product,
            "station": self.station,
            "time": self.time.isoformat(),
            "truth": self.truth,
        }
        if self.error is not None:
            return common | {"error": dict(self.error)}
        return (
            common
            | {
                "score": self.score,
                "is_defective": None if self.decision is None else self.decision == NG,
                "threshold": self.threshold,
                "regions": [region.as_row() for region in self.regions],
                "seconds": self.seconds,
                "files": dict(self.files),
            }
            | ({"degraded": True} if self.degraded else {})
        )


@dataclass(frozen=True)
class WhatIf:
    """What another threshold would have changed on stored parts: defective is a score above `threshold`.

    `before` are the stored decisions, or flags while nothing was calibrated. False alarms and misses count
    parts whose truth is known from a verdict (`reviewed`).
    """

    threshold: float
    parts: int
    ng_before: int
    ng_after: int
    turned_ok: tuple[int, ...]  # ids, newest first, at most as many as asked for
    turned_ng: tuple[int, ...]
    turned_ok_count: int
    turned_ng_count: int
    reviewed: int
    false_alarms_before: int
    false_alarms_after: int
    misses_before: int
    misses_after: int

    def as_dict(self) -> dict[str, Any]:
        """The record as plain values."""
        return asdict(self)
