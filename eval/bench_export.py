"""What exported programs bring and cost: time beside the eager towers in one run, and figures on real photos.

python eval/bench_export.py [--rounds 20] [--threads 2] [--data DIR] [--limit 4] [--cpu-time] [--out FILE]

Exports nano in every format to --work (kept: a second call goes on), then measures in turns, round by round:
CLIP-nano at each scale of its preset, the encoder of SAM-nano, and `segment` of a rendered part of 512 px
without and with SAM.
With --data (a folder with mvtec_ad/ and industrial/) it also scores a sample of each set, --limit photos per
type of defect and as many good ones, in every format, and says how far the mean is from eager float32.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from clipsam.datasets import open_dataset
from clipsam.devices import compute_on
from clipsam.nano.corpus.compose import render
from clipsam.programs import CARD, export
from clipsam.runs.manifest import versions
from clipsam.sam import prepared
from clipsam.sam_backends import embed
from clipsam.scoring import ScoringOptions, score_category
from clipsam.segmenter import AnomalySegmenter

BASE = "eager float32"
FORMATS = {  # backend and precision
    BASE: None,
    "eager bfloat16": None,
    "openvino float32": ("openvino", "float32"),
    "openvino bfloat16": ("openvino", "bfloat16"),
    "openvino int8": ("openvino", "int8"),
    "onnx float32": ("onnx", "float32"),
}
SETS = (("mvtec", "mvtec_ad"), ("folder", "industrial"))
SHOWN = ("pixel_auroc", "pro")
PACKAGES = ("openvino", "nncf", "onnx", "onnxscript", "onnxruntime")

Calls = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), metavar="FORMAT")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cpu-time", action="store_true", help="time of the process, for a busy machine, not of the clock"
    )
    parser.add_argument("--rounds", type=int, default=20, help="0: no times, figures only")
    parser.add_argument("--data", type=Path, help="with mvtec_ad/ and industrial/: score photos too")
    parser.add_argument("--limit", type=int, default=4)
    parser.add_argument("--work", type=Path, default=Path("clipsam-bench-export"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    compute_on(options.threads)
    names = [BASE, *(name for name in options.formats if name != BASE)]
    segmenters = {name: loaded(name, options.work) for name in names}
    found: dict[str, Any] = {}
    if options.rounds:
        found["speed"] = speed(
            segmenters, options.rounds, time.process_time if options.cpu_time else time.perf_counter
        )
        print(speed_table(found["speed"]), flush=True)
    if options.data:
        found["accuracy"] = accuracy(segmenters, options.data, options.limit)
        print(accuracy_table(found["accuracy"]), flush=True)
    if options.out:
        options.out.write_text(
            json.dumps(found | {"manifest": manifest(segmenters, options)}, indent=1) + "\n"
        )


def loaded(name: str, work: Path) -> AnomalySegmenter:
    """nano in one format; exported first where it is not in `work`."""
    options: dict[str, Any] = {"product": "part", "device": "cpu"}
    how = FORMATS[name]
    if how is None:
        return AnomalySegmenter.from_preset("nano", dtype=name.split()[1], **options)
    folder = work / name.replace(" ", "-")
    if not (folder / CARD).is_file():
        start = time.perf_counter()
        export(AnomalySegmenter.from_preset("nano", **options), folder, [(512, 512)], *how)
        print(f"{folder}: exported in {time.perf_counter() - start:.0f} s", flush=True)
    return AnomalySegmenter.from_preset("nano", exported=folder, **options)


def speed(
    segmenters: dict[str, AnomalySegmenter], rounds: int, clock: Callable[[], float]
) -> dict[str, dict[str, dict[str, float]]]:
    """Medians of milliseconds and of the rounds' ratios to eager float32, by part and format."""
    photo = render(3, 512, 512, p_normal=0.0).image
    calls = {name: parts(segmenter, photo) for name, segmenter in segmenters.items()}
    times: dict[str, dict[str, list[float]]] = {part: {name: [] for name in calls} for part in calls[BASE]}
    order = list(calls)
    for number in range(-3, rounds):
        order = order[1:] + order[:1]  # who comes first takes turns
        for part, seconds in times.items():
            for name in order:
                start = clock()
                calls[name][part]()
                if number >= 0:
                    seconds[name].append(clock() - start)
    return {
        part: {
            name: {
                "ms": round(1e3 * statistics.median(spent), 2),
                "faster": round(
                    statistics.median(a / b for a, b in zip(seconds[BASE], spent, strict=True)), 2
                ),
            }
            for name, spent in seconds.items()
        }
        for part, seconds in times.items()
    }


