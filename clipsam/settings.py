"""The named parameters of every stage, as frozen dataclasses: one class per stage, one field per parameter.

Knows nothing of torch or of the models, so that presets, protocols and the command line can use it cheaply.
"""

from __future__ import annotations

from dataclasses import dataclass

from clipsam.errors import UsageError

# plain to proxy are the modes of `clipsam/attention.py`; "windows" is WinCLIP's, in `clipsam/windows.py`
ATTENTIONS = ("plain", "value", "v-v", "q-q", "k-k", "sclip", "neighbour", "clear", "proxy", "windows")


@dataclass(frozen=True)
class HeatmapSettings:
    """How patch features and sentences become the coarse map (see `clipsam/heatmap.py`)."""

    attention: str = "v-v"
    """Name of an attention mode, one of `ATTENTIONS`: those of `clipsam/attention.py`, or windows."""
    attention_blocks: int | None = None
    """How many of the last blocks a mode with a free choice (v-v) rebuilds; None leaves it to the mode."""
    layers: tuple[int, ...] = ()
    """Blocks, counted from 1, after which features are compared with the text; none: after the last alone."""
    layer_merge: str = "mean"
    """What is done with the logits of several layers: mean or sum (which is steeper)."""
    windows: tuple[int, ...] = (2, 3)
    """Sides of the windows of attention mode windows, in patches; the whole photo is always one more."""
    sizes: tuple[int, ...] = (518,)
    """Scales: longer side of the photo in px at each, 0 for its own resolution; their logits are averaged."""
    square: bool = False
    """Stretch the photo to a square at each scale, as most published methods do; else keep its aspect."""
    temperature: float = 0.07
    """Divides differences of cosines before the sigmoid; smaller is steeper. WinCLIP's value."""
    sharpness: float = 4.0
    """Of the soft maximum over defect types, per logit: near 0 it is the mean, at infinity the maximum."""
    smoothing: float = 0.008
    """Gaussian sigma as a fraction of the photo's longer side; 0 is none; 0.008 is 4 px at 518."""
    tile: int = 1024
    """Longest side in px that goes through the tower in one piece; larger scales are tiled."""
    overlap: float = 0.25
    """Least part of a tile's side that it shares with its neighbour, from 0 to below 1."""

    def __post_init__(self) -> None:
        _expect(self.attention in ATTENTIONS, "attention", self.attention, f"one of {', '.join(ATTENTIONS)}")
        layers_fit = all(layer >= 1 for layer in self.layers) and not (self.layers and self._windowed)
        _expect(layers_fit, "layers", self.layers, "numbers of blocks from 1, and none with windows")
        _expect(self.layer_merge in ("mean", "sum"), "layer_merge", self.layer_merge, "mean or sum")
        windows_fit = bool(self.windows) and all(side >= 1 for side in self.windows)
        _expect(windows_fit, "windows", self.windows, "one or more sides in patches")
        sizes_fit = bool(self.sizes) and all(size >= 0 for size in self.sizes)
        _expect(sizes_fit, "sizes", self.sizes, "one or more sizes in px, 0 for the photo's own")
        _expect(self.temperature > 0, "temperature", self.temperature, "a number above 0")
        _expect(self.sharpness > 0, "sharpness", self.sharpness, "a number above 0")
        _expect(0 <= self.smoothing < 1, "smoothing", self.smoothing, "a fraction of the longer side below 1")
        _expect(self.tile > 0, "tile", self.tile, "a size in px above 0")
        _expect(0 <= self.overlap < 1, "overlap", self.overlap, "a part of a tile's side, from 0 to below 1")

    @property
    def _windowed(self) -> bool:
        return self.attention == "windows"


def _expect(fits: bool, name: str, value: object, expected: str) -> None:
    if not fits:
        raise UsageError(f"{name} = {value!r} makes no coarse map; expected {expected}")


@dataclass(frozen=True)
class RegionSettings:
    """How the coarse map becomes prompts for SAM (see `clipsam/regions.py`).

    `low`, `high` are map values; lengths are fractions of the photo's diagonal, areas fractions of its area.
    """

    low: float = 0.4  # a region reaches as far as the map stays at or above this
    high: float = 0.6  # ... and exists only where the map gets at least this high
    peak_distance: float = 0.03  # two positive points of a region are at least this far apart
    max_regions: int = 16  # the highest ones are kept
    max_positives: int = 3  # points inside a region
    max_negatives: int = 4  # points in the ring around a region
    margin: float = 0.1  # the box grows by this fraction of its sides, on each side
    ring: float = 0.02  # width of the ring that negative points come from
    min_area: float = 1e-5  # smaller regions are dropped
    max_area: float = 0.5  # larger regions are cut again at `high`; what is still larger is dropped
    work_size: int = 256  # regions are looked for on a map of at most this many pixels a side


STRATEGIES = ("ring", "mmr", "patch-grid", "cascade")
SELECTIONS = ("iou*agreement", "iou", "agreement", "stability", "all")


@dataclass(frozen=True)
class SamSettings:
    """How SAM's masks are asked for and chosen (see `clipsam/strategies.py` and `clipsam/sam.py`)."""

    strategy: str = "ring"  # one of `STRATEGIES`: which points and boxes, and whether answers are fed back
    kinds: tuple[str, ...] = ("points", "box", "box+points")  # each region is asked for once in each way
    selection: str = "iou*agreement"  # one of `SELECTIONS`: which of SAM's three answers is kept, or all
    crop: int = 0  # regions below this many cells of SAM's mask are asked on a zoomed crop; 0: never
    edges: float = 0.0  # points and boxes move this far to visible borders, a fraction of the diagonal
    patch_grid: int = 37  # "patch-grid": patches along the longer side
    patch_margin: float = 0.1  # "patch-grid": patches this far from 0.5 become points
    max_points: int = 16  # "patch-grid": at most so many positive and so many negative points per region
    batch: int = 32  # prompts per decoder pass
    min_agreement: float = 0.3  # masks that agree less with the map are refused, in [0, 1]
    min_iou: float = 0.0  # masks that SAM itself scores lower are refused, in [0, 1]
    swallow: float = 3.0  # masks that cover more than this many times their region are refused


@dataclass(frozen=True)
class FusionSettings:
    """How masks and map become one anomaly map and one image score (see `clipsam/fusion.py`)."""

    merge: str = "lift"  # "lift", "redraw" or "blend": what a mask does to the map
    weight: float = 0.5  # SAM's share, in [0, 1]; 0 leaves the map as it is
    weighting: str = (
        "fixed"  # or "agreement": each region's weight is times what its masks agree with the map
    )
    edge_weight: float = 0.0  # logits that the map gains per unit of the photo's own relief; 0: none
    edge_scale: float = 0.05  # what a pixel is compared with: a sigma, as a fraction of the longer side
    edge_reach: float = 0.02  # within which the map is shared out anew: likewise
    edge_guide: float = 0.0  # the map is smoothed along visible borders over this fraction of it; 0: not
    confidence: str = "iou*agreement"  # or "iou", "softmax": how much each mask counts
    normalisation: str = "region"  # or "photo", "peak": what the confidences are divided by
    score: str = "max"  # or "top": the image score is the highest map value, or the mean of the highest ones;
    # or "whole": it is CLIP's own, of the photo in one piece against the sentences, as in WinCLIP
    top_fraction: float = 0.01  # the pixels that "top" takes, as a fraction of the photo, or of a region
    min_area: float = 1e-5  # smaller regions do not count, as a fraction of the photo
