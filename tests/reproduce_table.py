"""The figures of `clipsam eval --dump-maps` once more, from the dumped maps and the masks alone.

Usage: `python tests/reproduce_table.py OUT ROOT`, OUT a folder of `clipsam eval`, ROOT the dataset in MVTec's
layout. Prints each category's figures beside those of metrics.json; exits with 1 where one differs by more
than 1e-4. Sorts all pixels; imports nothing of clipsam.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

NAMES = (
    "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pro", "pixel_ap", "pixel_f1_max", "pro_005",
)  # fmt: skip


def reproduced(maps: Path, truth: Path, scored: Path | None = None) -> dict[str, float]:
    """A category's figures: `maps` holds test/<defect>/<stem>.tiff, `truth` <defect>/<stem>_mask.png; photos
    are scored by the highest value of their map there, or in the folder `scored`.
    """
    scores, weights, tops, defective = [], [], [], []
    for path in sorted(maps.glob("test/*/*.tiff")):
        with Image.open(path) as image:
            scores.append(np.asarray(image, np.float32).ravel())
        weight = np.zeros(scores[-1].size)  # 1/area of its region for each defective pixel
        if path.parent.name != "good":
            with Image.open(truth / path.parent.name / f"{path.stem}_mask.png") as image:
                regions, count = ndimage.label(np.asarray(image) > 0, np.ones((3, 3)))
            areas = np.bincount(regions.ravel())
            weight = np.divide(1, areas, out=np.zeros(count + 1), where=np.arange(count + 1) > 0)[
                regions.ravel()
            ]
        weights.append(weight)
        with Image.open((scored or maps) / path.relative_to(maps)) as image:
            tops.append(float(np.asarray(image, np.float32).max()))
        defective.append(path.parent.name != "good")
    score, overlap = np.concatenate(scores), np.concatenate(weights)
    order = np.argsort(-score, kind="stable")
    score, overlap = score[order], overlap[order]
    ends = np.append(np.flatnonzero(np.diff(score)), score.size - 1)  # tied pixels count at once
    curve = _curve(overlap > 0, ends)
    share = np.append(0, np.cumsum(overlap)[ends]) / overlap.sum()
    top = np.argsort(-np.array(tops), kind="stable")
    steps = np.append(np.flatnonzero(np.diff(np.array(tops)[top])), top.size - 1)
    image_figures = _figures(_curve(np.array(defective)[top], steps))
    return {
        **{f"image_{name}": value for name, value in image_figures.items()},
        **{f"pixel_{name}": value for name, value in _figures(curve).items()},
        "pro": _area_to(0.3, curve[1], share),
        "pro_005": _area_to(0.05, curve[1], share),
    }


Curve = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def _curve(positive: NDArray[np.bool_], ends: NDArray[np.intp]) -> Curve:
    """Recall, false positive rate and precision where a threshold can stand, highest score first."""
    hits = np.append(0, np.cumsum(positive)[ends])
    calls = np.append(0, ends + 1)
    misses = calls - hits
    precision = np.divide(hits, calls, out=np.ones(hits.size), where=calls > 0)
    return hits / hits[-1], misses / misses[-1], precision


def _figures(curve: Curve) -> dict[str, float]:
    recall, fpr, precision = curve
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {
        "auroc": float(np.trapezoid(recall, fpr)),
        "ap": float(np.sum(np.diff(recall) * precision[1:])),
        "f1_max": float(f1.max()),
    }


def _area_to(limit: float, fpr: NDArray[np.float64], overlap: NDArray[np.float64]) -> float:
    kept = fpr <= limit
    x, y = np.append(fpr[kept], limit), np.append(overlap[kept], np.interp(limit, fpr, overlap))
    return float(np.trapezoid(y, x) / limit)


def main(out: Path, root: Path) -> int:
    """Compare; the exit code."""
    written = json.loads((out / "metrics.json").read_text("utf-8"))
    worst = 0.0
    print("category map", *NAMES, "largest difference")
    for category, entry in written["categories"].items():
        for variant, figures in entry["figures"].items():
            # A preset may score the whole photo by the map before it is sharpened.
            method = entry.get("method") or {}
            by_coarse = (method.get("fusion") or {}).get("score") == "coarse"
            maps = out / "maps" / variant / category
            scored = out / "maps/coarse" / category if by_coarse else None
            again = reproduced(maps, root / category / "ground_truth", scored)
            # Scores that other photos give a photo are not in its maps.
            others = method.get("references") or method.get("consensus") or {}
            elsewhere = others.get("photo_score") == "distances" or others.get("rescored")
            proven = [name for name in NAMES if not (elsewhere and name.startswith("image"))]
            difference = max(abs(again[name] - figures[name]) for name in proven)
            worst = max(worst, difference)
            print(
                category,
                variant,
                *(f"{100 * again[name]:.2f}" if name in proven else "-" for name in NAMES),
                f"{difference:.1e}",
                flush=True,
            )
    print(f"largest difference to metrics.json: {worst:.1e}")
    return int(worst > 1e-4)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tests/reproduce_table.py OUT ROOT")
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
