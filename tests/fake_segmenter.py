"""A segmenter without models: dark pixels are defects. For tests of what is around the models."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from clipsam.images import Photo
from clipsam.result import Region, Segmentation

THRESHOLD = 0.5


def segmentation_of(anomaly_map: NDArray[np.floating], **fields: Any) -> Segmentation:
    """What would come out of a map [H, W] in [0, 1]; region types alternate between scratch and stain."""
    anomaly_map = np.asarray(anomaly_map, np.float32)
    mask = anomaly_map >= THRESHOLD
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    regions = []
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels)):
        crop = labels[rows, columns] == index + 1
        box = (columns.start, rows.start, columns.stop, rows.stop)
        score = float(anomaly_map[rows, columns][crop].max())
        regions.append(
            Region(box, int(crop.sum()), score, ("scratch", "stain")[index % 2], crop, anomaly_map.shape)
        )
    regions.sort(key=lambda region: -region.score)
    fields = {"score": float(anomaly_map.max()), "timings": {"clip": 0.02, "sam": 0.01}} | fields
    return Segmentation(
        anomaly_map=anomaly_map, coarse_map=anomaly_map, mask=mask, regions=tuple(regions), **fields
    )


class FakeSegmenter:
    """Has the interface of `AnomalySegmenter`; `seen` lists the photos it was given."""

    choice = "preset fake"

    def __init__(self, preset: str = "fake", seconds: float = 0.0) -> None:
        self.preset = preset
        self.seconds = seconds
        self.seen: list[str] = []

    def segment(self, image: Photo) -> Segmentation:
        self.seen.append(image.path.name)
        time.sleep(self.seconds)
        return segmentation_of(1 - image.pixels.mean(axis=2) / 255)

    def manifest(self) -> dict[str, Any]:
        return {
            "preset": self.preset,
            "product": "plate",
            "weights": {"fake-clip": "0" * 64},
            "prompts": {"name": "industrial", "hash": "1" * 64},
            "heatmap": {"sizes": (518,)},
            "pixel_threshold": THRESHOLD,
            "device": "cpu",
        }
