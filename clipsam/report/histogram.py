"""How the scores of a run spread, and which types were found: what the report draws above its gallery.

Input: rows of a run. Output: bars and counts. Knows nothing of pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from clipsam.runs.store import Row, is_suspicious

BINS = 40  # over [0, 1]


@dataclass(frozen=True)
class Bar:
    """Photos with a score in one bin of [0, 1]; heights are fractions of the tallest bar."""

    left: float
    suspicious: float
    clean: float
    title: str


@dataclass(frozen=True)
class Kind:
    """A type of defect: in how many photos, in how many regions; its share of the most frequent one."""

    name: str
    photos: int
    regions: int
    share: float


def histogram(rows: Iterable[Row]) -> tuple[list[Bar], int]:
    """The bars that are not empty, suspicious photos apart from the others, and the count of the tallest."""
    suspicious, clean = [0] * BINS, [0] * BINS
    for row in rows:
        if "error" not in row:
            side = suspicious if is_suspicious(row) else clean
            side[min(int(row["score"] * BINS), BINS - 1)] += 1
    tallest = max(map(sum, zip(suspicious, clean, strict=True)))
    bars = [
        Bar(
            left=i / BINS,
            suspicious=suspicious[i] / tallest,
            clean=clean[i] / tallest,
            title=f"score {i / BINS:.3f} to {(i + 1) / BINS:.3f}: {suspicious[i] + clean[i]} photos",
        )
        for i in range(BINS)
        if suspicious[i] + clean[i]
    ]
    return bars, tallest


def kinds(rows: Iterable[Row]) -> list[Kind]:
    """The types of defects that were found, the most frequent first (by photos, then by name)."""
    photos: Counter[str] = Counter()
    regions: Counter[str] = Counter()
    for row in rows:
        found = [region["defect"] for region in row.get("regions", ())]
        regions.update(found)
        photos.update(set(found))
    most = max(photos.values(), default=1)
    ordered = sorted(photos, key=lambda name: (-photos[name], name))
    return [Kind(name, photos[name], regions[name], photos[name] / most) for name in ordered]
