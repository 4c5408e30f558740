"""Times of a loop that runs for months: their quantiles in constant memory, and what the next step may cost.

Input: seconds, one after the other. Output: p50, p95, p99; whether a step fits into the time that is left.
Knows nothing of photos and models.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

SHORTEST, LONGEST = 1e-5, 1e3  # seconds; what lies outside counts as the nearest of the two
GROWTH = 1.02  # each bin ends 2 % above its start: so much a quantile may be off

PROBE_AFTER = 500  # refusals in a row, after which one step is let through to be measured anew
RECENT = 200  # costs that a prediction looks back on
MARGIN = 1.1  # what is predicted, above what was seen


@dataclass(frozen=True)
class Quantiles:
    """Of the times of one stage, in seconds."""

    count: int
    p50: float
    p95: float
    p99: float
    longest: float

    def as_dict(self) -> dict[str, float]:
        """In milliseconds, as they are shown."""
        shown = {name: round(1e3 * getattr(self, name), 3) for name in ("p50", "p95", "p99", "longest")}
        return {"count": self.count, **{f"{name}_ms": value for name, value in shown.items()}}


class LatencyHistogram:
    """Counts of times in bins that grow by 2 % each: quantiles are at most 2 % too high, never too low."""

    def __init__(self) -> None:
        self._bins = np.zeros(1 + math.ceil(math.log(LONGEST / SHORTEST) / math.log(GROWTH)), np.int64)
        self._longest = 0.0

    def add(self, seconds: float) -> None:
        """Count one time."""
        inside = min(max(seconds, SHORTEST), LONGEST)
        self._bins[min(math.ceil(math.log(inside / SHORTEST) / math.log(GROWTH)), len(self._bins) - 1)] += 1
        self._longest = max(self._longest, seconds)

    def quantile(self, part: float) -> float:
        """The time that `part` of all times, in [0, 1], do not exceed; 0 where there are none."""
        total = int(self._bins.sum())
        if total == 0:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self._bins), max(1, math.ceil(part * total))))
        return min(SHORTEST * GROWTH**place, self._longest)

    def quantiles(self) -> Quantiles:
        """p50, p95, p99 and the longest of all times so far."""
        p50, p95, p99 = (self.quantile(part) for part in (0.5, 0.95, 0.99))
        return Quantiles(int(self._bins.sum()), p50, p95, p99, self._longest)


class CostEstimate:
    """What a step will hardly exceed: the 99th percentile of its recent costs, and a margin.

    A step that is refused is not measured, and a machine that was busy once would be thought busy for ever:
    so one is let through after `PROBE_AFTER` refusals in a row, which is too rare to move a p99.
    """

    def __init__(self) -> None:
        self._costs: deque[float] = deque(maxlen=RECENT)
        self._refused = 0

    def add(self, seconds: float) -> None:
        """What the step took this time."""
        self._costs.append(seconds)

    @property
    def seconds(self) -> float:
        """The estimate; 0 while nothing is known."""
        return MARGIN * float(np.quantile(self._costs, 0.99)) if self._costs else 0.0

    def fits(self, left: float) -> bool:
        """Whether the step would end within `left` seconds; a refusal is remembered."""
        if self.seconds <= left:
            self._refused = 0
            return True
        self._refused += 1
        if self._refused < PROBE_AFTER:
            return False
        self._costs.clear()
        self._refused = 0
        return True