def parts(segmenter: AnomalySegmenter, photo: Any) -> Calls:
    """What is timed of one segmenter."""
    clip, sam = segmenter.clip, segmenter.sam
    assert sam is not None
    values = prepared(sam._processor.image_processor, photo)["pixel_values"]
    calls: Calls = {}
    for side in segmenter.preset.heatmap.sizes:
        pixels = torch.rand(1, 3, side, side)
        calls[f"CLIP, {side} px"] = lambda pixels=pixels: clip.encode_pixels(pixels, "plain")

    @torch.inference_mode()
    def encode() -> Any:
        with torch.autocast("cpu", clip.dtype, enabled=clip.dtype != torch.float32):
            return sam.programs(values) if sam.programs else embed(sam.model, sam.backend, values)

    calls["SAM's encoder"] = encode
    alone = copy.copy(segmenter)
    alone.sam = None
    calls["segment, no SAM"] = lambda: alone.segment(photo)
    calls["segment"] = lambda: segmenter.segment(photo)
    return calls


def accuracy(segmenters: dict[str, AnomalySegmenter], data: Path, limit: int) -> dict[str, Any]:
    """Per format the figures of each set in per cent, their means, and how far these are from eager's."""
    figures: dict[str, dict[str, dict[str, float]]] = {name: {} for name in segmenters}
    photos = {}
    for kind, folder in SETS:
        for category in open_dataset(kind, data / folder).limited(limit).categories:
            photos[category.name] = len(category.samples)
            for name, segmenter in segmenters.items():
                scores = score_category(segmenter, category, ScoringOptions()).total("fused").compute()
                figures[name][category.name] = {figure: round(100 * scores[figure], 2) for figure in SHOWN}
                print(f"{category.name}, {name}: {figures[name][category.name]}", flush=True)
    means = {
        name: {
            figure: round(statistics.mean(entry[figure] for entry in sets.values()), 2) for figure in SHOWN
        }
        for name, sets in figures.items()
    }
    apart = {
        name: {figure: round(mean[figure] - means[BASE][figure], 2) for figure in SHOWN}
        for name, mean in means.items()
    }
    return {"photos": photos, "sets": figures, "mean": means, "difference": apart}


def speed_table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    lines = [f"{'ms (times faster)':<20}" + "".join(f"{part:>22}" for part in found)]
    for name in found["segment"]:
        cells = (f"{row[name]['ms']:.1f} ({row[name]['faster']:.2f})" for row in found.values())
        lines.append(f"{name:<20}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join(lines)


def accuracy_table(found: dict[str, Any]) -> str:
    names = list(found["photos"])
    lines = [f"{'pixel AUROC / PRO':<20}" + "".join(f"{name:>15}" for name in (*names, "mean", "difference"))]
    for name, sets in found["sets"].items():
        rows = [*(sets[category] for category in names), found["mean"][name]]
        cells = [f"{row['pixel_auroc']:.2f}/{row['pro']:.2f}" for row in rows]
        apart = found["difference"][name]
        cells.append(f"{apart['pixel_auroc']:+.2f}/{apart['pro']:+.2f}")
        lines.append(f"{name:<20}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def manifest(segmenters: dict[str, AnomalySegmenter], options: argparse.Namespace) -> dict[str, Any]:
    """What the figures were made with."""
    about = {"rounds": options.rounds, "threads": options.threads, "limit": options.limit}
    about["clock"] = "process" if options.cpu_time else "wall"
    return about | {
        "segmenter": segmenters[BASE].manifest(),
        "versions": versions() | {name: _version(name) for name in PACKAGES},
        "machine": platform.machine(),
        "megabytes": {name: _megabytes(segmenter) for name, segmenter in segmenters.items()},
    }


def _megabytes(segmenter: AnomalySegmenter) -> float | None:
    """Of a format's files."""
    if segmenter.clip.programs is None:
        return None
    folder = segmenter.clip.programs.programs.folder
    return round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
