"""What tiles change: the map of CLIP-nano at 512 px seen in one piece, and cut into tiles of several sides.

    python eval/bench_tiles.py --out eval/results/bench_tiles.json

Prints for each side of tiles the mean and the 99th percentile of the difference of the maps, on rendered
pictures and on real photos ($CLIPSAM_DATA_DIR, left out where it is not set), pixel AUROC and PRO on the
rendered ones, and seconds of processor time. Up to twice a tile's side nothing is cut, and nothing may
differ. Takes a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsam import AnomalySegmenter, PixelMetrics
from clipsam.finding import find_photos
from clipsam.heatmap import coarse_map
from clipsam.images import read_photo
from clipsam.nano.corpus.compose import render
from clipsam.runs.manifest import versions

SIZE = 512
TILES = (512, 256, 240, 160, 128)
FOLDERS = (
    "mvtec_ad/bottle",
    *(f"industrial/{name}" for name in ("ball_screw", "commutator", "cookie", "magnetic_tile")),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rendered", type=int, default=10, help="rendered pictures")
    parser.add_argument("--real", type=int, default=3, help="photos of each real set")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    segmenter = AnomalySegmenter.from_preset("nano", product="part", device="cpu", sam=False)
    rendered = [render(seed, SIZE, SIZE, p_normal=0.0) for seed in range(20, 20 + options.rendered)]
    groups = {"rendered": [picture.image for picture in rendered], "real": real_photos(options.real)}
    rows: list[dict[str, Any]] = []
    wholes: dict[str, list[NDArray[np.float32]]] = {}
    for tile in TILES:
        start = time.process_time()
        maps = {name: [seen(segmenter, photo, tile) for photo in group] for name, group in groups.items()}
        row: dict[str, Any] = {"tile": tile, "cpu_seconds": round(time.process_time() - start, 2)}
        wholes = wholes or maps
        for name, found in maps.items():
            if found:
                row |= differences(name, found, wholes[name])
        metrics = PixelMetrics()
        for values, picture in zip(maps["rendered"], rendered, strict=True):
            metrics.update(values, picture.mask)
        figures = metrics.compute()
        row |= {key: round(100 * figures[key], 1) for key in ("pixel_auroc", "pro")}
        rows.append(row)
        print(row, flush=True)
    if options.out:
        found = {"size": SIZE, "rows": rows, "versions": versions()}
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def real_photos(count: int) -> list[NDArray[np.uint8]]:
    """So many photos of each real set, drawn with a fixed seed; none where there are none."""
    root = os.environ.get("CLIPSAM_DATA_DIR")
    if root is None:
        return []
    draw = random.Random(0)
    files = (find_photos([Path(root) / folder / "test"]).photos for folder in FOLDERS)
    return [read_photo(path).pixels for paths in files for path in draw.sample(list(paths), count)]


def seen(segmenter: AnomalySegmenter, photo: NDArray[np.uint8], tile: int) -> NDArray[np.float32]:
    """The coarse map [H, W] with tiles of so many px."""
    settings = replace(segmenter.preset.heatmap, sizes=(SIZE,), tile=tile)
    return coarse_map(photo, segmenter.clip, segmenter.targets, settings, scored=False).anomaly


def differences(
    name: str, maps: Sequence[NDArray[np.float32]], wholes: Sequence[NDArray[np.float32]]
) -> dict[str, float]:
    """Mean and 99th percentile of the absolute difference, means over photos."""
    apart = [np.abs(one - other) for one, other in zip(maps, wholes, strict=True)]
    return {
        f"{name}_mean": round(float(np.mean([part.mean() for part in apart])), 4),
        f"{name}_p99": round(float(np.mean([np.quantile(part, 0.99) for part in apart])), 3),
    }


if __name__ == "__main__":
    main()
