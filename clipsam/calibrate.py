"""Calibration: thresholds on the score and on the map, with a promised false-alarm rate.

Input: a segmenter, photos of good parts, a rate; photos of bad parts if there are any. Output: a
`Calibration`, which says of a score whether the part is defective and belongs to one setup: weights, prompts,
preset, settings, region of interest. The statistics are `conformal.py`, the file is `calibration_files.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clipsam.companions import KEPT, references_from
from clipsam.conformal import (
    CONFIDENCE,
    conformal_threshold,
    expected_rate,
    fewest_photos,
    percent,
    rate_bound,
    rate_of,
    share_interval,
    threshold_rank,
)
from clipsam.differences import differences
from clipsam.errors import CalibrationError, PhotoError, UsageError
from clipsam.fusion import region_peak
from clipsam.hashes import file_sha256
from clipsam.images import read_photo

# What a segmenter's manifest says beside what decides its scores; device and compiled code round otherwise.
NOT_BOUND = {"device", "compiled", "pixel_threshold", "calibration", "calibration_id"}


class Segmenter(Protocol):
    """What a calibration needs of `AnomalySegmenter`."""

    def segment(self, image: Any) -> Any: ...

    def manifest(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class PhotoScore:
    """What the segmenter said of one photo: its score, and the highest map value at which a region is found
    (smaller ones than the preset's least area do not count); both in [0, 1].
    """

    name: str
    sha256: str
    score: float
    peak: float


@dataclass(frozen=True)
class MissRate:
    """Of `count` known bad photos, `missed` pass; the share lies in `interval` with 95 % confidence."""

    missed: int
    count: int

    @property
    def rate(self) -> float:
        return self.missed / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """After Clopper and Pearson; holds for bad parts like these."""
        return share_interval(self.missed, self.count)


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of good photos, the rate that is promised on them, and the setup that gave them.

    `setup` is the segmenter's manifest without what does not decide scores; `bit_depth` is how the photos
    were read. Raises `CalibrationError` at once where the photos are too few for the rate.
    """

    false_alarms: Fraction
    good: tuple[PhotoScore, ...]
    setup: Mapping[str, Any]
    bad: tuple[PhotoScore, ...] = ()
    bit_depth: int | None = None
    created: str = ""

    def __post_init__(self) -> None:
        threshold_rank(len(self.good), self.false_alarms)

    @cached_property
    def score_threshold(self) -> float:
        """A part is defective where its score is above this, strictly."""
        return conformal_threshold([photo.score for photo in self.good], self.false_alarms)

    @cached_property
    def pixel_threshold(self) -> float:
        """A pixel is flagged where the map is above this, strictly: a threshold on each photo's highest
        region, so that at most the asked share of good photos gets any pixel flagged at all.
        """
        return conformal_threshold([photo.peak for photo in self.good], self.false_alarms)

    @property
    def pixel_cut(self) -> float:
        """The lowest map value that is flagged: the next float32 above the threshold (above 1 for 1)."""
        return float(np.nextafter(np.float32(self.pixel_threshold), np.float32(2)))

    @property
    def product(self) -> str:
        return str(self.setup.get("product", "object"))

    @cached_property
    def id(self) -> str:
        """16 hex digits of all that decides: rate, scores, setup."""
        facts = [
            str(self.false_alarms),
            [[photo.sha256, photo.score, photo.peak] for photo in self.good],
            self.setup,
            self.bit_depth,
        ]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def is_defective(self, score: float) -> bool:
        """The verdict on a part with this score."""
        return score > self.score_threshold

    def at(self, false_alarms: str | float | Fraction) -> Calibration:
        """The same good photos with another promise; `CalibrationError` where they are too few for it."""
        return replace(self, false_alarms=rate_of(false_alarms))

    def false_alarms_at(self, threshold: float) -> float:
        """The false-alarm rate that the good photos can promise for this score threshold, in (0, 1].

        (1 + how many of them score above it) / (n + 1): what `at` would have to be asked for.
        """
        return (1 + sum(photo.score > threshold for photo in self.good)) / (len(self.good) + 1)

    @property
    def missed(self) -> MissRate | None:
        """Known bad photos whose score passes; None where there are none."""
        return self._misses([photo.score <= self.score_threshold for photo in self.bad])

    @property
    def unmarked(self) -> MissRate | None:
        """Known bad photos without a flagged pixel; None where there are none."""
        return self._misses([photo.peak <= self.pixel_threshold for photo in self.bad])

    def _misses(self, passed: list[bool]) -> MissRate | None:
        return MissRate(sum(passed), len(passed)) if passed else None

    def check(self, manifest: Mapping[str, Any]) -> None:
        """`CalibrationError` that says what differs, unless this was made with the setup of `manifest`."""
        if changed := differences(self.setup, bound(manifest)):
            raise CalibrationError(
                f"the calibration {self.id} was made with another setup: {', '.join(changed)}; use what it "
                "was made with, or calibrate anew"
            )

    def check_reading(self, bit_depth: int | None) -> None:
        """The same for how photos are read."""
        if bit_depth != self.bit_depth:
            raise CalibrationError(
                f"the calibration {self.id} was made with --bit-depth {self.bit_depth or 'left out'}, and "
                f"photos are to be read with {bit_depth or 'none'}; use the same, or calibrate anew"
            )

    def manifest(self) -> dict[str, Any]:
        """What stands in `run.json`."""
        return {
            "id": self.id,
            "false_alarms": float(self.false_alarms),
            "score_threshold": self.score_threshold,
            "pixel_threshold": self.pixel_threshold,
            "good_photos": len(self.good),
            "created": self.created,
        }

    @property
    def promise(self) -> tuple[str, ...]:
        """The guarantee in words, sentence by sentence."""
        count, rate = len(self.good), percent(self.false_alarms)
        upper = percent(rate_bound(count, self.false_alarms))
        return (
            f"Of good parts from the same process as these {count} (product, camera, light and setup stay; "
            f"any order of them and of the parts to come is equally likely), at most {rate} are called "
            "defective on "
            "average.",
            f"Apart from that, at most {rate} of them get any pixel flagged on average.",
            "On average means over the draw of the calibration photos: with those that were drawn, the true "
            "rate "
            f"of either stays below {upper} with {percent(CONFIDENCE)} confidence.",
            f"A part is defective where its score is above {self.score_threshold:.6g}, and a pixel is "
            f"flagged where the map is above {self.pixel_threshold:.6g}: strictly above, so that equal "
            "scores cannot break "
            "the promise.",
        )

    def facts(self) -> dict[str, Any]:
        """The outcome as plain values: thresholds, promise, bounds, misses."""
        count = len(self.good)
        return {
            **self.manifest(),
            "product": self.product,
            "promise": " ".join(self.promise),
            "expected_false_alarms": expected_rate(count, self.false_alarms),
            "false_alarms_bound": rate_bound(count, self.false_alarms),
            "confidence": CONFIDENCE,
            "fewest_good_photos": fewest_photos(self.false_alarms),
            "missed": _told(self.missed),
            "unmarked": _told(self.unmarked),
        }


def calibrate(
    segmenter: Segmenter,
    good: Sequence[str | Path],
    false_alarms: str | float | Fraction = "1%",
    *,
    bad: Sequence[str | Path] = (),
    bit_depth: int | None = None,
    on_photo: Callable[[], None] | None = None,
    on_error: Callable[[PhotoError], None] | None = None,
) -> Calibration:
    """Score photo files of good parts (and of bad ones, to know what is missed) and promise a rate on them.

    `false_alarms` is in (0, 1), or such as "1%". Photos with the very same bytes count once. `on_error` takes
    what cannot be read; without it that is raised. Raises `CalibrationError` where the good photos are too
    few for the rate, before any is scored, and `UsageError` where a photo is both good and bad.
    """
    rate = rate_of(false_alarms)
    threshold_rank(len(good), rate)
    scores = [
        tuple(photo_scores(segmenter, paths, bit_depth=bit_depth, on_photo=on_photo, on_error=on_error))
        for paths in (good, bad)
    ]
    if both := {photo.sha256: photo.name for photo in scores[0]}.keys() & {p.sha256 for p in scores[1]}:
        name = next(photo.name for photo in scores[1] if photo.sha256 in both)
        raise UsageError(
            f"{name} is among the good photos and among the bad ones; remove it from one of them"
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Calibration(rate, scores[0], bound(segmenter.manifest()), scores[1], bit_depth, now)


def photo_scores(
    segmenter: Segmenter,
    paths: Iterable[str | Path],
    *,
    bit_depth: int | None = None,
    on_photo: Callable[[], None] | None = None,
    on_error: Callable[[PhotoError], None] | None = None,
) -> Iterable[PhotoScore]:
    """Score and highest region of each photo file, in order; a second file of the same bytes is passed over.

    A copy says nothing new: counted twice, it would make the photos look like more than they are.
    """
    seen: set[str] = set()
    least = float(segmenter.manifest().get("fusion", {}).get("min_area", 0))
    for path in map(Path, paths):
        try:
            photo = read_photo(path, bit_depth=bit_depth)
            digest = str(photo.sha256)
            if digest not in seen:
                seen.add(digest)
                result = segmenter.segment(photo)
                peak = region_peak(result.anomaly_map, least)
                yield PhotoScore(path.name, digest, float(result.score), peak)
        except PhotoError as error:
            if on_error is None:
                raise
            on_error(error)
        if on_photo:
            on_photo()


def without_references(
    photos: Sequence[Path], references: str | Path | None
) -> tuple[list[Path], list[Path]]:
    """The photos that are no references, and those that are (their files have the very same bytes).

    A photo that is compared with itself scores lower than any new one: the promise would not hold. Of a kept
    memory (.safetensors) the photos cannot be told.
    """
    files = references_from(references).paths if references else ()
    known = {file_sha256(path) for path in files if path.suffix != KEPT}
    if not known:
        return list(photos), []
    shared = [path for path in photos if path.exists() and file_sha256(path) in known]
    return [path for path in photos if path not in set(shared)], shared


def bound(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a segmenter's manifest that decides scores, as JSON gives it back."""
    kept = {key: value for key, value in manifest.items() if key not in NOT_BOUND}
    return dict(json.loads(json.dumps(kept, default=str)))


def _told(misses: MissRate | None) -> dict[str, Any] | None:
    return asdict(misses) | {"rate": misses.rate, "interval": list(misses.interval)} if misses else None
