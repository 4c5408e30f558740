"""What `compiled=True` brings and costs: eager and compiled by turns in one process.

    python eval/bench_compile.py --out eval/results/bench_compile.json    # four minutes on an idle machine

Processor seconds of one thread, medians: the tower at each scale of the preset, SAM's image encoder, and
`segment` of a rendered photo. `start` is what loading costs more than without the option, by the clock and by
the processor, compilers counted: `cold` with an empty cache folder, `warm` in a fresh process with what the
first one left. Needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from clipsam.bench import bench_segmenter, part
from clipsam.compiled import eagerly
from clipsam.devices import compute_on
from clipsam.heatmap import features_of
from clipsam.runs.manifest import versions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--dtype", default="float32", metavar="float32|bfloat16")
    parser.add_argument("--size", type=int, default=512, metavar="PX", help="sides of the rendered photo")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help="measure once, with the cache that is there")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.preset, options.dtype, options.size, options.rounds)))
        return
    with tempfile.TemporaryDirectory() as cache:
        place = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
        place |= {"CLIPSAM_CACHE": cache, "OMP_NUM_THREADS": "1"}
        cold, warm = (
            json.loads(subprocess.run(call, env=place, check=True, stdout=subprocess.PIPE).stdout)
            for call in [[sys.executable, __file__, *sys.argv[1:], "--one"]] * 2
        )
    found = {"start": {"cold": cold.pop("start"), "warm": warm.pop("start")}, **warm}
    found |= {"size": options.size, "rounds": options.rounds, "versions": versions()}
    text = json.dumps(found, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


@torch.inference_mode()
def measured(preset: str, dtype: str, size: int, rounds: int) -> dict[str, Any]:
    """One process: the start, then eager and compiled by turns."""
    compute_on(1)
    segmenter, _ = bench_segmenter(preset, random_weights=True, device="cpu", dtype=dtype)
    photo = part(size)
    plain = segmenter.segment(photo)
    clock, busy = time.perf_counter(), _busy()
    segmenter.compile()
    start = {
        "seconds": round(time.perf_counter() - clock, 1),
        "processor_seconds": round(_busy() - busy, 1),
    }
    settings, patch = segmenter.preset.heatmap, segmenter.clip.patch_size
    calls: dict[str, Callable[[], Any]] = {}
    for side in settings.sizes:
        pixels = torch.rand(1, 3, *[max(round(side / patch), 1) * patch] * 2)
        calls[f"tower at {side} px"] = lambda pixels=pixels: features_of(
            pixels, segmenter.clip, settings, scored=False
        )
    if segmenter.sam is not None:
        sam = segmenter.sam
        calls["image encoder of SAM"] = lambda: sam._embed(photo)
    calls["segment"] = lambda: segmenter.segment(photo)
    compiled = segmenter.segment(photo)
    return {
        "start": start,
        **{name: _by_turns(call, rounds) for name, call in calls.items()},
        "largest_difference": float(abs(compiled.anomaly_map - plain.anomaly_map).max()),
        "manifest": segmenter.manifest(),
    }


def _by_turns(call: Callable[[], Any], rounds: int) -> dict[str, Any]:
    eager, pairs = eagerly(call), []
    for number in range(rounds + 1):
        one, other = (eager, call) if number % 2 else (call, eager)
        first, second = _seconds(one), _seconds(other)
        pairs.append((first, second) if number % 2 else (second, first))
    pairs = pairs[1:]  # the first touches new memory
    return {
        "eager": round(median(one for one, _ in pairs), 4),
        "compiled": round(median(other for _, other in pairs), 4),
        "times_faster": round(median(one / other for one, other in pairs), 2),
    }


def _seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _busy() -> float:
    """Processor seconds of this process and of the compilers that it started."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
