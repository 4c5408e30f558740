"""What `clipsam inspect` reaches of the speed of `segment` on photos that are decoded already.

    python eval/bench_inspect.py --out eval/results/bench_inspect.json

Renders photos, writes them as JPEG and PNG in turn, then takes turns: `segment` on the decoded arrays, one
after the other with all cores (and with one), and the whole of `inspect_photos` with the pictures that it
keeps by default, its streams chosen as the command does. The ratio compares photos per second of `inspect`
with the faster of the bare runs of the same round. Reads no real photos; the times of other work on the
machine show in all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipsam.cli._threads import share_cores
from clipsam.nano.corpus.compose import render
from clipsam.runs.inspection import inspect_photos
from clipsam.runs.manifest import versions
from clipsam.segmenter import AnomalySegmenter

DISTINCT = 8  # rendered photos; more are copies under other names


def main() -> None:
    options = arguments()
    cores = len(os.sched_getaffinity(0))
    segmenter = AnomalySegmenter.from_preset(
        options.preset, product="part", sam=options.sam, device="cpu", models_dir=options.models
    )
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        arrays = write_photos(work / "photos", options.photos, options.size)
        torch.set_num_threads(cores)
        segmenter.warm_up(arrays[0])
        rounds = []
        for number in range(options.rounds):
            rounds.append(one_round(segmenter, arrays, work, number, cores))
            print(json.dumps(rounds[-1]), flush=True)
    result = {
        "ratio": round(statistics.median(found["ratio"] for found in rounds), 3),
        "rounds": rounds,
        "photos": options.photos,
        "size": options.size,
        "manifest": {
            "cores": cores,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
            "versions": versions(),
            "segmenter": segmenter.manifest(),
        },
    }
    print(f"inspect reaches {100 * result['ratio']:.0f} % of the throughput of segment on decoded photos")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--models", type=Path, help="a pack of weights")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--size", type=int, default=512, help="px along a side")
    parser.add_argument("--sam", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def write_photos(folder: Path, count: int, size: int) -> list[np.ndarray]:
    """Photos 000000.jpg, 000001.png ... and their pixels."""
    folder.mkdir()
    arrays = []
    for number in range(count):
        path = folder / f"{number:06d}{'.png' if number % 2 else '.jpg'}"
        if number < DISTINCT:
            Image.fromarray(render(number, size, size, p_normal=0.5).image).save(path, quality=92)
            with Image.open(path) as image:
                arrays.append(np.array(image.convert("RGB")))
        else:  # DISTINCT is even: the suffix is that of the photo that is copied
            path.hardlink_to(folder / f"{number % DISTINCT:06d}{path.suffix}")
            arrays.append(arrays[number % DISTINCT])
    return arrays


def one_round(
    segmenter: AnomalySegmenter, arrays: Sequence[np.ndarray], work: Path, number: int, cores: int
) -> dict[str, Any]:
    """Photos per second, and seconds of CPU per photo, of each side."""
    found: dict[str, Any] = {}

    def bare(threads: int) -> None:
        torch.set_num_threads(threads)
        for array in arrays:
            segmenter.segment(array)

    def inspect() -> None:
        torch.set_num_threads(cores)
        found["streams"] = share_cores(segmenter)
        inspect_photos(segmenter, [work / "photos"], work / f"run-{number}", streams=found["streams"])

    sides = {"all_cores": lambda: bare(cores), "inspect": inspect, "one_thread": lambda: bare(1)}
    names = list(sides)
    for name in names[number % 3 :] + names[: number % 3]:  # who comes first takes turns
        start, spent = time.perf_counter(), time.process_time()
        sides[name]()
        found[name] = round(len(arrays) / (time.perf_counter() - start), 3)
        found[f"{name}_cpu_s"] = round((time.process_time() - spent) / len(arrays), 4)
    found["ratio"] = round(found["inspect"] / max(found["all_cores"], found["one_thread"]), 3)
    return found


if __name__ == "__main__":
    main()
