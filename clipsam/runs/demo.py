"""The demo: render parts with known defects, inspect them, and compare what was found with what was planted.

Input: a segmenter and a folder. Output: the photos, a run folder with its report, and a `DemoScore`. Knows
nothing of models and terminals.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipsam.errors import UsageError
from clipsam.nano.corpus.compose import Sample
from clipsam.nano.demo import demo_parts
from clipsam.report.page import write_report
from clipsam.result import Region
from clipsam.runs.inspection import RunSummary, inspect_photos
from clipsam.runs.photowork import Segmenter
from clipsam.runs.sitting import Step

NAME = re.compile(r"\d\d+ [^,]+, .+\.png")
"""What the demo's photos are called."""

FOUND = 0.25
"""A planted defect is found when at least this share of its pixels is outlined."""


@dataclass(frozen=True)
class DemoScore:
    """What the demo found: `found` of `planted` regions, `false_regions` on `clean` flawless parts."""

    planted: int
    found: int
    clean: int
    false_regions: int
    report: Path
    summary: RunSummary

    @property
    def recall(self) -> float:
        """Share of planted regions that were found."""
        return self.found / self.planted if self.planted else 0.0

    @property
    def false_per_clean(self) -> float:
        """Regions per flawless part, all of them false."""
        return self.false_regions / self.clean if self.clean else 0.0


def run_demo(
    segmenter: Segmenter,
    out: Path,
    *,
    count: int = 15,
    seed: int = 0,
    size: int = 384,
    on_step: Callable[[Step], None] | None = None,
) -> DemoScore:
    """Render `count` parts to `out/photos`, inspect them into `out/run`, write the report and score the
    result.
    """
    samples = demo_parts(count, seed, size)
    paths = save_photos(samples, out / "photos")
    summary = inspect_photos(segmenter, [out / "photos"], out / "run", overwrite=True, on_step=on_step)
    report = write_report(out / "run")
    rows = {Path(row["path"]).name: row for row in summary.rows}
    outlined = [_regions(rows[path.name]) for path in paths]
    planted = [
        (one.mask, regions)
        for sample, regions in zip(samples, outlined, strict=True)
        for one in sample.instances
    ]
    clean = [regions for sample, regions in zip(samples, outlined, strict=True) if not sample.instances]
    return DemoScore(
        planted=len(planted),
        found=sum(is_found(mask, regions) for mask, regions in planted),
        clean=len(clean),
        false_regions=sum(len(regions) for regions in clean),
        report=report,
        summary=summary,
    )


def save_photos(samples: Sequence[Sample], folder: Path) -> list[Path]:
    """Write the pictures as PNG, named by number, family and planted defect; those of an earlier demo go.

    Raises `UsageError` where the folder holds anything else: it would be inspected, or lost.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder} cannot be made: {error.strerror}; choose another --out") from error
    old = list(folder.iterdir())
    if strangers := sorted(path.name for path in old if not NAME.fullmatch(path.name)):
        raise UsageError(f"{folder} holds {strangers[0]!r}, which is not of a demo; choose another --out")
    for path in old:
        path.unlink()
    paths = []
    for number, sample in enumerate(samples):
        kind = " ".join(sample.defects) or "flawless"
        path = folder / f"{number:02d} {sample.product}, {kind}.png"
        Image.fromarray(sample.image).save(path)
        paths.append(path)
    return paths


def is_found(mask: np.ndarray, regions: Sequence[Region]) -> bool:
    """Is at least `FOUND` of a planted mask [H, W] inside the outlined regions?"""
    outlined = np.zeros(mask.shape, bool)
    for region in regions:
        outlined |= region.mask
    return bool((outlined & mask).sum() >= FOUND * mask.sum())


def _regions(row: dict) -> list[Region]:
    return [Region.from_dict(region) for region in row.get("regions", ())]
