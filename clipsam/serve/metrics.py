"""Figures of the service for Prometheus. Input: what happened. Output: the text of /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from clipsam import __version__

if TYPE_CHECKING:
    from clipsam.serve.worker import Inspected, Worker

SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 3, 6, 12, 30)


class Metrics:
    """The figures of one service; nothing is shared between two."""

    def __init__(self, worker: Worker) -> None:
        self._registry = CollectorRegistry()
        made: Any = {"registry": self._registry}
        info = Gauge("clipsam_info", "Version and preset.", ["version", "preset", "product"], **made)
        manifest = worker.segmenter.manifest()
        info.labels(__version__, *(str(manifest.get(key, "")) for key in ("preset", "product"))).set(1)
        self._photos = Counter("clipsam_photos", "Photos by outcome.", ["outcome"], **made)
        for outcome in ("ok", "ng", "uncalibrated", "error"):
            self._photos.labels(outcome)
        self._refused = Counter("clipsam_refused", "Requests and photos refused.", ["reason"], **made)
        self._requests = Counter("clipsam_requests", "Requests answered.", ["route", "status"], **made)
        self._stages = Histogram(
            "clipsam_stage_seconds", "Seconds of the stages.", ["stage"], buckets=SECONDS, **made
        )
        steps = [part / 20 for part in range(1, 20)]
        self._scores = Histogram("clipsam_score", "Scores of the photos.", buckets=steps, **made)
        queue = Gauge("clipsam_queue_photos", "Photos that wait for the models.", **made)
        queue.set_function(lambda: worker.waiting)
        drift = Gauge("clipsam_drift_warnings", "Warnings that passed parts have drifted.", **made)
        drift.set_function(lambda: worker.drift_warnings)
        ready = Gauge("clipsam_ready", "1 while the service is ready.", **made)
        ready.set_function(lambda: worker.trouble is None)

    def inspected(self, outcome: Inspected) -> None:
        """A photo was inspected."""
        defective = outcome.result.is_defective
        self._photos.labels("uncalibrated" if defective is None else "ng" if defective else "ok").inc()
        self._scores.observe(outcome.result.score)
        for stage, seconds in {"wait": outcome.waited, **outcome.result.timings}.items():
            self._stages.labels(stage).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request, or a photo of it, was refused."""
        self._refused.labels(reason).inc()

    def failed(self) -> None:
        """A photo could not be inspected."""
        self._photos.labels("error").inc()

    def answered(self, route: str, status: int) -> None:
        """A request was answered. `route` is a template, never what a client made up."""
        self._requests.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)
