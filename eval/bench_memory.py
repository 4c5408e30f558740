"""Memory of `clipsam inspect` over thousands of photos: it must not grow with their number.

    python eval/bench_memory.py --no-sam --scale 96 --out eval/results/bench_memory.json
    python eval/bench_memory.py --photos 1000 --out eval/results/bench_memory_sam.json

A run over small rendered photos (200 files, linked under as many names as wanted) with the pictures, the
results.jsonl and then the report page that a user gets; the memory of the process is read every 100 photos.
What grows is fitted over the second half of the run: the rows, which are kept for the summary, are some
kilobytes a photo. Exits with 1 where it is more than `LEAK` a photo. Reads no real photos. `--scale 96` shows
photos to CLIP at that size, which makes the run several times shorter and leaves all else as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from clipsam.cli._threads import leave_a_core, share_cores
from clipsam.nano.corpus.compose import render
from clipsam.presets import NANO
from clipsam.report.page import write_report
from clipsam.runs.inspection import inspect_photos
from clipsam.runs.manifest import versions
from clipsam.runs.sitting import Step
from clipsam.segmenter import AnomalySegmenter

FILES, EVERY = 200, 100
LEAK = 10.0  # kB a photo


def main() -> None:
    options = arguments()
    leave_a_core()
    preset = NANO
    if options.scale:
        preset = replace(NANO, heatmap=replace(NANO.heatmap, sizes=(options.scale,)))
    segmenter = AnomalySegmenter.from_preset(preset, product="part", sam=options.sam, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        link_photos(work / "photos", options.photos, options.size)
        memory: list[tuple[int, float]] = []

        def on_step(step: Step) -> None:
            if step.number % EVERY == 0:
                memory.append((step.number, resident_mb()))
                print(f"{step.number} photos: {memory[-1][1]:.1f} MB", flush=True)

        start = time.perf_counter()
        streams = share_cores(segmenter)
        inspect_photos(segmenter, [work / "photos"], work / "run", on_step=on_step, streams=streams)
        seconds = time.perf_counter() - start
        results_mb = (work / "run" / "results.jsonl").stat().st_size / 1e6
        write_report(work / "run")
        with_report = resident_mb()
    growth = kilobytes_a_photo(memory)
    result = {
        "photos": options.photos,
        "size": options.size,
        "sam": options.sam,
        "scale": options.scale or NANO.heatmap.sizes,
        "seconds": round(seconds, 1),
        "memory_mb": memory,
        "growth_kb_per_photo": growth,
        "results_jsonl_mb": round(results_mb, 2),
        "memory_after_report_mb": with_report,
        "peak_mb": peak_mb(),
        "manifest": {"streams": streams, "versions": versions(), "segmenter": segmenter.manifest()},
    }
    print(
        f"memory grows by {growth} kB a photo; {with_report:.0f} MB after the report, at most {peak_mb():.0f}"
    )
    if options.out:
        options.out.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    sys.exit(growth > LEAK)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=5000)
    parser.add_argument("--size", type=int, default=256, help="px along a side")
    parser.add_argument("--scale", type=int, default=0, help="px at which CLIP sees a photo; 0: the preset's")
    parser.add_argument("--sam", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def link_photos(folder: Path, count: int, size: int, distinct: int = FILES) -> None:
    """`count` photos, JPEG and PNG in turn, of which `distinct` differ."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"{number:06d}{'.png' if number % 2 else '.jpg'}"
        if number < distinct:
            Image.fromarray(render(number, size, size, p_normal=0.5).image).save(path, quality=92)
        else:
            path.hardlink_to(folder / f"{number % distinct:06d}{path.suffix}")


def resident_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def peak_mb() -> float:
    """The most that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6, 1)


def kilobytes_a_photo(memory: list[tuple[int, float]]) -> float:
    """The slope of a straight line through the second half of the run; 0 where there are too few points."""
    late = memory[len(memory) // 2 :]
    if len(late) < 3:
        return 0.0
    numbers, megabytes = zip(*late, strict=True)
    return round(1e3 * float(np.polyfit(numbers, megabytes, 1)[0]), 2)


if __name__ == "__main__":
    main()
