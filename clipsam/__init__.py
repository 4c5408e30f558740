"""clipsam: zero-shot defect segmentation. CLIP says where a photo disagrees with a flawless product, SAM
outlines it.

Importing this package is cheap: torch, open_clip and transformers load on first use of what needs them. Start
reading in `clipsam/segmenter.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipsam.calibrate import Calibration
    from clipsam.drift import DriftWatch
    from clipsam.errors import (
        CalibrationError,
        ClipsamError,
        MissingExtra,
        PhotoError,
        PromptError,
        RunError,
        SourceError,
        StoreError,
        TowerError,
        UsageError,
        WeightsError,
    )
    from clipsam.metrics import PixelMetrics
    from clipsam.prompts import PromptEnsemble
    from clipsam.result import Region, Segmentation
    from clipsam.roi import Roi
    from clipsam.segmenter import AnomalySegmenter

__version__ = "0.1.0"

_HOME = {
    "AnomalySegmenter": "segmenter",
    "Calibration": "calibrate",
    "CalibrationError": "errors",
    "ClipsamError": "errors",
    "DriftWatch": "drift",
    "MissingExtra": "errors",
    "PhotoError": "errors",
    "PixelMetrics": "metrics",
    "PromptEnsemble": "prompts",
    "PromptError": "errors",
    "Region": "result",
    "Roi": "roi",
    "RunError": "errors",
    "Segmentation": "result",
    "SourceError": "errors",
    "StoreError": "errors",
    "TowerError": "errors",
    "UsageError": "errors",
    "WeightsError": "errors",
}

__all__ = [
    "AnomalySegmenter",
    "Calibration",
    "CalibrationError",
    "ClipsamError",
    "DriftWatch",
    "MissingExtra",
    "PhotoError",
    "PixelMetrics",
    "PromptEnsemble",
    "PromptError",
    "Region",
    "Roi",
    "RunError",
    "Segmentation",
    "SourceError",
    "StoreError",
    "TowerError",
    "UsageError",
    "WeightsError",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clipsam' has no attribute {name!r}")
    return getattr(import_module(f"clipsam.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
