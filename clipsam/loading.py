"""Loading: the warm models of a segmenter, and what belongs to it, from names and files.

Input: a preset with what a user asked for beside it. Output: `Models`, and a preset or a region of interest
that fit. What contradicts itself is refused before a weight is read. Knows nothing of photos.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsam.adapter import Adapter
from clipsam.clip import ClipEncoder
from clipsam.devices import usable_device
from clipsam.errors import UsageError
from clipsam.presets import Preset, PresetChoice, choose_preset
from clipsam.programs import attach
from clipsam.prompts import PromptEnsemble
from clipsam.proxy import ProxyEncoder
from clipsam.roi import Roi
from clipsam.sam import SamRefiner
from clipsam.sam3_map import Sam3TextMap

if TYPE_CHECKING:
    from clipsam.calibrate import Calibration


@dataclass(frozen=True)
class Models:
    """What runs: `text_map` gives the coarse map in place of CLIP, `adapter` in place of the sentences;
    `programs` describes what runs the image towers, if not torch.
    """

    clip: ClipEncoder
    sam: SamRefiner | None = None
    adapter: Adapter | None = None
    text_map: Sam3TextMap | None = None
    programs: dict[str, Any] | None = None


def chosen(
    name: str | Preset | None,
    models_dir: str | Path | None,
    threshold: float | None,
    calibration: str | Path | Calibration | None,
) -> PresetChoice:
    """The preset that is named, or the best that is here, with the user's own pixel threshold.

    Raises `UsageError` for a threshold outside of [0, 1], or one beside a calibration, which has its own.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"the threshold is {threshold}; expected a value of the map, from 0 to 1")
    if calibration is not None and threshold is not None:
        raise UsageError("both a threshold and a calibration are given, which has one; leave one out")
    choice = (
        PresetChoice(name, "the caller's own")
        if isinstance(name, Preset)
        else choose_preset(name, models_dir)
    )
    if threshold is None:
        return choice
    return replace(choice, preset=replace(choice.preset, pixel_threshold=threshold))


def load_models(
    preset: Preset,
    prompts: PromptEnsemble,
    *,
    sam: bool = True,
    adapter: str | Path | None = None,
    device: str | None = None,
    dtype: str = "float32",
    models_dir: str | Path | None = None,
    exported: str | Path | None = None,
    compiled: bool = False,
) -> Models:
    """Load what a preset names; the options are those of `AnomalySegmenter.from_preset`.

    `compiled` is refused here where it fits nothing, and done by the segmenter. Raises `WeightsError` where
    weights are missing, damaged or others than those exported, and `UsageError` for a device that cannot be
    used or for options that exclude each other.
    """
    words = preset.text_map
    if adapter and words:
        raise UsageError(
            f"preset {preset.name} takes its map from {words.name}, and the adapter {adapter} gives one "
            "too; expected one of them: leave out --adapter, or choose a preset without text_map"
        )
    if exported and words:
        raise UsageError(f"the map of {words.name} cannot be exported; choose a preset without text_map")
    if exported and compiled:
        raise UsageError(
            f"the programs of {exported} run in place of the towers that --compile (compiled=True) compiles; "
            "leave one of them out"
        )
    if compiled and words:
        raise UsageError(f"the map of {words.name} cannot be compiled; choose a preset without text_map")
    place: dict[str, Any] = {"device": usable_device(device or ("cpu" if exported else None)), "dtype": dtype}
    clip = ClipEncoder.from_spec(preset.clip, models_dir=models_dir, **place)
    if preset.heatmap.attention == "proxy":
        clip.proxy = ProxyEncoder.from_spec(preset.proxy, models_dir=models_dir, **place)
    wanted = preset.sam if sam else None
    refiner = SamRefiner.from_spec(wanted, models_dir=models_dir, **place) if wanted else None
    return Models(
        clip,
        refiner,
        adapter=Adapter.load(adapter, clip, prompts, preset.heatmap) if adapter else None,
        text_map=Sam3TextMap.from_spec(words, models_dir=models_dir, **place) if words else None,
        programs=attach(exported, clip, refiner, preset.heatmap) if exported else None,
    )


def load_roi(roi: str | Path | Roi | None, product: str, preset: Preset) -> Roi | None:
    """The region of interest, from its file if need be; `UsageError` beside a score of the whole photo, which
    cannot be kept to it.
    """
    if roi is None:
        return None
    if preset.fusion.score == "whole":
        raise UsageError(
            f"preset {preset.name} takes the score from the photo as a whole, which no region of interest "
            "can limit; use the score 'max', 'top' or 'coarse', or leave out the region"
        )
    return roi if isinstance(roi, Roi) else Roi.load(roi, product)
