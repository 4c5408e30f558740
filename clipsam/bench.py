"""Bench: what `segment` costs beyond the networks that it runs, stage by stage, on this machine.

Input: a preset, or a segmenter and a photo. Output: a `Bench`, medians of rounds in which `segment` and the
bare passes of the same networks, on the very pixels and questions that they are given, take turns, so that
other work on the machine hits both. Knows nothing of how good the maps are.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipsam.bare import bare_passes
from clipsam.clip import ClipEncoder
from clipsam.compiled import eagerly
from clipsam.devices import usable_device
from clipsam.errors import UsageError
from clipsam.locations import locate
from clipsam.presets import ModelSpec, Preset, choose_preset
from clipsam.prompts import load_prompts
from clipsam.random_weights import random_clip, random_sam
from clipsam.regions import region_prompts
from clipsam.sam import SamRefiner
from clipsam.segmenter import AnomalySegmenter

_SEED = 3  # of the rendered part that is looked at
_BARE = ("bare_clip", "embed", "decode")


@dataclass(frozen=True)
class Bench:
    """Medians in milliseconds. `stages` add up to `segment` in each round (`rest`: between the stages), not
    quite as medians. `overhead` is the median of the rounds' ratios of `segment` to all passes of networks
    that it makes, `processor_overhead` that of their processor times, which other work on the machine
    leaves alone. `overhead_once` counts of SAM one embedding and one decode of one box, however many the
    photo takes.
    """

    preset: str
    size: tuple[int, int]  # height and width of the photo, px
    dtype: str
    device: str
    threads: int
    sam: bool
    programs: dict[str, str] | None  # what runs the image towers in `segment`, if not torch
    compiled: bool  # whether torch compiled them for `segment`; the bare passes are those of the eager towers
    random_weights: tuple[str, ...]  # the models whose weights are random
    regions: int  # that SAM was asked about
    embeddings: int  # of the photo, or of parts of it, by SAM
    questions: tuple[int, ...]  # that SAM's decoder was asked, pass by pass
    stages: dict[str, float]
    segment: float
    bare_clip: float
    bare_sam: float  # all embeddings and decodes; 0 without SAM
    bare_sam_once: float  # one embedding of the photo and one decode of one box
    overhead: float
    overhead_once: float
    processor_overhead: float | None  # None on a GPU
    photos_per_second: float
    peak_memory_mb: int | None  # of the process so far; None where the system does not say
    passes: tuple[tuple[int, ...], ...]  # shapes of the pixels that the image tower is given
    rounds: tuple[tuple[float, float], ...]  # of each round: segment, all bare passes
    processor_rounds: tuple[tuple[float, float], ...]  # the same of all cores' time

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
    compiled: bool = False,
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
            compiled=compiled,
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
    if compiled:
        segmenter.compile()
    return segmenter, tuple(spec.name for spec in missing)


def part(size: int) -> NDArray[np.uint8]:
    """A rendered part with a defect, uint8 [size, size, 3]."""
    from clipsam.nano.corpus.compose import render

    return render(_SEED, size, size, p_normal=0.0).image


@torch.inference_mode()
def bench(
    segmenter: AnomalySegmenter, pixels: NDArray[np.uint8], rounds: int = 10, drawn: tuple[str, ...] = ()
) -> Bench:
    """Measure `segment` on a photo [H, W, 3] against the bare passes, all of them warm.

    Where the map is too quiet for SAM, thresholds of the prompts are lowered until it is asked.
    """
    if rounds < 1:
        raise UsageError(f"{rounds} rounds cannot be measured; expected at least 1")
    runs = segmenter.programs
    segmenter, regions = _asking(segmenter, pixels) if segmenter.sam else (segmenter, 0)
    clip, sam = bare_passes(segmenter, pixels)
    calls: dict[str, Callable[[], Any]] = {"bare_clip": clip.encode}
    if sam:
        calls |= {"embed": sam.embed, "decode": sam.decode, "decode_one": sam.decode_one}
    calls = {name: eagerly(call) for name, call in calls.items()} if segmenter.compiled else calls
    calls["segment"] = lambda: segmenter.segment(pixels)
    for name in calls.keys() - {"segment", "embed"}:  # which are warm, from the noting of their passes
        calls[name]()
    measured: list[_Round] = []
    for number in range(rounds):
        order = list(calls) if number % 2 else list(reversed(calls))  # who comes first takes turns
        spent = {name: _spent(calls[name], segmenter.clip.device) for name in order}
        stages = {stage: 1e3 * seconds for stage, seconds in spent["segment"][1].timings.items()}
        measured.append(_Round({name: took for name, (took, _) in spent.items()}, stages))
    shown = len(sam.pictures) if sam else 1
    whole = median(one.wall("segment") for one in measured)
    on_cpu = segmenter.clip.device.type == "cpu"
    pairs = tuple((one.wall("segment"), one.wall(*_BARE)) for one in measured)
    busy = tuple((one.processor("segment"), one.processor(*_BARE)) for one in measured)
    return Bench(
        preset=segmenter.preset.name,
        size=(pixels.shape[0], pixels.shape[1]),
        dtype=str(segmenter.clip.dtype).removeprefix("torch."),
        device=str(segmenter.clip.device),
        threads=torch.get_num_threads(),
        sam=segmenter.sam is not None,
        programs=runs,
        compiled=segmenter.compiled,
        random_weights=drawn,
        regions=regions,
        embeddings=shown if sam else 0,
        questions=sam.questions if sam else (),
        stages={stage: median(one.stages[stage] for one in measured) for stage in measured[0].stages},
        segment=whole,
        bare_clip=median(one.wall("bare_clip") for one in measured),
        bare_sam=median(one.wall("embed", "decode") for one in measured),
        bare_sam_once=median(one.once(shown) for one in measured),
        overhead=median(ours / bare for ours, bare in pairs),
        overhead_once=median(
            one.wall("segment") / (one.wall("bare_clip") + one.once(shown)) for one in measured
        ),
        processor_overhead=median(ours / bare for ours, bare in busy) if on_cpu else None,
        photos_per_second=1e3 / whole,
        peak_memory_mb=_peak_memory_mb(segmenter.clip.device),
        passes=tuple(tuple(crop.shape) for crop in clip.crops),
        rounds=pairs,
        processor_rounds=busy if on_cpu else (),
    )


@dataclass(frozen=True)
class _Spent:
    """Milliseconds: by the clock, and of all cores."""

    wall: float
    processor: float


class _Round:
    """What the calls of one round took."""

    def __init__(self, spent: dict[str, _Spent], stages: dict[str, float]) -> None:
        self._spent = spent
        self.stages = stages | {"rest": self.wall("segment") - sum(stages.values())}

    def wall(self, *names: str) -> float:
        """Of all of these by the clock; what was not called took nothing."""
        return sum(self._spent[name].wall for name in names if name in self._spent)

    def processor(self, *names: str) -> float:
        return sum(self._spent[name].processor for name in names if name in self._spent)

    def once(self, shown: int) -> float:
        """One embedding, of so many, and one decode of one box."""
        return self.wall("embed") / shown + self.wall("decode_one")


def _here(spec: ModelSpec, models_dir: str | Path | None) -> bool:
    location = locate(spec, models_dir)
    return location is not None and location.complete


def _asking(segmenter: AnomalySegmenter, pixels: NDArray[np.uint8]) -> tuple[AnomalySegmenter, int]:
    """The same segmenter, with thresholds at which it has something to ask SAM about, and of how many
    regions.
    """
    clip_alone = AnomalySegmenter(
        segmenter.preset,
        segmenter.clip,
        None,
        segmenter.prompts,
        segmenter.product,
        text_map=segmenter.text_map,
    )
    coarse = clip_alone.segment(pixels).coarse_map
    if count := len(region_prompts(coarse, segmenter.preset.regions)):
        return segmenter, count
    low, high = np.quantile(coarse, (0.97, 0.995))
    regions = replace(segmenter.preset.regions, low=float(low), high=float(high))
    preset: Preset = replace(segmenter.preset, regions=regions)
    louder = copy.copy(segmenter)
    louder.preset = preset
    return louder, len(region_prompts(coarse, regions))


def _spent(call: Callable[[], Any], device: torch.device) -> tuple[_Spent, Any]:
    """What a call takes, and its answer."""
    start, busy = time.perf_counter(), time.process_time()
    answer = call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return _Spent(1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - busy)), answer


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
