"""The named parameters of every stage, as frozen dataclasses: one class per stage, one field per parameter.

Knows nothing of torch or of the models, so that presets, protocols and the command line can use it cheaply.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HeatmapSettings:
    """How patch features and sentences become the coarse map (see `clipsam/heatmap.py`)."""

    attention: str = "v-v"
    sizes: tuple[int, ...] = (518,)
    temperature: float = 0.07
    sharpness: float = 4.0
    smoothing: float = 0.008
    tile: int = 1024
    overlap: float = 0.25


@dataclass(frozen=True)
class RegionSettings:
    """How the coarse map becomes prompts for SAM (see `clipsam/regions.py`)."""

    low: float = 0.4
    high: float = 0.6
    peak_distance: float = 0.03
    max_regions: int = 16
    max_positives: int = 3
    max_negatives: int = 4
    margin: float = 0.1
    ring: float = 0.02
    min_area: float = 1e-5
    max_area: float = 0.5


@dataclass(frozen=True)
class SamSettings:
    """How SAM's masks are asked for and chosen (see `clipsam/sam.py`)."""

    kinds: tuple[str, ...] = ("points", "box", "box+points")
    cascade: bool = False
    batch: int = 32
    min_agreement: float = 0.3
    swallow: float = 3.0


@dataclass(frozen=True)
class FusionSettings:
    """How masks and map become one anomaly map and one image score (see `clipsam/fusion.py`)."""

    weight: float = 0.5
    score: str = "max"
    top_fraction: float = 0.01
