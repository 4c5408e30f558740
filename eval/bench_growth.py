"""How time and memory of `clipsam inspect` grow with the size of a photo, regions, photos and processes.

    python eval/bench_growth.py --only size         # 0.25 to 100 megapixels, each in a process of its own
    python eval/bench_growth.py --only regions      # what SAM and fusion take for 0 to 64 regions
    python eval/bench_growth.py --only photos       # 10 to 100,000 photos, all but the models
    python eval/bench_growth.py --only processes    # one process, and two on halves of the folder
    python eval/bench_growth.py --only figure

Each part puts its figures into eval/results/growth.json and draws eval/results/growth.png anew from all that
is there; without --only all of it runs. A part takes less than five minutes on two idle cores. Rendered
photos only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from clipsam.cli._store import Keeping
from clipsam.cli.inspect import in_words
from clipsam.finding import find_photos
from clipsam.fusion import fuse
from clipsam.images import Photo
from clipsam.nano.corpus.compose import render
from clipsam.regions import region_prompts
from clipsam.result import Region, Segmentation
from clipsam.runs.inspection import RunSummary, inspect_photos
from clipsam.runs.manifest import versions
from clipsam.settings import RegionSettings
from clipsam.store import Station

MEGAPIXELS = (0.25, 1, 4, 12, 25, 50, 100)
REGIONS = (0, 1, 2, 4, 8, 16, 32, 64)
PHOTOS = (10, 100, 1000, 10_000, 100_000)
ROWS = {"size": "megapixels", "regions": "regions", "photos": "photos", "processes": "processes"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=[*ROWS, "figure"])
    parser.add_argument("--quick", action="store_true", help="small numbers, to try it out")
    parser.add_argument("--out", type=Path, default=Path("eval/results/growth.json"))
    parser.add_argument("--loop", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        print(json.dumps(the_loop(options.loop)))
        return
    parts: dict[str, Callable[[bool], list[dict[str, Any]]]] = {
        "size": by_size,
        "regions": by_regions,
        "photos": by_photos,
        "processes": by_processes,
    }
    for name, part in parts.items():
        if options.only in (None, name):
            found = json.loads(options.out.read_text()) if options.out.exists() else {}
            found[name] = {"rows": part(options.quick), "versions": versions()}
            options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(json.loads(options.out.read_text()), options.out.with_suffix(".png"))


def by_size(quick: bool) -> list[dict[str, Any]]:
    """Seconds of reading, models and writing, and peak memory, of a photo alone in a fresh process."""
    part = Image.fromarray(render(3, 1000, 1000, p_normal=0.0).image)
    rows = []
    for megapixels in MEGAPIXELS[:3] if quick else MEGAPIXELS:
        side = round(1000 * megapixels**0.5)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "photos" / "photo.jpg"
            path.parent.mkdir()
            part.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=92)
            inspect(path.parent, Path(folder) / "run")
            row = json.loads((Path(folder) / "run" / "results.jsonl").read_text())
            peak = run_peak_mb(Path(folder) / "run")
        stages = row["stages"]
        rows.append(
            told(
                {"megapixels": megapixels, "seconds": sum(stages.values()), "stages": stages, "peak_mb": peak}
            )
        )
    return rows


def by_regions(quick: bool) -> list[dict[str, Any]]:
    """Milliseconds of SAM and of fusion for a photo of 512 px with so many regions, medians."""
    from clipsam.segmenter import AnomalySegmenter  # here: the loop is measured without torch

    segmenter = AnomalySegmenter.from_preset("nano", product="part", device="cpu")
    assert segmenter.sam is not None
    pixels = render(3, 512, 512, p_normal=0.0).image
    rows = []
    for count in REGIONS[:4] if quick else REGIONS:
        coarse = spots(count)
        settings = RegionSettings(low=0.4, high=0.5, max_regions=max(1, count))
        sam, fusion = [], []
        for _ in range(2 if quick else 6):  # the first of them warms up
            prompts = region_prompts(coarse, settings)
            times = [time.perf_counter()]
            masks = segmenter.sam.refine(pixels, prompts, coarse, segmenter.preset.sam_settings)
            times.append(time.perf_counter())
            fuse(coarse, masks, segmenter.preset.fusion)
            times.append(time.perf_counter())
            sam.append(1e3 * (times[1] - times[0]))
            fusion.append(1e3 * (times[2] - times[1]))
        assert len(prompts) == count
        medians = {"sam_ms": statistics.median(sam[1:]), "fusion_ms": statistics.median(fusion[1:])}
        rows.append(told({"regions": count, **medians, "peak_mb": peak_mb()}))
    return rows


def spots(count: int, side: int = 512) -> np.ndarray:
    """A map with so many round regions on a grid of 8 x 8."""
    values = np.zeros((side, side), np.float32)
    step = side // 8
    for number in range(count):
        row, column = divmod(number * 19 % 64, 8)
        values[row * step + step // 2, column * step + step // 2] = 1
    values = ndimage.gaussian_filter(values, 7)
    return values / max(float(values.max()), 1e-9) * np.float32(0.9)


def by_photos(quick: bool) -> list[dict[str, Any]]:
    """Milliseconds per photo, and memory, of everything but the models, pictures but the masks left out."""
    rows = []
    for count in PHOTOS[:3] if quick else PHOTOS:
        command = [sys.executable, __file__, "--loop", str(count)]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rows.append(told(json.loads(answer.splitlines()[-1])))
    return rows


class NoModels:
    """Answers at once, with a region in every photo."""

    def __init__(self) -> None:
        coarse = spots(1, 64)
        mask = coarse > 0.5
        (rows, columns), *_ = ndimage.find_objects(mask.astype(int))
        box = (columns.start, rows.start, columns.stop, rows.stop)
        region = Region(box, int(mask.sum()), 0.9, "stain", mask[rows, columns], mask.shape)
        self._answer = Segmentation(0.9, coarse, coarse, mask, (region,))

    def segment(self, image: Photo) -> Segmentation:
        return self._answer

    def manifest(self) -> dict[str, Any]:
        return {"preset": "none", "device": "cpu", "pixel_threshold": 0.5}


def the_loop(count: int) -> dict[str, Any]:
    """A run over `count` photos of 64 px: listed, inspected and kept in a store, then inspected again, when
    all is found done, and summed up. Wall clock and processor time, of all threads.
    """
    with tempfile.TemporaryDirectory() as folder:
        photos, run, store = (Path(folder) / name for name in ("photos", "run", "station.sqlite"))
        photos.mkdir()
        first = photos / "000000.jpg"
        Image.fromarray(render(3, 64, 64).image).save(first)
        data = first.read_bytes()
        for number in range(1, count):  # after a JPEG's end: other bytes, same picture
            (photos / f"{number:06d}.jpg").write_bytes(data + number.to_bytes(4))
        before, spent = peak_mb(), dict[str, float]()
        found = timed(spent, "listing", lambda: find_photos([photos]))
        done = len(timed(spent, "", lambda: kept(photos, run, store)).rows)
        memory = peak_mb()  # of a user's one run
        again = timed(spent, "again", lambda: kept(photos, run, store))
        timed(spent, "summary", lambda: (again.as_dict(), in_words(again)))
        assert len(found.photos) == done == again.resumed == count
        lines, database = ((run / "results.jsonl").stat().st_size, store.stat().st_size)
    return {
        "photos": count,
        **{name: value / count for name, value in spent.items()},
        "memory_mb": memory - before,
        "peak_mb": memory,
        "bytes_per_row": lines / count,
        "bytes_in_store": database / count,
    }


def kept(photos: Path, run: Path, store: Path) -> RunSummary:
    """What `clipsam inspect` does, without maps and overlays."""
    segmenter = NoModels()
    with Keeping(Station.open(str(store)), run, segmenter) as keeping:
        summary = inspect_photos(segmenter, [photos], run, maps="none", overlays=False, on_step=keeping.step)
    assert keeping.as_dict()["stored"]
    return summary


def timed(spent: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; its milliseconds go into `spent`."""
    start, busy = time.perf_counter(), time.process_time()
    answer = work()
    prefix = f"{name}_" if name else ""
    spent[f"{prefix}ms_per_photo"] = 1e3 * (time.perf_counter() - start)
    spent[f"{prefix}cpu_ms_per_photo"] = 1e3 * (time.process_time() - busy)
    return answer


