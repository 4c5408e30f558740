"""What the gate before SAM saves on a folder that is nearly clean: SAM by the map against SAM on every photo.

    python eval/bench_clean.py --preset base --random-weights --always 3 --out eval/results/bench_clean.json

Photos are rendered parts; which of them are clean decides the map itself: the region threshold is set to the
value that the wanted share of them stays below. Photos are segmented both ways, in turns: with SAM where the
map reaches the threshold, and with SAM's embedding of every photo, the least that it costs to ask SAM
anything. Both see the same photos, maps and prompts, so that their maps must be identical; ends with 1 where
one is not. `--always` says how many photos are segmented the second way, the flagged ones first: each costs
the same there, and SAM is slow. Speed does not depend on weights; on random ones what is found means nothing.

What the gate can save at most follows from the networks: (CLIP + SAM) / (CLIP + share flagged * SAM), which
is `at_most`, from the stages of the photos that SAM saw.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipsam.bench import bench_segmenter
from clipsam.devices import compute_on
from clipsam.masks import SoftMask
from clipsam.nano.corpus.compose import render
from clipsam.regions import RegionPrompt, region_prompts
from clipsam.result import Segmentation
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
    parser.add_argument("--always", type=int, help="so many photos with SAM on each (all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    compute_on(options.threads)
    segmenter, drawn = bench_segmenter(options.preset, random_weights=options.random_weights, device="cpu")
    photos = [render(seed, options.size, options.size).image for seed in range(options.photos)]
    found = measure(segmenter, photos, options.clean, options.always)
    about = {
        "size": options.size, "threads": options.threads, "random_weights": drawn, "versions": versions(),
    }  # fmt: skip
    text = json.dumps(found | about, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)
    sys.exit(found["identical"] < found["compared"])


def measure(
    segmenter: AnomalySegmenter,
    photos: Sequence[NDArray[np.uint8]],
    clean: float,
    always: int | None = None,
) -> dict[str, Any]:
    """Both ways over the folder, seconds a photo by the clock and of the processor; `identical`: of the maps
    that are `compared`, all of them but for `always`.
    """
    regions, order = _threshold(segmenter, photos, clean)
    gate = _with(segmenter, regions, AnomalySegmenter)
    every = _with(segmenter, regions, SamOnEveryPhoto)
    assert isinstance(gate.sam, SamRefiner)
    every.segment(photos[order[0]])  # warms up what both use
    asked = set(order[: len(photos) if always is None else always])
    gated, other, flagged, identical = list[_Spent](), list[_Spent](), 0, 0
    with _Embeddings(gate.sam) as embeddings:
        for number, photo in enumerate(photos):
            ways: list[tuple[AnomalySegmenter, list[_Spent]]] = [(gate, gated)]
            if number in asked:
                ways.insert(number % 2, (every, other))
            results = {}
            for way, spent in ways:
                results[way], took = _timed(way, photo, embeddings)
                spent.append(took)
            flagged += gated[-1].embeddings > 0
            identical += every in results and _same(results[gate], results[every])
    means = {"gated": _mean(gated), "always": _mean(other)}
    share = flagged / len(photos)
    return {
        "photos": len(photos),
        "flagged": flagged,
        "compared": len(other),
        "identical": identical,
        "embeddings": {
            "gated": sum(one.embeddings for one in gated),
            "always": sum(o.embeddings for o in other),
        },
        "seconds_per_photo": {name: mean.wall for name, mean in means.items()},
        "processor_seconds_per_photo": {name: mean.processor for name, mean in means.items()},
        "times_faster": means["always"].wall / means["gated"].wall,
        "times_less_processor": means["always"].processor / means["gated"].processor,
        "at_most": 1 / (share + (1 - share) * (1 - means["always"].sam_share)),
        "manifest": gate.manifest(),
    }


@dataclass(frozen=True)
class _Spent:
    """Seconds of a photo, or means of them, and what SAM embedded."""

    wall: float
    processor: float
    sam_share: float  # of `wall`
    embeddings: int = 0


def _timed(
    way: AnomalySegmenter, photo: NDArray[np.uint8], embeddings: _Embeddings
) -> tuple[Segmentation, _Spent]:
    before, start, busy = embeddings.count, time.perf_counter(), time.process_time()
    result = way.segment(photo)
    wall = time.perf_counter() - start
    spent = _Spent(wall, time.process_time() - busy, result.timings["sam"] / wall, embeddings.count - before)
    return result, spent


def _mean(all_of_them: Sequence[_Spent]) -> _Spent:
    return _Spent(
        *(fmean(getattr(one, name) for one in all_of_them) for name in ("wall", "processor", "sam_share"))
    )


def _same(one: Segmentation, other: Segmentation) -> bool:
    return np.array_equal(one.anomaly_map, other.anomaly_map) and one.score == other.score


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
) -> tuple[RegionSettings, list[int]]:
    """Region thresholds that this share of the photos, by the highest value of its map, stays below; and the
    photos by that value, the highest first.
    """
    quiet = AnomalySegmenter(
        segmenter.preset, segmenter.clip, None, segmenter.prompts, segmenter.product
    )  # without SAM
    maps = [quiet.segment(photo).coarse_map for photo in photos]
    peaks = [float(coarse.max()) for coarse in maps]
    order = sorted(range(len(photos)), key=lambda number: -peaks[number])
    loud = max(1, len(photos) - math.floor(clean * len(photos) + 1e-9))
    above = peaks[order[loud - 1]]
    below = peaks[order[loud]] if loud < len(photos) else 0.0
    for part in (0.9, 0.7, 0.5, 0.3, 0.1, 0.01):  # a region needs some pixels, not the highest one alone
        high = below + part * (above - below)
        regions = replace(segmenter.preset.regions, high=high, low=min(segmenter.preset.regions.low, high))
        if sum(bool(region_prompts(coarse, regions)) for coarse in maps) == loud:
            return regions, order
    raise SystemExit(f"no threshold makes SAM be asked about {loud} of these {len(photos)} photos")


def _with(
    segmenter: AnomalySegmenter, regions: RegionSettings, way: type[AnomalySegmenter]
) -> AnomalySegmenter:
    preset = replace(segmenter.preset, regions=regions)
    return way(preset, segmenter.clip, segmenter.sam, segmenter.prompts, segmenter.product)


if __name__ == "__main__":
    main()
