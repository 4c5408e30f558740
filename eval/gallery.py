"""Draw what the preset `nano` finds and misses on rendered validation pictures.

python eval/gallery.py eval/results/nano/gallery.jpg [--count 48] [--side 288] [--seed 0]

Upper half: the pictures with the highest pixel AP; lower half: those with the lowest. Each column shows the
picture, its truth, the map before SAM and the overlay after. Half of the pictures show families that training
never draws. Real photos stay where they are: `clipsam inspect` draws the same overlays of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import average_precision_score

from clipsam.nano.corpus.compose import Corpus, Sample
from clipsam.result import Segmentation
from clipsam.runs.overlay import draw_overlay
from clipsam.segmenter import AnomalySegmenter

COLUMNS = 8
Pixels = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("--count", type=int, default=48, help="validation pictures to choose from")
    parser.add_argument("--side", type=int, default=288, help="px of a rendered picture")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    segmenter = AnomalySegmenter.from_preset("nano", product="object")
    corpus = Corpus(
        options.count, options.seed, "validation", height=options.side, width=options.side, p_normal=0.0
    )
    found = []
    for sample in corpus:
        if sample.mask.any():
            result = segmenter.about(sample.product).segment(sample.image)
            precision = average_precision_score(sample.mask.ravel(), result.anomaly_map.ravel())
            found.append((precision, sample, result))
    found.sort(key=lambda each: -each[0])
    halves = (found[:COLUMNS], found[-COLUMNS:])
    sheet = np.vstack([np.hstack([column(*each) for each in half]) for half in halves])
    options.target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).reduce(2).save(options.target, quality=85)
    print(f"{options.target}: pixel AP {found[0][0]:.2f} to {found[-1][0]:.2f}")


def column(precision: float, sample: Sample, result: Segmentation) -> Pixels:
    """Picture, truth, coarse map and overlay under each other, uint8 [4 H, W, 3]."""
    truth = np.repeat(sample.mask[..., None] * np.uint8(255), 3, axis=2)
    heat = np.rint(colormaps["inferno"](result.coarse_map)[..., :3] * 255).astype(np.uint8)
    overlay = np.asarray(draw_overlay(sample.image, result).convert("RGB"))
    return np.vstack([sample.image, truth, heat, overlay])


if __name__ == "__main__":
    main()
