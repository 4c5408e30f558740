"""What the gate before SAM saves on a folder that is nearly clean: SAM by the map against SAM on every photo.

    python eval/bench_clean.py --preset base --random-weights --out eval/results/bench_clean.json

Photos are rendered parts; which of them are clean decides the map itself: the region threshold is set to the
value that the wanted share of them stays below. Each photo is segmented both ways, in turns: with SAM where
the map reaches the threshold, and with SAM's embedding of every photo, the least that it costs to ask SAM
anything. Both see the same photos, maps and prompts, so that their maps must be identical. Speed does not
depend on weights; on random ones what is found means nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipsam.bench import bench_segmenter
from clipsam.masks import SoftMask
from clipsam.nano.corpus.compose import render
from clipsam.regions import RegionPrompt
from clipsam.runs.manifest import versions
from clipsam.sam import SamRefiner
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import RegionSettings


class SamOnEveryPhoto(AnomalySegmenter):
    """The same way of a photo, but SAM embeds it also where there is nothing to ask."""

    def _masks(
        self, pixels: NDArray[np.uint8], prompts: Sequence[RegionPrompt], coarse: NDArray[np.float32]
    ) -> Sequence[SoftMask]:
        if not prompts and self.sam is not None:
            self.sam._embed(pixels)
        return super()._masks(pixels, prompts, coarse)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="base")
    parser.add_argument("--random-weights", action="store_true")
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--clean", type=float, default=0.95, help="share of the photos that is clean")
    parser.add_argument("--size", type=int, default=512, metavar="PX")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    segmenter, drawn = bench_segmenter(options.preset, random_weights=options.random_weights, device="cpu")
    photos = [render(seed, options.size, options.size).image for seed in range(options.photos)]
    found = measure(segmenter, photos, options.clean)
    about = {
        "size": options.size, "threads": options.threads, "random_weights": drawn, "versions": versions(),
    }  # fmt: skip
    text = json.dumps(found | about, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


def measure(segmenter: AnomalySegmenter, photos: Sequence[NDArray[np.uint8]], clean: float) -> dict[str, Any]:
    """Seconds of both ways over the folder, wall clock and processor; `identical`: of the photos' maps."""
    gated = _with(segmenter, _threshold(segmenter, photos, clean), AnomalySegmenter)
    always = _with(segmenter, gated.preset.regions, SamOnEveryPhoto)
    assert isinstance(gated.sam, SamRefiner)
    for warming in (gated, always):
        warming.segment(photos[0])
    seconds, spent, flagged, identical = {"gated": 0.0, "always": 0.0}, {"gated": 0.0, "always": 0.0}, 0, 0
    counts = {"gated": 0, "always": 0}
    with _Embeddings(gated.sam) as embeddings:
        for number, photo in enumerate(photos):
            results = {}
            ways = (("gated", gated), ("always", always))
            for name, way in ways if number % 2 else reversed(ways):
                before, wall, processor = embeddings.count, time.perf_counter(), time.process_time()
                results[name] = way.segment(photo)
                seconds[name] += time.perf_counter() - wall
                spent[name] += time.process_time() - processor
                counts[name] += embeddings.count - before
            flagged += bool(results["gated"].coarse_map.max() >= gated.preset.regions.high)
            identical += np.array_equal(results["gated"].anomaly_map, results["always"].anomaly_map)
    return {
        "photos": len(photos),
        "flagged": flagged,
        "identical": identical,
        "embeddings": counts,
        "seconds": seconds,
        "processor_seconds": spent,
        "times_faster": seconds["always"] / seconds["gated"],
        "times_less_processor": spent["always"] / spent["gated"],
        "manifest": gated.manifest(),
    }


class _Embeddings:
    """Counts what SAM embeds while it is open."""

    def __init__(self, sam: SamRefiner) -> None:
        self._sam, self.count = sam, 0

    def __enter__(self) -> _Embeddings:
        embed = self._sam._embed

        def counted(pixels: NDArray[np.uint8]) -> Any:
            self.count += 1
            return embed(pixels)

        self._sam._embed = counted  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        del self._sam._embed


def _threshold(
    segmenter: AnomalySegmenter, photos: Sequence[NDArray[np.uint8]], clean: float
) -> RegionSettings:
    """Region thresholds that this share of the photos, by the highest value of its map, stays below."""
    quiet = AnomalySegmenter(
        segmenter.preset, segmenter.clip, None, segmenter.prompts, segmenter.product
    )  # without SAM
    peaks = sorted(float(quiet.segment(photo).coarse_map.max()) for photo in photos)
    loud = max(1, len(photos) - math.floor(clean * len(photos) + 1e-9))
    high = peaks[-loud]
    return replace(segmenter.preset.regions, high=high, low=min(segmenter.preset.regions.low, high))


def _with(
    segmenter: AnomalySegmenter, regions: RegionSettings, way: type[AnomalySegmenter]
) -> AnomalySegmenter:
    preset = replace(segmenter.preset, regions=regions)
    return way(preset, segmenter.clip, segmenter.sam, segmenter.prompts, segmenter.product)


if __name__ == "__main__":
    main()
