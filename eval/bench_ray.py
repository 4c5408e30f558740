"""What many machines cost: the engines of inspect beside each other on the photos of one folder.

python eval/bench_ray.py --data DIR ... [--photos 96] [--workers 2] [--out eval/results/bench_ray.json]

Some rounds, each with the local engine and with Ray: seconds of the whole call, of the photos alone (from
the first row to the last), and of this process on the processor. A segmenter that only reads shows what Ray
itself costs per photo; every run with Ray is compared row by row with the local one. Then bytes per photo:
what comes in, what travels back and is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np

from clipsam.finding import find_photos
from clipsam.images import Photo
from clipsam.result import Segmentation
from clipsam.runs.inspection import inspect_photos
from clipsam.runs.manifest import versions
from clipsam.runs.photowork import Engine, Segmenter
from clipsam.runs.ray_engine import RayEngine
from clipsam.runs.sitting import Step

UNTIMED = ("seconds", "stages", "time")


class Reader:
    """Reads and answers at once: what is left is the engine."""

    def segment(self, image: Photo) -> Segmentation:
        values = np.zeros(image.pixels.shape[:2], np.float32)
        return Segmentation(0.0, values, values, values > 0, ())

    def manifest(self) -> dict[str, Any]:
        return {"preset": "reader", "device": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", required=True, help="folders with photos")
    parser.add_argument("--photos", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--no-sam", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    photos = spread([str(path) for path in find_photos(options.data).photos], options.photos)

    import ray

    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_agent_register_timeout_ms", "240000")  # it gives up soon on a busy machine
    start = time.perf_counter()
    ray.init(include_dashboard=False, log_to_driver=False)
    report: dict[str, Any] = {"cluster_starts_in": round(time.perf_counter() - start, 2)}
    from bench_ray import Reader as Importable  # by its module's name, so that workers find it

    from clipsam.devices import compute_on
    from clipsam.segmenter import AnomalySegmenter

    pair = AnomalySegmenter.from_preset("nano", product="part", device="cpu", sam=not options.no_sam)
    # As many threads as a worker has: sums in another order differ in their last digits.
    compute_on(max(1, (os.cpu_count() or 1) // options.workers))
    for name, segmenter in (("reader", Importable()), ("nano", pair)):
        rounds: dict[str, list[dict[str, float]]] = {"local": [], "ray": []}
        for _ in range(options.rounds):
            for engine, took in rounds.items():
                with tempfile.TemporaryDirectory() as folder:
                    run = Path(folder) / "run"
                    far = RayEngine(options.workers) if engine == "ray" else None
                    took.append(timed(segmenter, photos, run, far))
                    if engine == "local":
                        rows = plain_rows(run)
                    elif plain_rows(run) != rows:
                        raise SystemExit(f"{name}: the rows of the two engines differ")
                    sizes = bytes_per_photo(run, photos)
            print(name, {engine: took[-1] for engine, took in rounds.items()}, flush=True)
        report[name] = {
            engine: {key: round(statistics.median(each[key] for each in took), 4) for key in took[0]}
            for engine, took in rounds.items()
        }
        report[name]["rounds"] = rounds
        report[name]["bytes_per_photo"] = sizes
    ray.shutdown()
    report |= {
        "photos": len(photos),
        "workers": options.workers,
        "rows_are_identical": True,
        "manifest": {"versions": versions() | {"ray": ray.__version__}, "cores": os.cpu_count()}
        | {"segmenter": pair.manifest()},
    }
    text = json.dumps(report, indent=2, default=str) + "\n"
    if options.out:
        options.out.write_text(text)
    print(text)


def timed(segmenter: Segmenter, photos: list[str], run: Path, engine: Engine | None) -> dict[str, float]:
    """Seconds: of the call, to the first row, per photo after that; of this process on the processor."""
    times, used = list[float](), list[float]()

    def note(_: Step) -> None:
        times.append(time.perf_counter())
        used.append(cpu_seconds())

    start = time.perf_counter()
    inspect_photos(segmenter, photos, run, on_step=note, engine=engine)
    whole = time.perf_counter() - start
    return {
        "seconds": whole,
        "to_first_row": times[0] - start,
        "per_photo": (times[-1] - times[0]) / (len(times) - 1),
        "cpu_per_photo": (used[-1] - used[0]) / (len(used) - 1),
    }


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def spread(paths: list[str], count: int) -> list[str]:
    """So many of the photos, evenly over their order."""
    places = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [paths[place] for place in places]


def plain_rows(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "results.jsonl").read_bytes().splitlines()]
    return [{key: value for key, value in row.items() if key not in UNTIMED} for row in rows]


def bytes_per_photo(run: Path, photos: list[str]) -> dict[str, int]:
    """What is read, and what is kept by kind."""
    sizes = {"photo": sum(Path(photo).stat().st_size for photo in photos)}
    sizes["row"] = (run / "results.jsonl").stat().st_size
    for folder in ("maps", "masks", "overlays"):
        sizes[folder] = sum(file.stat().st_size for file in (run / folder).rglob("*") if file.is_file())
    tracemalloc.start()
    kept = plain_rows(run)
    sizes["row_in_memory"] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(kept) == len(photos)
    return {name: round(size / len(photos)) for name, size in sizes.items()}


if __name__ == "__main__":
    main()
