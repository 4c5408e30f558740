"""Time and memory of PixelMetrics against the usual ways to the same figures.

    python eval/bench_metrics.py                     # medians of three rounds, some minutes on two cores
    python eval/bench_metrics.py --out bench.json

Rows: PixelMetrics; exact-sort PRO plus scikit-learn's `roc_auc_score`; the pasted 200-threshold loop, with
the very calls it is pasted with and in our own shorter form (both on a quarter of the maps and scaled up,
unless `--loop-maps` says otherwise); torchmetrics and anomalib's AUPRO where they can be imported (each fits
an environment of its own). Every round runs every row, so that a change of the load falls on all of them.
Before that, 1,725 maps of 1024x1024 are streamed in a fresh process, and its peak memory is printed. Knows
nothing of models or of real photos: the maps are smooth noise with planted defects.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

import clipsam
from clipsam.metrics import PixelMetrics, pasted_threshold_loop_pro

Maps = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_]]
OURS = "PixelMetrics (all figures)"


def synthetic(count: int, size: int, seed: int = 0) -> tuple[Maps, Masks]:
    """`count` maps of `size` squared in [0, 1]; every second one has one to three rectangular defects."""
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for index in range(count):
        mask = np.zeros((size, size), bool)
        for _ in range(index % 2 * int(rng.integers(1, 4))):
            y, x = rng.integers(0, size * 7 // 8, 2)
            h, w = rng.integers(size // 64, size // 8, 2)
            mask[y : y + h, x : x + w] = True
        noise = ndimage.gaussian_filter(rng.normal(size=mask.shape), 4) * 8
        logits = 2 * (noise + 1.5 * ndimage.gaussian_filter(mask.astype(np.float64), 3) - 2)
        maps.append((1 / (1 + np.exp(-logits))).astype(np.float32))
        masks.append(mask)
    return maps, masks


def with_pixel_metrics(maps: Maps, masks: Masks) -> dict[str, float]:
    metrics = PixelMetrics()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.update(anomaly_map, mask)
    figures = metrics.compute()
    return {name: figures[name] for name in ("pro", "pixel_auroc", "pixel_ap", "pixel_f1_max")}


def with_sort_and_sklearn(maps: Maps, masks: Masks) -> dict[str, float]:
    """PRO by one global sort (weights 1/area, ties merged, interpolated at 0.3) and AUROC by scikit-learn."""
    from sklearn.metrics import roc_auc_score

    scores, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([m.ravel() for m in masks])
    weights = []
    for mask in masks:
        regions, _ = ndimage.label(mask, np.ones((3, 3)))
        areas = np.bincount(regions.ravel()).astype(np.float64)
        areas[0] = np.inf
        weights.append((1 / areas)[regions].ravel())
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), scores.size - 1)
    fpr = np.append(0, np.cumsum(~labels[order])[ends] / (~labels).sum())
    overlap = np.cumsum(np.concatenate(weights)[order])[ends]
    overlap = np.append(0, overlap / overlap[-1])
    inside = fpr <= 0.3
    at_limit = np.interp(0.3, fpr, overlap)
    pro = np.trapezoid(np.append(overlap[inside], at_limit), np.append(fpr[inside], 0.3)) / 0.3
    return {"pro": float(pro), "pixel_auroc": float(roc_auc_score(labels, scores))}


def with_pasted_loop(maps: Maps, masks: Masks) -> dict[str, float]:
    return {"pro": pasted_threshold_loop_pro(maps, masks)}


def with_pasted_loop_and_skimage(maps: Maps, masks: Masks) -> dict[str, float]:
    """`cal_pro_score` as CFLOW-AD, APRIL-GAN, AnomalyCLIP and many others have it, call for call: two masked
    assignments, all regions by scikit-image and the inverse of all masks at every threshold. The masks are
    bytes of 0 and 1, the type that is fastest there."""
    from skimage.measure import label, regionprops  # type: ignore[import-not-found]
    from sklearn.metrics import auc

    stack, truth = np.asarray(maps), np.asarray(masks).astype(np.uint8)
    flagged = np.zeros_like(stack, dtype=bool)
    lowest, highest = stack.min(), stack.max()
    rates, overlaps = [], []
    for threshold in np.arange(lowest, highest, (highest - lowest) / 200):
        flagged[stack <= threshold] = 0
        flagged[stack > threshold] = 1
        hits = []
        for binary, mask in zip(flagged, truth, strict=True):
            for region in regionprops(label(mask)):
                hits.append(binary[region.coords[:, 0], region.coords[:, 1]].sum() / region.area)
        good = 1 - truth
        rates.append(np.logical_and(good, flagged).sum() / good.sum())
        overlaps.append(np.array(hits).mean())
    rate, overlap = np.array(rates), np.array(overlaps)
    kept = rate < 0.3
    rate = rate[kept]
    return {"pro": float(auc((rate - rate.min()) / (rate.max() - rate.min()), overlap[kept]))}


def with_torchmetrics(maps: Maps, masks: Masks) -> dict[str, float]:
    import torch
    from torchmetrics.classification import (  # type: ignore[import-not-found]
        BinaryAUROC,
        BinaryAveragePrecision,
    )

    auroc, precision = BinaryAUROC(), BinaryAveragePrecision()
    for anomaly_map, mask in zip(maps, masks, strict=True):
        scores, labels = torch.from_numpy(anomaly_map.ravel()), torch.from_numpy(mask.ravel()).long()
        auroc.update(scores, labels)
        precision.update(scores, labels)
    return {"pixel_auroc": float(auroc.compute()), "pixel_ap": float(precision.compute())}


def with_anomalib(maps: Maps, masks: Masks) -> dict[str, float]:
    import torch
    from anomalib.metrics.aupro import _AUPRO  # type: ignore[import-not-found]

    metric = _AUPRO(fpr_limit=0.3)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metric.update(torch.from_numpy(anomaly_map)[None], torch.from_numpy(mask)[None].int())
    return {"pro": float(metric.compute())}


def measured(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock and of the processor, and what `run` gives."""
    clock, processor = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - clock, time.process_time() - processor, result


