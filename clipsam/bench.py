"""Bench: what `segment` costs beyond the networks that it runs, stage by stage, on this machine.

Input: a preset, or a segmenter and a photo. Output: a `Bench`, medians of rounds in which `segment` and the
bare forward passes of the same towers, on the very pixels that they see, take turns, so that other work on
the machine hits both. Knows nothing of how good the maps are.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsam.clip import ClipEncoder
from clipsam.devices import usable_device
from clipsam.errors import UsageError
from clipsam.heatmap import Look, see
from clipsam.locations import locate
from clipsam.presets import ModelSpec, Preset, choose_preset
from clipsam.prompts import load_prompts
from clipsam.random_weights import random_clip, random_sam
from clipsam.regions import region_prompts
from clipsam.sam import SamRefiner
from clipsam.sam_backends import decode, embed
from clipsam.segmenter import AnomalySegmenter

_SEED = 3  # of the rendered part that is looked at


@dataclass(frozen=True)
class Bench:
    """Medians in milliseconds. `stages` add up to `segment` in each round (`rest`: between the stages), not
    quite as medians. `overhead` is the median of the rounds' ratios of `segment` to the bare passes.
    """

    preset: str
    size: tuple[int, int]  # height and width of the photo, px
    dtype: str
    device: str
    threads: int
    sam: bool
    programs: dict[str, str] | None  # what runs the image towers in `segment`, if not torch
    random_weights: tuple[str, ...]  # the models whose weights are random
    regions: int  # that SAM was asked about
    stages: dict[str, float]
    segment: float
    bare_clip: float
    bare_sam: float  # one embedding and one decode; 0 without SAM
    overhead: float
    photos_per_second: float
    peak_memory_mb: int | None  # of the process so far; None where the system does not say
    passes: tuple[tuple[int, ...], ...]  # shapes of the pixels that the image tower is given
    rounds: tuple[tuple[float, float], ...]  # of each round: segment, all bare passes

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def bench_segmenter(
    name: str | None,
    *,
    random_weights: bool = False,
    sam: bool = True,
    device: str | None = None,
    dtype: str = "float32",
    models_dir: str | Path | None = None,
    exported: str | Path | None = None,
) -> tuple[AnomalySegmenter, tuple[str, ...]]:
    """A warm segmenter, and the names of its models that are drawn at random: with `random_weights` those
    that are not on this machine. Raises `WeightsError` where one is missing and none is to be drawn.
    """
    preset = choose_preset(name, models_dir).preset
    if exported and random_weights:
        raise UsageError(
            f"the programs of {exported} come from real weights; leave out --random-weights, or --exported"
        )
    missing = [
        spec for spec in (preset.clip, preset.sam if sam else None) if spec and not _here(spec, models_dir)
    ]
    if not (random_weights and missing):
        return AnomalySegmenter.from_preset(
            preset,
            product="part",
            sam=sam,
            device=device,
            dtype=dtype,
            models_dir=models_dir,
            exported=exported,
        ), ()
    if preset.heatmap.attention == "proxy" or preset.text_map:
        raise UsageError(f"preset {preset.name} needs a second encoder, which cannot be drawn at random")
    place: dict[str, Any] = {
        "device": usable_device(device),
        "dtype": dtype,
    }
    clip = (
        random_clip(preset.clip, **place)
        if preset.clip in missing
        else ClipEncoder.from_spec(preset.clip, models_dir=models_dir, **place)
    )
    refiner = None
    if sam and preset.sam:
        refiner = (
            random_sam(preset.sam, **place)
            if preset.sam in missing
            else SamRefiner.from_spec(preset.sam, models_dir=models_dir, **place)
        )
    segmenter = AnomalySegmenter(preset, clip, refiner, load_prompts(preset.prompts), "part")
    return segmenter, tuple(spec.name for spec in missing)


def part(size: int) -> NDArray[np.uint8]:
    """A rendered part with a defect, uint8 [size, size, 3]."""
    from clipsam.nano.corpus.compose import render

    return render(_SEED, size, size, p_normal=0.0).image


@torch.inference_mode()
def bench(
    segmenter: AnomalySegmenter, pixels: NDArray[np.uint8], rounds: int = 10, drawn: tuple[str, ...] = ()
) -> Bench:
    """Measure `segment` on a photo [H, W, 3] against the bare passes, after one round to warm up.

    Where the map is too quiet for SAM, thresholds of the prompts are lowered until it is asked.
    """
    if rounds < 1:
        raise UsageError(f"{rounds} rounds cannot be measured; expected at least 1")
    runs = segmenter.programs
    segmenter = _asking(segmenter, pixels)
    crops = list(_crops(segmenter, pixels))
    clip = _bare_clip(segmenter.clip, crops)
    sam = _bare_sam(segmenter.sam, pixels) if segmenter.sam else None
    times: dict[str, list[float]] = {}
    pairs = []
    for number in range(-1, rounds):
        spent: dict[str, float] = {}
        for first in (True, False) if number % 2 else (False, True):  # who comes first takes turns too
            if first:
                start = time.perf_counter()
                stages = segmenter.segment(pixels).timings
                spent["segment"] = time.perf_counter() - start
                spent |= dict(stages) | {"rest": spent["segment"] - sum(stages.values())}
            else:
                spent["bare_clip"] = _seconds(clip, segmenter.clip.device)
                spent["bare_sam"] = _seconds(sam, segmenter.clip.device) if sam else 0.0
        if number >= 0:
            pairs.append((1e3 * spent["segment"], 1e3 * (spent["bare_clip"] + spent["bare_sam"])))
            for stage, seconds in spent.items():
                times.setdefault(stage, []).append(1e3 * seconds)
    medians = {stage: median(values) for stage, values in times.items()}
    whole = {name: medians.pop(name) for name in ("segment", "bare_clip", "bare_sam")}
    return Bench(
        preset=segmenter.preset.name,
        size=(pixels.shape[0], pixels.shape[1]),
        dtype=str(segmenter.clip.dtype).removeprefix("torch."),
        device=str(segmenter.clip.device),
        threads=torch.get_num_threads(),
        sam=segmenter.sam is not None,
        programs=runs,
        random_weights=drawn,
        regions=_regions(segmenter, pixels) if segmenter.sam else 0,
        stages=medians,
        overhead=median(ours / bare for ours, bare in pairs),
        photos_per_second=1e3 / whole["segment"],
        peak_memory_mb=_peak_memory_mb(segmenter.clip.device),
        passes=tuple(tuple(crop.shape) for crop in crops),
        rounds=tuple(pairs),
        **whole,
    )


def _here(spec: ModelSpec, models_dir: str | Path | None) -> bool:
    location = locate(spec, models_dir)
    return location is not None and location.complete


def _regions(segmenter: AnomalySegmenter, pixels: NDArray[np.uint8]) -> int:
    return len(region_prompts(segmenter.segment(pixels).coarse_map, segmenter.preset.regions))


def _asking(segmenter: AnomalySegmenter, pixels: NDArray[np.uint8]) -> AnomalySegmenter:
    """The same segmenter, with thresholds at which it has something to ask SAM about."""
    if segmenter.sam is None or _regions(segmenter, pixels):
        return segmenter
    low, high = np.quantile(segmenter.segment(pixels).coarse_map, (0.97, 0.995))
    regions = replace(segmenter.preset.regions, low=float(low), high=float(high))
    preset: Preset = replace(segmenter.preset, regions=regions)
    return AnomalySegmenter(
        preset,
        segmenter.clip,
        segmenter.sam,
        segmenter.prompts,
        segmenter.product,
        text_map=segmenter.text_map,
    )


def _crops(segmenter: AnomalySegmenter, pixels: NDArray[np.uint8]) -> Iterator[Tensor]:
    """The batches of pixels that the image tower is given, as `coarse_map` makes them."""
    seen: list[Tensor] = []
    patch, settings = segmenter.clip.patch_size, segmenter.preset.heatmap

    def look(crops: Tensor) -> tuple[Tensor, None]:
        seen.append(crops)
        height, width = (side // patch for side in crops.shape[-2:])
        return torch.zeros(1, len(crops), height, width), None

    watching: Look = look
    for size in settings.sizes:
        see(pixels, size, patch, settings, 1, watching)
    yield from seen


def _bare_clip(encoder: ClipEncoder, crops: list[Tensor]) -> Callable[[], Any]:
    """`encode_image` on normalised pixels; away from the native size its parts, with positions resized."""
    batches = [(crop.to(encoder.device) - 0.5) / 0.25 for crop in crops]
    low = encoder.dtype != torch.float32

    def run() -> None:
        with torch.autocast(encoder.device.type, encoder.dtype if low else torch.bfloat16, enabled=low):
            for batch in batches:
                bare_pass(encoder, batch)

    return run


def bare_pass(encoder: ClipEncoder, pixels: Tensor) -> Tensor:
    """Normalised pixels [b, 3, H, W] -> the tower's own embedding [b, d], and nothing else."""
    if tuple(pixels.shape[-2:]) == tuple(encoder.image_size):
        return torch.as_tensor(encoder.model.encode_image(pixels))
    start = encoder.tower.embed(pixels)
    tokens = start.tokens
    for block in start.blocks:
        tokens = block(tokens)
    return encoder.tower.pool(tokens)


def _bare_sam(refiner: SamRefiner, pixels: NDArray[np.uint8]) -> Callable[[], Any]:
    """One embedding of the photo and one decode of a box, without reading, resizing and judging."""
    values = refiner._processor.image_processor(
        images=pixels, input_data_format="channels_last", return_tensors="pt"
    )["pixel_values"].to(refiner.device)
    side = min(values.shape[-2:])
    box = torch.tensor([[[side / 4, side / 4, side / 2, side / 2]]], device=refiner.device)
    low = refiner._dtype != torch.float32

    def run() -> None:
        with torch.autocast(refiner.device.type, refiner._dtype if low else torch.bfloat16, enabled=low):
            features = embed(refiner.model, refiner.backend, values)
        decode(refiner.model, refiner.backend, features, 1, input_boxes=box)

    return run


def _seconds(call: Callable[[], Any], device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _peak_memory_mb(device: torch.device) -> int | None:
    """Of the GPU where that is what works, else of the process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    try:
        import resource
    except ImportError:  # Windows
        return None
    return round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    )
