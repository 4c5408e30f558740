"""How often does the drift watch warn for nothing, and how soon does it see a change? By simulation.

python eval/drift.py [--out eval/results/drift.json] [--parts 1000000]

Scores are drawn from a Beta(6, 3) and shifted on the scale of logits, by parts of their standard deviation
there. Every stream has a calibration of its own, from the same process. Five minutes on one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from clipsam.calibrate import Calibration, PhotoScore
from clipsam.conformal import rate_of
from clipsam.drift import PER, RATE, DriftWatch

LENGTH = 4000  # parts of a stream without a change
SHIFTS = (0.5, 1.0, 2.0)  # in standard deviations of the good parts' logits
STREAMS = 200  # with a change
PATIENCE = 2000  # parts after a change within which it must be seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("eval/results/drift.json"))
    parser.add_argument("--parts", type=int, default=1_000_000, help="without a change, for each calibration")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = [row(rng, good, rate, options.parts) for good, rate in ((60, "5%"), (99, "1%"), (300, "1%"))]
    for found in rows:
        print(found)
    options.out.write_text(
        json.dumps({"promised_per_10000": RATE * 10_000 / PER, "rows": rows}, indent=1) + "\n"
    )


def row(rng: np.random.Generator, good: int, rate: str, parts: int) -> dict[str, Any]:
    warnings = passed = 0
    for _ in range(parts // LENGTH):
        watch = DriftWatch(calibration(rng, good, rate))
        for score in scores(rng, LENGTH):
            watch.add(score)
        warnings, passed = warnings + len(watch.warnings), passed + watch.seen
    seen = {str(shift): delays(rng, good, rate, shift) for shift in SHIFTS}
    return {
        "good": good,
        "false_alarms": rate,
        "parts": passed,
        "false_warnings": warnings,
        "per_10000": round(10_000 * warnings / passed, 4),
        "parts_until_seen": seen,
    }


def delays(rng: np.random.Generator, good: int, rate: str, shift: float) -> dict[str, Any]:
    """Inspected parts from a change to the warning, after 200 parts without one."""
    found = []
    for _ in range(STREAMS):
        watch = DriftWatch(calibration(rng, good, rate))
        for score in scores(rng, 200):
            watch.add(score)
        changed = scores(rng, PATIENCE, shift)
        found.append(next((n for n, score in enumerate(changed, start=1) if watch.add(score)), np.inf))
    missed = float(np.mean(np.isinf(found)))
    return {
        "median": float(np.median(found)) if missed < 0.5 else None,
        "not_within_2000": round(missed, 3),
    }


def scores(rng: np.random.Generator, count: int, shift: float = 0.0) -> list[float]:
    spread = 0.76  # standard deviation of the logits of Beta(6, 3)
    return expit(logit(rng.beta(6, 3, count)) + shift * spread).tolist()


def calibration(rng: np.random.Generator, good: int, rate: str) -> Calibration:
    photos = tuple(PhotoScore(str(n), str(n), score, score) for n, score in enumerate(scores(rng, good)))
    return Calibration(rate_of(rate), photos, {})


if __name__ == "__main__":
    main()
