"""A running service for tests: a fake segmenter behind a real socket; and photos to send."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fake_segmenter import FakeSegmenter, segmentation_of
from PIL import Image

from clipsam.images import Photo
from clipsam.result import Segmentation
from clipsam.runs.daily import DailyRuns
from clipsam.serve.app import create_app
from clipsam.serve.limits import Limits
from clipsam.serve.review import add_review
from clipsam.serve.server import make_server
from clipsam.serve.worker import Worker
from clipsam.store import Station

TOKEN = "correct-horse-battery-staple"


class UploadSegmenter(FakeSegmenter):
    """Dark pixels are defects; `gate` holds every photo until it is set; red photos make it fail."""

    def __init__(self, seconds: float = 0.0, gate: threading.Event | None = None) -> None:
        super().__init__(seconds=seconds)
        self.gate = gate
        self.calls = 0
        self.pixel_threshold = 0.5

    def segment(self, image: Photo) -> Segmentation:
        self.calls += 1
        if self.gate is not None:
            self.gate.wait(20)
        time.sleep(self.seconds)
        if tuple(image.pixels[0, 0]) == (255, 0, 0):
            raise RuntimeError("the models choke on red")
        found = segmentation_of(1 - image.pixels.mean(axis=2) / 255, path=image.path, sha256=image.sha256)
        return found


@dataclass
class Service:
    url: str
    worker: Worker
    segmenter: UploadSegmenter
    station: Station
    out: Path
    roi: Path


@contextmanager
def running(
    folder: Path, *, token: str | None = None, segmenter: UploadSegmenter | None = None, **limits: Any
) -> Iterator[Service]:
    """The service on a free port of this machine."""
    segmenter = segmenter or UploadSegmenter()
    bounds = Limits(**{"queue": 8, **limits})
    out = folder / "serve"
    station = Station.open(folder / "service.sqlite")
    photos = out / "photos"
    runs = DailyRuns(
        out, segmenter.manifest(), root=photos, inputs=["uploads"], kind="serve", station=station
    )
    worker = Worker(
        segmenter, queue_size=bounds.queue, max_pixels=bounds.max_pixels, runs=runs, photos=photos
    )
    app, guarded = create_app(worker, bounds, token=token)
    add_review(app, station, segmenter, roi_file=out / "roi.json", token=token, limits=bounds)
    server = make_server(guarded, "127.0.0.1", 0, bounds)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Service(f"http://127.0.0.1:{port}", worker, segmenter, station, out, out / "roi.json")
    finally:
        if segmenter.gate is not None:
            segmenter.gate.set()
        server.should_exit = True
        thread.join(20)
        worker.close()
        station.close()


def png(*, spot: bool = False, seed: int = 0, size: tuple[int, int] = (60, 40)) -> bytes:
    """A bright plate [H, W] = `size` turned, with a dark spot or without."""
    pixels = np.random.default_rng(seed).integers(220, 250, (size[1], size[0], 3), dtype=np.uint8)
    if spot:
        height, width = pixels.shape[:2]
        pixels[height // 4 : height // 2, width // 2 : 3 * width // 4] = 30
    return encoded(pixels)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def red() -> bytes:
    """A photo that the segmenter fails on."""
    return encoded(np.full((40, 60, 3), (255, 0, 0), np.uint8))
