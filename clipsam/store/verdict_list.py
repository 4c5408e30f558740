"""Reviewers' verdicts as a data set: a CSV list with masks, as `clipsam eval --dataset csv` reads it.

Input: an open station, filters, a file name. Output: the list, and masks in a folder beside it. Good parts
have no mask; a defective part's is the union of its regions that no reviewer rejected, and where none is left
it is "-", not known: such a part counts for the image figures only. Knows nothing of evaluation.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsam.dataset_lists import MASK_UNKNOWN
from clipsam.datasets import GOOD
from clipsam.errors import StoreError
from clipsam.result import Region
from clipsam.store.records import REJECT, Part, StoredRegion
from clipsam.store.station import Station

COLUMNS = ("image", "mask", "label", "category", "split", "sha256", "reviewer", "time")


@dataclass(frozen=True)
class VerdictList:
    """What was written, and what had to be left out. All are counts of parts."""

    path: str
    good: int
    defective: int
    gone: int  # photos that are not where they were
    without_mask: int  # of the defective: no region is left to make a mask of

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def write_verdict_list(station: Station, path: Path, filters: Mapping[str, Any]) -> VerdictList:
    """Write the parts with a verdict that `filters` keep; of a photo its newest inspection and verdict.

    Labels are "good" or the type of the region with the highest score; categories are products. Raises
    `StoreError` when the files cannot be written.
    """
    masks = path.with_name(f"{path.stem}_masks")
    counts: Counter[str] = Counter()
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for part in station.each(**filters, reviewed=True):
                outcome, line = _line(part, masks)
                counts[outcome] += 1
                if line is not None:
                    writer.writerow(line)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
    defective = counts["defective"] + counts["without_mask"]
    return VerdictList(str(path), counts["good"], defective, counts["gone"], counts["without_mask"])


def _line(part: Part, masks: Path) -> tuple[str, dict[str, str] | None]:
    """What became of a part, and its row."""
    if not Path(part.path).is_file():
        return "gone", None
    said = [verdict for verdict in part.verdicts if verdict.region is None]
    line = {
        "image": str(Path(part.path).absolute()),
        "mask": "",
        "label": GOOD,
        "category": part.product,
        "split": "test",
        "sha256": part.sha256 or "",
        "reviewer": said[-1].reviewer if said else "",
        "time": part.time.isoformat(),
    }
    if not part.truth:
        return "good", line
    kept = [region for region in part.regions if region.verdict != REJECT]
    if not kept:
        return "without_mask", line | {"mask": MASK_UNKNOWN, "label": "defect"}
    mask = masks / f"{part.id}.png"
    mask.parent.mkdir(exist_ok=True)
    Image.fromarray(_union(kept).astype(np.uint8) * 255).save(mask)
    return "defective", line | {"mask": f"{masks.name}/{mask.name}", "label": kept[0].defect}


def _union(regions: list[StoredRegion]) -> NDArray[np.bool_]:
    whole = Region.from_dict(regions[0].as_row()).mask
    for region in regions[1:]:
        whole |= Region.from_dict(region.as_row()).mask
    return whole