def stream(count: int, size: int) -> dict[str, float]:
    """Stream `count` maps through one PixelMetrics; eight distinct maps, shifted, so that making them
    costs little."""
    maps, masks = synthetic(8, size)
    metrics, wall, processor = PixelMetrics(), 0.0, 0.0
    for index in range(count):
        anomaly_map = np.roll(maps[index % 8], index, axis=0)
        mask = np.roll(masks[index % 8], index, axis=0)
        seconds, cpu_seconds, _ = measured(partial(metrics.update, anomaly_map, mask))
        wall, processor = wall + seconds, processor + cpu_seconds
    seconds, cpu_seconds, figures = measured(metrics.compute)
    spent = {"seconds": wall + seconds, "cpu_seconds": processor + cpu_seconds}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"maps": count, **spent, "peak_mb": peak, "pro": figures["pro"]}


def rows(count: int, size: int, rounds: int, loop_maps: int) -> list[dict[str, Any]]:
    """One row per way, the medians of all rounds; the loops run on the first `loop_maps` maps."""
    maps, masks = synthetic(count, size)
    plan: dict[str, tuple[Callable[[Maps, Masks], dict[str, float]], int]] = {
        OURS: (with_pixel_metrics, count),
        "exact sort PRO + sklearn roc_auc_score": (with_sort_and_sklearn, count),
        "pasted 200-threshold loop, scikit-image": (with_pasted_loop_and_skimage, loop_maps),
        "pasted_threshold_loop_pro, scipy": (with_pasted_loop, loop_maps),
        "torchmetrics AUROC + AP": (with_torchmetrics, count),
        "anomalib AUPRO": (with_anomalib, count),
    }
    table: dict[str, dict[str, Any]] = {name: {"what": name} for name in plan}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in plan}
    for name, (run, _) in plan.items():  # imports are not timed
        try:
            run(*synthetic(4, 64))
        except ImportError as missing:
            table[name]["skipped"] = str(missing)
    others = [name for name, row in table.items() if name != OURS and "skipped" not in row]
    for _ in range(rounds):
        for name in others:
            for what in (OURS, name):  # ours is short: before every other, so that it meets the same load
                run, used = plan[what]
                wall, processor, figures = measured(partial(run, maps[:used], masks[:used]))
                times[what].append((wall * count / used, processor * count / used))
                table[what] |= {"maps_run": used, **figures}
    for name, taken in times.items():
        if taken:
            wall, processor = (statistics.median(column) for column in zip(*taken, strict=True))
            table[name] |= {"seconds": wall, "cpu_seconds": processor, "runs": len(taken)}
    return list(table.values())


def machine() -> dict[str, Any]:
    """What the figures depend on: versions, processor, and how busy the machine was."""
    found = {}
    for library in ("numpy", "scipy", "scikit-learn", "scikit-image", "torch", "torchmetrics", "anomalib"):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return {
        "clipsam": clipsam.__version__,
        "python": platform.python_version(),
        "versions": found,
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "load_average": os.getloadavg()[0],
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def processor_name() -> str:
    listed = Path("/proc/cpuinfo")
    for line in listed.read_text().splitlines() if listed.exists() else ():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def streamed_apart(count: int) -> dict[str, float]:
    """`stream` in a process of its own. Run it before anything large is allocated here: a child inherits the
    peak of its parent."""
    command = [sys.executable, __file__, "--only-stream", "--stream", str(count)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def line(row: dict[str, Any], maps: int, ours: dict[str, Any]) -> str:
    if "skipped" in row:
        return f"  {row['what']:40s} skipped: {row['skipped']}"
    note = "" if row["maps_run"] == maps else f"  (run on {row['maps_run']} maps, scaled)"
    shown = "  ".join(f"{k} {row[k]:.6f}" for k in ("pro", "pixel_auroc", "pixel_ap") if k in row)
    times = "  ".join(f"{row[k]:7.2f} s {row[k] / ours[k]:6.1f}x" for k in ("seconds", "cpu_seconds"))
    return f"  {row['what']:40s} {times}  {shown}{note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--maps", type=int, default=100)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--loop-maps", type=int, help="maps for the pasted loops (default: a quarter of --maps)"
    )
    parser.add_argument("--stream", type=int, default=1725, help="maps of 1024x1024 to stream; 0 skips")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    parser.add_argument("--only-stream", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_stream:
        print(json.dumps(stream(options.stream, 1024)))
        return
    loop_maps = options.loop_maps or max(2, options.maps // 4)
    result: dict[str, Any] = {"manifest": machine(), "maps": options.maps, "size": options.size}
    if options.stream:
        result["stream"] = streamed_apart(options.stream)
        shown = "streamed {maps} maps of 1024x1024: {seconds:.1f} s, {cpu_seconds:.1f} s of the processor, "
        shown += "peak {peak_mb:.0f} MB, pro {pro:.6f}"
        print(shown.format(**result["stream"]))
    result["rows"] = rows(options.maps, options.size, options.rounds, loop_maps)
    print(f"{options.maps} maps of {options.size}x{options.size}, medians: by the clock, of the processor")
    for row in result["rows"]:
        print(line(row, options.maps, result["rows"][0]))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
