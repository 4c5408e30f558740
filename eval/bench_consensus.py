"""Time and memory of the consensus as a batch grows: seconds a photo and peak memory, at several sizes.

    python eval/bench_consensus.py --out eval/results/bench_consensus.json

Every size runs in a fresh process. Photos are rendered noise, features come from the embedded tower's preset
as in `clipsam inspect --consensus`. Time per photo counts all: choosing and looking at the photos with a
vote, then looking at every photo and scoring it. Knows nothing of real photos.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import clipsam
from clipsam.clip import ClipEncoder
from clipsam.consensus import Consensus
from clipsam.memory import draw
from clipsam.presets import NANO


def photo(number: int, side: int) -> np.ndarray:
    """Photo `number` of a batch [side, side, 3]: coarse noise, the same for the same number."""
    coarse = np.random.default_rng(number).integers(0, 255, (side // 8, side // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def measure(count: int, side: int) -> dict[str, float]:
    """Score a batch of `count` photos as `inspect --consensus` does."""
    encoder = ClipEncoder.from_spec(NANO.clip)
    settings = NANO.consensus_settings
    start, spent = time.perf_counter(), time.process_time()
    voting = draw(count, settings.photos or count, settings.seed).tolist()
    consensus = Consensus.of((photo(n, side) for n in voting), encoder, NANO.layers, settings)
    for number in range(count):
        consensus.anomaly(photo(number, side))
    seconds, spent = time.perf_counter() - start, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "photos": count,
        "seconds_per_photo": round(seconds / count, 4),
        "processor_seconds_per_photo": round(spent / count, 4),
        "peak_gb": round(peak, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--side", type=int, default=512, help="px of a photo")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.side)))
        return
    rows = []
    for count in options.photos:
        command = [sys.executable, __file__, "--one", str(count), "--side", str(options.side)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(json.loads(answer.splitlines()[-1]))
        print(rows[-1], flush=True)
    result = {
        "side": options.side,
        "threads": torch.get_num_threads(),
        "versions": {"clipsam": clipsam.__version__, "torch": torch.__version__},
        "settings": asdict(NANO.consensus_settings) | {"layers": asdict(NANO.layers)},
        "rows": rows,
    }
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
