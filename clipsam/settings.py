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
    """Side in px of tiles; scales of up to twice it go through the tower in one piece, larger are cut."""
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


def _expect(fits: bool, name: str, value: object, expected: str, what: str = "coarse map") -> None:
    if not fits:
        raise UsageError(f"{name} = {value!r} makes no {what}; expected {expected}")


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
    crop_context: float = 4.0  # such a crop is this many times as wide as the region's box
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
    # or "coarse": the highest value of the map before SAM and before the photo's own cue;
    # or "whole": it is CLIP's own, of the photo in one piece against the sentences, as in WinCLIP
    top_fraction: float = 0.01  # the pixels that "top" takes, as a fraction of the photo, or of a region
    min_area: float = 1e-5  # smaller regions do not count, as a fraction of the photo


@dataclass(frozen=True)
class LayerSettings:
    """What describes a patch when photos are compared with photos (see `clipsam/layers.py`)."""

    size: int = 518  # longer side of the photo in px, as the tower sees it
    enlarge: bool = True  # photos below that size are enlarged to it, or seen at their own
    depths: tuple[float, ...] = (0.25, 0.5, 0.75, 1.0)  # transformer blocks, as parts of the tower's depth
    strides: tuple[int, ...] = ()  # stages of a convolutional stem, by their stride in px
    cells: tuple[int, ...] = ()  # statistics of colours and steps over cells of these sides, in px
    grid: int | None = None  # side of a patch in px; None: that of the tower
    scaling: str = (
        "unit"  # every patch gets length 1 a layer, or "spread": channels are divided by their spread
    )

    def __post_init__(self) -> None:
        sources = self.depths + self.strides + self.cells
        _expect(bool(sources), "layers", (), "at least one of depths, strides and cells", "features")
        depths_fit = all(0 < depth <= 1 for depth in self.depths)
        _expect(depths_fit, "depths", self.depths, "parts of the tower's depth, above 0 to 1", "features")
        sides = (self.size, self.grid or 1, *self.strides, *self.cells)
        _expect(
            all(side > 0 for side in sides), "size, grid, strides, cells", sides, "px above 0", "features"
        )
        scalings_fit = self.scaling in ("unit", "spread")
        _expect(scalings_fit, "scaling", self.scaling, "unit or spread", "features")


@dataclass(frozen=True)
class ReferenceSettings:
    """How flawless photos become a memory that others are compared with (see `clipsam/references.py`)."""

    pooling: int = 3  # features are means over this many patches a side (PatchCore); 1: none
    memory: int = 10_000  # patches that are kept at most, chosen to cover all (PatchCore)
    joint: bool = True  # layers are matched side by side (PatchCore), or each by itself (APRIL-GAN)
    turns: bool = False  # also remember every photo turned by 90, 180 and 270 degrees
    position: float | None = (
        None  # weight of a patch's place; None: taken where the references agree in place
    )
    score: str = "calibrated"  # or "cosine": (1 - cosine) / 2 of unit vectors, as WinCLIP+
    tail: float = 0.99  # this part of flawless patches scores below 0.5
    steepness: float = 4.0  # of the calibrated score: odds grow with this power of the distance
    smoothing: float = 0.008  # Gaussian sigma as a fraction of the photo's longer side
    mixing: str = "mean"  # of text map and this one: "mean", or "odds" where log odds are added
    text_weight: float = 0.25  # share of the text map in the mean, or what its log odds are multiplied by
    excess_weight: float = 0.0  # "odds": weight of what the text says beyond what it says of the like patches
    likes: int = 8  # so many remembered patches are the like ones
    photo_score: str = (
        "map"  # the preset's way with the joined map, or "distances": the highest ones alone (AnomalyDINO)
    )
    highest: float = 0.01  # ... and how many those are, as a fraction of all patches
    seed: int = 0  # of what is drawn at random: which patches calibrate, the projection of the cover

    def __post_init__(self) -> None:
        _check_memory(self)
        odd = self.pooling > 0 and self.pooling % 2 == 1
        _expect(odd, "pooling", self.pooling, "an odd number of patches", "reference map")
        _expect(self.likes > 0, "likes", self.likes, "a number of patches above 0", "reference map")
        _expect(self.memory > 0, "memory", self.memory, "a number of patches above 0", "reference map")
        _expect((self.position or 0) >= 0, "position", self.position, "a weight from 0", "reference map")
        scores_fit = self.score in ("calibrated", "cosine")
        _expect(scores_fit, "score", self.score, "calibrated or cosine", "reference map")


