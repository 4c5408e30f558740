"""Choose how the preset `nano` looks at photos, on rendered validation pictures alone.

python eval/select_nano.py [--weights DIR] [--count 32] [--side 384] [--seed 0] [--only WORDS]

Prints, per choice of attention, scales and smoothing: pixel AUROC, AP and PRO, image AUROC, how often two
defect types are told apart, and the threshold of the best F1. Half of the pictures show families that
training never draws.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from clipsam.clip import ClipEncoder
from clipsam.nano.models import WEIGHTS
from clipsam.nano.validate import validate
from clipsam.presets import PRESETS

ATTENTION = ("plain", "v-v", "value")
SIZES = ((256,), (384,), (512,), (256, 384), (384, 512), (256, 384, 512))
SMOOTHING = (0.01, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS / "clip")
    parser.add_argument("--count", type=int, default=32, help="validation pictures")
    parser.add_argument("--side", type=int, default=384, help="px of a rendered picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="choices that hold this; 'plain' is the preset itself")
    options = parser.parse_args()
    encoder = ClipEncoder.from_dir(options.weights)
    base = PRESETS["nano"].heatmap
    choices = [{"attention": mode} for mode in ATTENTION]
    choices += [{"sizes": sizes} for sizes in SIZES]
    choices += [{"smoothing": smoothing} for smoothing in SMOOTHING]
    for change in (change for change in choices if options.only in str(change)):
        settings = replace(base, **change)
        scores = validate(encoder, settings, options.count, seed=options.seed, side=options.side)
        print(change, scores, flush=True)


if __name__ == "__main__":
    main()
