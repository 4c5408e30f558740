"""A segmenter for the line loop: it takes the time it is told, and its maps say which frame they are of."""

from __future__ import annotations

import time
from collections.abc import Callable

from fake_segmenter import segmentation_of

from clipsam.images import Photo
from clipsam.result import Segmentation


class TimedSegmenter:
    """Takes `coarse` seconds, and `refining` more unless it is told that there is no time."""

    def __init__(self, coarse: float = 0.0, refining: float = 0.0) -> None:
        self.coarse = coarse
        self.refining = refining
        self.warmed: list[tuple[int, ...]] = []
        self.failing = 0  # so many next photos fail

    def segment(self, image: Photo, *, refine: Callable[[], bool] | None = None) -> Segmentation:
        if self.failing:
            self.failing -= 1
            raise RuntimeError("out of memory")
        time.sleep(self.coarse)
        degraded = refine is not None and not refine()
        time.sleep(0 if degraded else self.refining)
        timings = {"clip": self.coarse, "sam": 0.0 if degraded else self.refining}
        return segmentation_of(image.pixels[:, :, 0] / 255, degraded=degraded, timings=timings)

    def warm_up(self, image: Photo) -> dict[str, float]:
        self.warmed.append(image.pixels.shape)
        return {"clip": self.coarse, "sam": self.refining}
