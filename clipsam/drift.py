"""DriftWatch: are the parts that pass still like the good ones of the calibration? A test, not a feeling.

Input: scores of inspected parts, one after the other. Output: now and then a `DriftWarning`. Recent passed
parts are compared with the calibration's good photos by the two-sample test of Kolmogorov and Smirnov. A
warning says that light, camera, material or the mix of parts has changed, or that defects pass. Knows nothing
of photos.

Both sides end at the threshold. A part passes up to the threshold t, which is one of the good scores; given
t, the good scores below it are distributed like those of passed parts (as order statistics are), so the
calibration's side is what lies below t, without t itself.

Looking often would find something by chance. Each look is therefore at the level that keeps the *expected*
number of false warnings at most `RATE` in every `PER` passed parts, for as long as the line runs: that
expectation adds up over looks, whether windows overlap or not. A run that ends gets one last look at the
level `LAST`. Ties make the test more careful. What is promised holds on average over the draw of the
calibration photos, as the calibration does, and if parts come in no order; scores that follow each other (a
warming lamp) are what a watch is to find.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from clipsam.calibrate import Calibration

WINDOW = 100  # passed parts that are compared
STEP = 25  # passed parts from one look to the next
RATE, PER = 0.05, 10_000  # expected false warnings, in so many passed parts
LAST = 0.01  # level of the look at the end of a run
FEWEST = 10  # scores on either side; with less, no difference could be told


@dataclass(frozen=True)
class DriftWarning:
    """Recent passed parts differ from the good photos of the calibration; `str()` says it in a sentence."""

    seen: int  # passed parts so far
    window: int  # how many of them were compared
    p_value: float
    level: float  # the p-value was below this
    recent_median: float
    good_median: float

    def __str__(self) -> str:
        moved = "higher" if self.recent_median > self.good_median else "lower"
        if self.recent_median == self.good_median:
            moved = "spread otherwise"
        return (
            f"the scores of the last {self.window} passed parts are {moved} than those of the calibration's "
            f"good parts (median {self.recent_median:.3f}, calibrated {self.good_median:.3f}; p = "
            f"{self.p_value:.1g}): light, camera, material or the mix of parts has changed, or defects pass; "
            "look at some, then calibrate anew"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"sentence": str(self)}


class DriftWatch:
    """Watches the scores of one calibrated station. `add` costs next to nothing, every 25th about a
    millisecond.
    """

    def __init__(self, calibration: Calibration, *, window: int = WINDOW, step: int = STEP) -> None:
        threshold = calibration.score_threshold
        scores = sorted(photo.score for photo in calibration.good)
        passed = [score for score in scores if score <= threshold]
        self._good = np.asarray(passed[:-1])  # without the threshold itself, which is the highest of them
        self._threshold = threshold
        self._window: deque[float] = deque(maxlen=window)
        self._step = step
        self._level = RATE * step / PER
        self._since_look = 0
        self.seen = 0  # passed parts
        self.looks = 0
        self.warnings: list[DriftWarning] = []

    @classmethod
    def over(cls, calibration: Calibration | None, bit_depth: int | None) -> DriftWatch | None:
        """The watch over a run of photos that are read like this, None without a calibration;
        `CalibrationError` where photos were read otherwise for it.
        """
        if calibration is None:
            return None
        calibration.check_reading(bit_depth)
        return cls(calibration)

    def add(self, score: float) -> DriftWarning | None:
        """Take the score of an inspected part; those above the threshold do not count. Gives a new warning,
        if any.

        After a warning the next look waits until the window holds new parts only.
        """
        if score > self._threshold:
            return None
        self.seen += 1
        self._since_look += 1
        self._window.append(score)
        if len(self._window) < (self._window.maxlen or 0) or self._since_look < self._step:
            return None
        return self._look(self._level)

    def finish(self) -> DriftWarning | None:
        """The last look, at the end of a run: what came since the last warning, at the level `LAST`."""
        return self._look(LAST) if self._since_look else None

    def summary(self) -> dict[str, Any]:
        """What stands in `run.json`."""
        return {
            "passed": self.seen,
            "looks": self.looks,
            "good": len(self._good),
            "warnings": [warning.to_dict() for warning in self.warnings],
        }

    def _look(self, level: float) -> DriftWarning | None:
        self._since_look = 0
        recent = np.asarray(self._window)
        if min(len(recent), len(self._good)) < FEWEST:
            return None
        self.looks += 1
        p_value = distance_p_value(recent, self._good)
        if p_value >= level:
            return None
        medians = float(np.median(recent)), float(np.median(self._good))
        warning = DriftWarning(self.seen, len(recent), p_value, level, *medians)
        self.warnings.append(warning)
        self._window.clear()
        return warning


def distance_p_value(recent: np.ndarray, good: np.ndarray) -> float:
    """Two-sided p-value of the two-sample Kolmogorov-Smirnov test; exact up to 10,000 scores, careful with
    ties.
    """
    from scipy.stats import ks_2samp  # here, because it takes half a second to import

    return float(ks_2samp(recent, good).pvalue)
