"""How well SAM outlines real defects when it is given their boxes, beside filling the box and GrabCut.

python eval/sam_boxes.py DIR [--preset nano] [--limit 30] [--out eval/results/nano/sam_boxes.json]
python eval/sam_boxes.py --rendered 220 [--context 1.1]

DIR holds mvtec_ad/ and industrial/. One box per connected part of a mask (30 px or more); intersection over
union, mean per set and of the sets. What is found outside of the box does not count: it is
known that all lies inside. With --rendered it is measured on defects of rendered validation pictures, on
which the crop was chosen. GrabCut needs `pip install opencv-python-headless`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from clipsam.dataset_check import read_mask
from clipsam.datasets import Category, open_dataset
from clipsam.images import read_photo
from clipsam.nano.corpus.compose import Corpus
from clipsam.presets import PRESETS
from clipsam.regions import RegionPrompt
from clipsam.runs.manifest import versions
from clipsam.sam import SamRefiner
from clipsam.settings import SamSettings
from clipsam.strips import bounds

SMALLEST = 30  # px of a part
ASKED = SamSettings(kinds=("box",), selection="iou", min_agreement=0.0, swallow=1e9)
Bools = NDArray[np.bool_]
Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1
Case = tuple[Pixels, Bools]
"""A photo [H, W, 3] and the mask [H, W] of what is to be outlined."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--rendered", type=int, metavar="PICTURES", help="instead of photos")
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--limit", type=int, default=30, help="photos per type of defect")
    parser.add_argument("--crop", type=int, default=48, help="zoom where a box has fewer cells; 0: never")
    parser.add_argument("--context", type=float, default=1.1, help="width of a crop in widths of the box")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if (options.data is None) == (options.rendered is None):
        parser.error("expected either DIR or --rendered PICTURES")
    refiner = SamRefiner.from_spec(PRESETS[options.preset].sam)
    asked = replace(ASKED, crop=options.crop, crop_context=options.context)
    cases = photographed(options.data, options.limit) if options.data else rendered(options.rendered)
    rows = {}
    for name, found in cases:
        values = np.array([ious(refiner, asked, *case) for case in found])
        rows[name] = named(values.mean(axis=0)) | {"parts": len(values)}
        print(name, rows[name], flush=True)
    means = {key: round(float(np.mean([row[key] for row in rows.values()])), 3) for key in METHODS}
    print("mean", means)
    if options.out:
        about = {
            "sam": refiner.weights_hash,
            "limit": options.limit,
            "rendered": options.rendered,
            "crop": options.crop,
            "crop_context": options.context,
            "versions": versions(),
        }
        report = {"sets": rows, "mean": means, "manifest": about}
        options.out.write_text(json.dumps(report, indent=2) + "\n")


METHODS = ("sam", "box", "grabcut")


def named(values: NDArray[np.float64]) -> dict[str, float]:
    return {key: round(float(value), 3) for key, value in zip(METHODS, values, strict=True)}


def photographed(data: Path, limit: int) -> Iterator[tuple[str, Iterator[Case]]]:
    """The sets by name, with their parts."""
    for kind, folder in (("mvtec", "mvtec_ad"), ("folder", "industrial")):
        for category in open_dataset(kind, data / folder).limited(limit).categories:
            yield category.name, parts(category)


def rendered(count: int) -> Iterator[tuple[str, Iterator[Case]]]:
    """Defects of rendered validation pictures of 384 px, as one set."""
    corpus = Corpus(count, 5, "validation", height=384, width=384)
    whole = ((sample.image, one.mask) for sample in corpus for one in sample.instances)
    yield "rendered", ((image, mask) for image, mask in whole if mask.sum() >= SMALLEST)


def parts(category: Category) -> Iterator[Case]:
    """Photos and one connected part of a defect each."""
    for sample in category.samples:
        if sample.mask is None:
            continue
        pixels, mask = read_photo(sample.image).pixels, read_mask(sample.mask)
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        for number in range(1, count + 1):
            part = labels == number
            if part.sum() >= SMALLEST:
                yield pixels, part


def ious(refiner: SamRefiner, asked: SamSettings, pixels: Pixels, part: Bools) -> tuple[float, float, float]:
    """IoU of SAM's mask within the box, of the filled box, and of GrabCut's mask."""
    edges = bounds(part)
    assert edges is not None
    x0, y0, x1, y1 = edges
    box = np.zeros(part.shape, bool)
    box[y0:y1, x0:x1] = True
    found = by_sam(refiner, asked, pixels, edges, box) & box, box, by_grabcut(pixels, edges, box)
    sam, filled, grabcut = (iou(mask, part) for mask in found)
    return sam, filled, grabcut


def by_sam(refiner: SamRefiner, asked: SamSettings, pixels: Pixels, edges: Box, box: Bools) -> Bools:
    x0, y0, x1, y1 = edges
    prompt = RegionPrompt(
        box_xyxy=(float(x0), float(y0), float(x1), float(y1)),
        positives=np.array([[(x0 + x1) / 2, (y0 + y1) / 2]], np.float32),
        negatives=np.zeros((0, 2), np.float32),
        area_px=int(box.sum()),
        peak=1.0,
        base=0.5,
        component=box[y0:y1, x0:x1],
        offset=(x0, y0),
    )
    (mask,) = refiner.refine(pixels, (prompt,), box.astype(np.float32), asked)
    whole = np.zeros(box.shape, bool)
    height, width = mask.probability.shape
    whole[mask.y0 : mask.y0 + height, mask.x0 : mask.x0 + width] = mask.probability > 0.5
    return whole


def by_grabcut(pixels: Pixels, edges: Box, box: Bools) -> Bools:
    """OpenCV's GrabCut, five rounds from the box, on a crop three times as large as the box."""
    x0, y0, x1, y1 = edges
    height, width = y1 - y0, x1 - x0
    top, left = max(0, y0 - height - 8), max(0, x0 - width - 8)
    bottom, right = y1 + height + 8, x1 + width + 8
    crop = np.ascontiguousarray(pixels[top:bottom, left:right, ::-1])
    rectangle = (x0 - left, y0 - top, width, height)
    if crop.shape[:2] == (height, width):
        return box  # there is nothing around it to tell it from
    labels = np.zeros(crop.shape[:2], np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(crop, labels, rectangle, *models, 5, cv2.GC_INIT_WITH_RECT)
    whole = np.zeros(box.shape, bool)
    whole[top:bottom, left:right] = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return whole


def iou(found: Bools, truth: Bools) -> float:
    return float((found & truth).sum() / max(1, (found | truth).sum()))


if __name__ == "__main__":
    main()
