"""One method on the photos of one category: maps are made, compared with the masks, and forgotten.

Input: a method (an `AnomalySegmenter`, a recipe for one, or any callable photo -> map) and samples. Output:
`CategoryScores`, which add up with `+`, so that processes can share a category. Knows nothing of tables
and files other than the maps that it is asked to write.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsam.companions import Companions, batch, references_of
from clipsam.dataset_check import read_mask
from clipsam.datasets import GOOD, Category, Sample
from clipsam.errors import UsageError
from clipsam.images import read_photo
from clipsam.metrics import PixelMetrics
from clipsam.perturbations import Perturbation

if TYPE_CHECKING:
    from clipsam.presets import Preset
    from clipsam.segmenter import AnomalySegmenter

Map = NDArray[np.floating[Any]]
Pixels = NDArray[np.uint8]
PlainMethod = Callable[[Pixels], "Map | tuple[Map, float]"]


@dataclass(frozen=True)
class SegmenterRecipe:
    """How to load an `AnomalySegmenter`: small enough to be sent to another process. Fields as in
    `from_preset`."""

    preset: Any = None  # a preset's name, a Preset, or None for the best pair that is here
    prompts: str | None = None
    defects: tuple[str, ...] = ()
    sam: bool = True
    adapter: str | Path | None = None
    device: str | None = None
    dtype: str = "float32"
    models_dir: str | Path | None = None
    exported: str | Path | None = None
    compiled: bool = False
    references: str | None = None  # per category a number of good training photos, or a folder
    consensus: bool = False  # the photos of a category are each other's reference

    def __post_init__(self) -> None:
        if self.references and self.consensus:
            raise UsageError("both references and consensus are asked for; choose one of them")

    def build(self) -> AnomalySegmenter:
        """Load the models."""
        from clipsam.segmenter import AnomalySegmenter

        return AnomalySegmenter.from_preset(
            self.preset,
            prompts=self.prompts,
            defects=self.defects,
            sam=self.sam,
            adapter=self.adapter,
            device=self.device,
            dtype=self.dtype,
            models_dir=self.models_dir,
            exported=self.exported,
            compiled=self.compiled,
        )


class Segmenting(Protocol):
    """What `evaluate` needs of an `AnomalySegmenter`."""

    def segment(self, image: Any) -> Any: ...

    def manifest(self) -> dict[str, Any]: ...


Method = SegmenterRecipe | Segmenting | PlainMethod


@dataclass(frozen=True)
class ScoringOptions:
    """How maps are compared with masks."""

    range: tuple[float, float] = (0.0, 1.0)  # of the method's maps
    resolution: int | None = None  # side of the square where pixels are compared; None: the photo's own size
    perturbation: Perturbation | None = None  # what is done to every photo before the method sees it
    maps_dir: Path | None = None  # where float TIFFs of the maps are written, if anywhere

    def __post_init__(self) -> None:
        if self.resolution is not None and self.resolution < 8:
            raise UsageError(f"resolution is {self.resolution}; expected a side of at least 8 px, or none.")

    def describe(self) -> dict[str, Any]:
        """What a table must say about the comparison."""
        side = self.resolution
        return {
            "range": list(self.range),
            "resolution": f"{side}x{side}" if side else "photo",
            "maps_resized": "bilinear",
            "masks_resized": "nearest" if side else "never",
            "perturbation": str(self.perturbation) if self.perturbation else None,
        }


@dataclass
class CategoryScores:
    """Metrics by kind of map ("fused", "coarse" or "map") and by type of defect ("good" among them)."""

    metrics: dict[tuple[str, str], PixelMetrics] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    photos: int = 0

    def __add__(self, other: CategoryScores) -> CategoryScores:
        both = dict(self.metrics)
        for key, metrics in other.metrics.items():
            both[key] = both[key] + metrics if key in both else metrics
        total = CategoryScores(both, dict(self.seconds), self.photos + other.photos)
        total.spend(other.seconds)
        return total

    def spend(self, seconds: Mapping[str, float]) -> None:
        """Add seconds by stage."""
        for stage, spent in seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    @property
    def variants(self) -> tuple[str, ...]:
        """Kinds of map, the final one first."""
        return tuple(sorted({variant for variant, _ in self.metrics}, reverse=True))

    @property
    def defects(self) -> tuple[str, ...]:
        return tuple(sorted({defect for _, defect in self.metrics} - {GOOD}))

    def total(self, variant: str) -> PixelMetrics:
        """All photos of the category."""
        parts = [metrics for (kind, _), metrics in sorted(self.metrics.items()) if kind == variant]
        return _sum(parts)

    def against_good(self, variant: str, defect: str) -> PixelMetrics:
        """The photos of one type of defect together with the good ones."""
        keys = [(variant, defect), (variant, GOOD)]
        return _sum([self.metrics[key] for key in keys if key in self.metrics])


def score_category(
    method: Method, category: Category, options: ScoringOptions, on_photo: Callable[[], None] | None = None
) -> CategoryScores:
    """Score all samples of `category` (or of a part of it) with `method`."""
    run = runner(method, category, options.perturbation)
    scores = CategoryScores()
    for sample in category.samples:
        clock = time.perf_counter()
        pixels, mask = _read(sample, options.perturbation)
        scores.spend({"read": time.perf_counter() - clock})
        # A defect that a rotation has turned out of the picture can be neither found nor missed.
        if mask is None or mask.any():
            result = run(pixels)
            scores.spend(result.seconds)
            clock = time.perf_counter()
            _count(scores, sample, category, result, mask, (pixels.shape[0], pixels.shape[1]), options)
            scores.spend({"metrics": time.perf_counter() - clock})
            scores.photos += 1
        if on_photo:
            on_photo()
    return scores


@dataclass(frozen=True)
class Scored:
    """What a method says about a photo: maps and image scores (None: the map's maximum) by kind, and
    seconds."""

    maps: Mapping[str, Map]
    scores: Mapping[str, float | None]
    seconds: Mapping[str, float]


def runner(
    method: Method, category: Category, perturbation: Perturbation | None = None
) -> Callable[[Pixels], Scored]:
    """The method made ready for one category: a segmenter is told the category's product in words, and shown
    the photos that it compares with (those of a consensus as the perturbation leaves them).
    """
    if isinstance(method, SegmenterRecipe):
        segmenter = for_product(_loaded(method), category.product)
        companions = companions_of(method, category, segmenter.preset)
        if companions:
            change = (lambda pixels: perturbation.apply(pixels, None)[0]) if perturbation else None
            memory = companions.memory(segmenter.clip, segmenter.preset, segmenter.words, change)
            segmenter = segmenter.with_memory(memory)
        return _segmenter_runner(segmenter)
    if hasattr(method, "segment"):
        return _segmenter_runner(for_product(method, category.product))
    return _plain_runner(method)


def for_product(segmenter: Any, product: str) -> Any:
    """The same models with sentences about another product. What cannot be told a product is taken as it
    is."""
    if getattr(segmenter, "product", product) == product:
        return segmenter
    return segmenter.about(product)


def companions_of(recipe: SegmenterRecipe, category: Category, preset: Preset) -> Companions | None:
    """The photos that those of a category are compared with, if the recipe asks for any."""
    if recipe.consensus:
        return batch(category.batch or tuple(sample.image for sample in category.samples), preset)
    return references_of(category, recipe.references) if recipe.references else None


def describe_method(method: Method, category: Category, name: str | None) -> dict[str, Any]:
    """What decides the maps: a segmenter's manifest, or the name of a callable."""
    if isinstance(method, SegmenterRecipe):
        segmenter = _loaded(method)
        companions = companions_of(method, category, segmenter.preset)
        extra = companions.describe(segmenter.preset) if companions else {}
        return {"name": name or "clipsam", **for_product(segmenter, category.product).manifest(), **extra}
    if hasattr(method, "manifest"):
        return {"name": name or "clipsam", **for_product(method, category.product).manifest()}
    return {"name": name or getattr(method, "__name__", type(method).__name__)}


def map_path(maps_dir: Path, variant: str, category: Category, sample: Sample) -> Path:
    """Where a map is dumped: <kind>/<category>/test/<defect>/<stem>.tiff, as MVTec's evaluation script
    reads it."""
    return maps_dir / variant / category.name / "test" / sample.defect / f"{sample.image.stem}.tiff"


@lru_cache(maxsize=1)
def _loaded(recipe: SegmenterRecipe) -> AnomalySegmenter:
    return recipe.build()


def _segmenter_runner(segmenter: Any) -> Callable[[Pixels], Scored]:
    from clipsam.fusion import image_score

    settings = segmenter.preset.fusion
    sharpened = settings.edge_weight > 0 or settings.edge_guide > 0
    refined = sharpened or getattr(segmenter, "sam", None) is not None
    by_others = getattr(getattr(segmenter, "memory", None), "scores_photos", False)
    of_photo = by_others or settings.score == "whole"  # and not of one of its maps

    def run(pixels: Pixels) -> Scored:
        result = segmenter.segment(pixels)
        coarse = result.score if of_photo else image_score(result.coarse_map, settings)
        maps, scores = {"coarse": result.coarse_map}, {"coarse": coarse}
        if refined:
            maps["fused"], scores["fused"] = result.anomaly_map, result.score
        return Scored(maps, scores, result.timings)

    return run


def _plain_runner(method: PlainMethod) -> Callable[[Pixels], Scored]:
    def run(pixels: Pixels) -> Scored:
        start = time.perf_counter()
        answer = method(pixels)
        anomaly_map, score = answer if isinstance(answer, tuple) else (answer, None)
        seconds = {"method": time.perf_counter() - start}
        return Scored({"map": np.asarray(anomaly_map)}, {"map": score}, seconds)

    return run


def _read(sample: Sample, perturbation: Perturbation | None) -> tuple[Pixels, NDArray[np.bool_] | None]:
    pixels = read_photo(sample.image).pixels
    mask = read_mask(sample.mask) if sample.mask and sample.is_defective else None
    return perturbation.apply(pixels, mask) if perturbation else (pixels, mask)


def _count(
    scores: CategoryScores,
    sample: Sample,
    category: Category,
    result: Scored,
    mask: NDArray[np.bool_] | None,
    size: tuple[int, int],
    options: ScoringOptions,
) -> None:
    side = options.resolution
    shape = (side, side) if side else size
    if mask is not None and mask.shape != shape:
        mask = np.asarray(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST))
    for variant, anomaly_map in result.maps.items():
        resized = _resized(anomaly_map, shape, sample)
        metrics = scores.metrics.setdefault((variant, sample.defect), PixelMetrics(options.range))
        try:
            if sample.is_defective and sample.mask is None:
                score = result.scores[variant]
                metrics.update_score(float(resized.max()) if score is None else score, True)
                continue
            metrics.update(resized, mask, result.scores[variant])
        except UsageError as error:
            raise UsageError(f"{sample.image}: {error}") from error
        if sample.is_defective and (mask is None or not mask.any()):
            raise UsageError(
                f"{sample.image}: at {options.resolution} px its mask has no pixel left; score at a larger "
                "resolution or at the photo's own size."
            )
        if options.maps_dir:
            _write_map(map_path(options.maps_dir, variant, category, sample), resized)


def _resized(anomaly_map: Map, shape: tuple[int, int], sample: Sample) -> Map:
    if anomaly_map.ndim != 2:
        raise UsageError(f"{sample.image}: the map has shape {anomaly_map.shape}; expected [H, W].")
    if anomaly_map.shape == shape:
        return anomaly_map
    image = Image.fromarray(anomaly_map.astype(np.float32))
    return np.asarray(image.resize(shape[::-1], Image.Resampling.BILINEAR))


def _write_map(path: Path, anomaly_map: Map) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}.new")
    Image.fromarray(anomaly_map.astype(np.float32)).save(fresh, format="TIFF")
    os.replace(fresh, path)


def _sum(parts: list[PixelMetrics]) -> PixelMetrics:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