def by_processes(quick: bool) -> list[dict[str, Any]]:
    """Photos per second of one process on a folder, and of two at once on its halves."""
    count = 8 if quick else 60
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        halves = [Path(folder) / name for name in ("a", "b")]
        for half in halves:
            half.mkdir()
        for number in range(count):
            path = halves[number % 2] / f"{number:03d}.jpg"
            Image.fromarray(render(number % 10, 512, 512, p_normal=0.5).image).save(path, quality=92)
        for processes, groups in ((1, [halves]), (2, [halves[:1], halves[1:]])):
            runs = [Path(folder) / f"run-{processes}-{index}" for index in range(len(groups))]
            started = [start(group, run) for group, run in zip(groups, runs, strict=True)]
            answers = [json.loads(process.communicate()[0]) for process in started]
            rate = sum(answer["photos_per_second"] for answer in answers)
            peak = sum(map(run_peak_mb, runs))
            rows.append(told({"processes": processes, "photos_per_second": rate, "peak_mb": peak}))
    return rows


def start(photos: list[Path], run: Path) -> subprocess.Popen[str]:
    """`clipsam inspect --json` on its way."""
    command = [sys.executable, "-m", "clipsam", "inspect", *map(str, photos), "--out", str(run), "--json"]
    command += ["--product", "part", "--preset", "nano", "--store", "none"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def inspect(photos: Path, run: Path) -> None:
    """`clipsam inspect`, waited for."""
    process = start([photos], run)
    process.communicate()
    if process.returncode:
        raise SystemExit(f"clipsam inspect ended with {process.returncode}")


def run_peak_mb(run: Path) -> float:
    """The most memory of the process that made a run, which its manifest has in units of 2**20 bytes."""
    return float(json.loads((run / "run.json").read_text())["peak_memory_mb"]) * 2**20 / 1e6


def peak_mb() -> float:
    """The most memory that this process has had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


def told(row: dict[str, Any]) -> dict[str, Any]:
    """The row, rounded, and printed."""
    row = {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
    print(row, flush=True)
    return row


def draw(found: dict[str, Any], path: Path) -> None:
    """Time on the left axis, memory on the right one, a panel for each part that is there."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    times = {
        "size": (("seconds", "one photo"),),
        "regions": (("sam_ms", "SAM"), ("fusion_ms", "fusion")),
        "photos": (("cpu_ms_per_photo", "inspected"), ("again_cpu_ms_per_photo", "found done")),
        "processes": (("photos_per_second", "all processes together"),),
    }
    units = {
        "size": "seconds",
        "regions": "ms",
        "photos": "ms of CPU per photo",
        "processes": "photos per second",
    }
    titles = {
        "size": "Size of the photo, megapixels",
        "regions": "Regions that SAM is asked about",
        "photos": "Photos in a folder, no models",
        "processes": "Processes on two cores",
    }
    parts = [name for name in ROWS if name in found]
    figure, axes = plt.subplots(1, len(parts), figsize=(4.4 * len(parts), 3.6), squeeze=False)
    for axis, name in zip(axes[0], parts, strict=True):
        rows = found[name]["rows"]
        at = [row[ROWS[name]] for row in rows]
        for (key, label), colour in zip(times[name], ("#1f5fa8", "#69a2d8"), strict=False):
            axis.plot(at, [row[key] for row in rows], "o-", color=colour, label=label)
        axis.set_title(titles[name], fontsize=10)
        axis.set_ylabel(units[name], color="#1f5fa8")
        if name in ("size", "photos"):
            axis.set_xscale("log")
        if name == "size":
            axis.set_yscale("log")
            axis.set_ylim(top=20 * axis.get_ylim()[1])  # room for the legend
        else:
            axis.set_ylim(0, 1.4 * axis.get_ylim()[1])
        if name == "processes":
            axis.set_xticks(at)
        memory = axis.twinx()
        memory.plot(at, [row["peak_mb"] / 1e3 for row in rows], "s--", color="#b4472e", label="peak memory")
        memory.set_ylim(0, 1.4 * memory.get_ylim()[1])
        memory.set_ylabel("GB", color="#b4472e")
        lines = [*axis.get_lines(), *memory.get_lines()]
        axis.legend(handles=lines, fontsize=8, loc="upper left", framealpha=0.9)
        axis.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
