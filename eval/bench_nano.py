"""Speed of the embedded pair, one photo at a time.

python eval/bench_nano.py [--threads 2] [--rounds 30] [--out eval/results/nano/speed.json]

Medians in milliseconds: CLIP-nano at each scale of its preset, the embedding of SAM-nano, and `segment` with
and without SAM on a rendered part of 512 px, in float32 and in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from clipsam.devices import compute_on
from clipsam.nano.corpus.compose import render
from clipsam.runs.manifest import versions
from clipsam.segmenter import AnomalySegmenter


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    compute_on(options.threads)
    photo = render(3, 512, 512, p_normal=0.0).image
    rows: dict[str, float] = {}
    for dtype in ("float32", "bfloat16"):
        pair = AnomalySegmenter.from_preset("nano", product="part", device="cpu", dtype=dtype)
        alone = AnomalySegmenter.from_preset("nano", product="part", device="cpu", dtype=dtype, sam=False)
        calls: dict[str, Callable[[], Any]] = {
            f"clip {side}": lambda side=side, pair=pair: pair.clip.encode_pixels(
                torch.rand(1, 3, side, side), "plain"
            )
            for side in pair.preset.heatmap.sizes
        }
        calls["sam embedding"] = lambda pair=pair: pair.sam._embed(photo)
        calls["segment"] = lambda pair=pair: pair.segment(photo)
        calls["segment without sam"] = lambda alone=alone: alone.segment(photo)
        for name, call in calls.items():
            rows[f"{name}, {dtype}"] = median(call, options.rounds)
            print(f"{name}, {dtype}: {rows[f'{name}, {dtype}']} ms", flush=True)
    if options.out:
        about = {"threads": options.threads, "rounds": options.rounds, "versions": versions()}
        options.out.write_text(json.dumps({"milliseconds": rows, "manifest": about}, indent=2) + "\n")


def median(call: Callable[[], Any], rounds: int) -> float:
    for _ in range(3):
        call()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds), 1)


if __name__ == "__main__":
    main()