@dataclass(frozen=True)
class ConsensusSettings:
    """How a batch of unlabelled photos scores itself (see `clipsam/consensus.py`)."""

    neighbourhoods: tuple[int, ...] = (1, 3, 5)  # patches a side that features are averaged over, in turn
    lowest: float = 0.3  # of the other photos' votes the lowest of this part are averaged
    joint: bool = False  # layers are matched side by side, or each by itself (MuSc)
    photos: int = 32  # every photo is compared with a random choice of so many; 0: with all
    patches: int = 1024  # of each of those, so many patches that cover it; 0: all, searched in full
    sketch: int = 64  # numbers a patch by which its like are looked for among such a choice; 0: by all
    together: bool = False  # one like patch for all neighbourhoods and layers, or one for each (MuSc)
    tail: float = 0.99  # as in `ReferenceSettings`, of all patches of the batch
    steepness: float = 4.0
    smoothing: float = 0.008
    mixing: str = "mean"  # this and the next four as in `ReferenceSettings`
    text_weight: float = 0.25
    excess_weight: float = 0.0
    photo_score: str = "map"
    highest: float = 0.01
    rescored: tuple[int, ...] = ()  # a photo's score is averaged over so many of its like (MuSc's RsCIN)
    seed: int = 0

    def __post_init__(self) -> None:
        _check_memory(self)
        odd = bool(self.neighbourhoods) and all(side > 0 and side % 2 for side in self.neighbourhoods)
        _expect(odd, "neighbourhoods", self.neighbourhoods, "odd numbers of patches", "consensus")
        _expect(0 < self.lowest <= 1, "lowest", self.lowest, "a part above 0 to 1", "consensus")
        _expect(
            self.photos == 0 or self.photos > 1, "photos", self.photos, "2 or more, or 0 for all", "consensus"
        )
        _expect(self.patches >= 0, "patches", self.patches, "1 or more, or 0 for all", "consensus")
        windows_fit = all(window > 0 for window in self.rescored)
        _expect(
            windows_fit, "rescored", self.rescored, "numbers of photos from 1, itself among them", "score"
        )
        _expect(self.sketch >= 0, "sketch", self.sketch, "1 or more numbers, or 0 for all", "consensus")


def _check_memory(settings: ReferenceSettings | ConsensusSettings) -> None:
    _expect(0 < settings.tail < 1, "tail", settings.tail, "a part between 0 and 1", "score")
    _expect(settings.steepness > 0, "steepness", settings.steepness, "a power above 0", "score")
    _expect(0 <= settings.smoothing < 1, "smoothing", settings.smoothing, "a fraction below 1", "map")
    _expect(0 <= settings.text_weight <= 1, "text_weight", settings.text_weight, "a share in [0, 1]", "score")
    scores_fit = settings.photo_score in ("map", "distances")
    _expect(scores_fit, "photo_score", settings.photo_score, "map or distances", "score")
    _expect(0 < settings.highest <= 1, "highest", settings.highest, "a part above 0 to 1", "score")
    _expect(settings.mixing in ("mean", "odds"), "mixing", settings.mixing, "mean or odds", "map")
    excess_fits = settings.excess_weight == 0 or (settings.excess_weight > 0 and settings.mixing == "odds")
    _expect(
        excess_fits, "excess_weight", settings.excess_weight, "0, or a weight above with mixing odds", "map"
    )
