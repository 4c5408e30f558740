"""Exported image towers: programs of CLIP's image tower and SAM's image encoder, in one folder.

Input: loaded models; output: a folder of `export.json` and the programs, each with the hash of the weights
that it came from, which `attach` then lets run in place of the towers. What is inside a program is the eager
code itself, traced by `torch.export`, colours normalised inside. Knows nothing of sentences, prompts, heat
maps and decoders; what runs a program is a file of its own, and so is how one is traced and quantised.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipsam.errors import UsageError, WeightsError
from clipsam.programs.folder import Programs, same_weights
from clipsam.programs.modules import ClipPrograms, DenseTower, ImageEncoder, SamPrograms
from clipsam.programs.runtime import find_runtime

if TYPE_CHECKING:
    from clipsam.clip import ClipEncoder
    from clipsam.sam import SamRefiner
    from clipsam.segmenter import AnomalySegmenter
    from clipsam.settings import HeatmapSettings

__all__ = ["CARD", "attach", "export"]

CARD = "export.json"


def export(
    segmenter: AnomalySegmenter,
    folder: str | Path,
    sizes: Sequence[tuple[int, int]],
    backend: str = "openvino",
    precision: str = "float32",
) -> list[Path]:
    """Put all programs that photos of these sizes (height, width) need into a new folder; gives their files.

    `backend`: "openvino" or "onnx"; `precision`: "float32", with OpenVINO also "bfloat16", and "int8", whose
    ranges come from rendered pictures. The segmenter, which must be on the CPU in float32, runs the programs
    from then on. Raises `UsageError` where the folder holds something, the way of attending needs more than
    the tower, or this backend, or this CPU, lacks the precision; `MissingExtra`.
    """
    find_runtime(backend, precision).need_to_make(precision)
    clip, sam, settings, target = segmenter.clip, segmenter.sam, segmenter.preset.heatmap, Path(folder)
    if settings.attention in ("proxy", "windows") or segmenter.text_map is not None:
        raise UsageError(
            f"the map of preset {segmenter.preset.name} is more than one pass of CLIP's tower and cannot be "
            "exported; expected a preset with another attention mode and without text_map, such as nano"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is there already; expected a new or empty folder to export to")
    target.mkdir(parents=True, exist_ok=True)
    card = {
        "backend": backend,
        "precision": precision,
        "weights": {"clip": clip.weights_hash, "sam": sam.weights_hash if sam else None},
        "attention": settings.attention,
        "attention_blocks": settings.attention_blocks,
        "layers": list(settings.layers),
    }
    (target / CARD).write_text(json.dumps(card, indent=2) + "\n")
    segmenter.programs = attach(target, clip, sam, settings)
    for height, width in sizes:
        segmenter.warm_up(np.full((height, width, 3), 128, np.uint8))  # makes what such a photo asks for
    return sorted(path for path in target.iterdir() if path.suffix in (".xml", ".onnx"))


def attach(
    folder: str | Path, clip: ClipEncoder, sam: SamRefiner | None, settings: HeatmapSettings
) -> dict[str, Any]:
    """Let the programs of `folder` take the place of the towers of `clip` and `sam`; gives what a manifest
    must say of them.

    Raises `WeightsError` where the folder was made of other weights or is none of `clipsam export`,
    `UsageError` where the models are not on the CPU in float32, attend otherwise, or the CPU lacks the
    precision, `MissingExtra`.
    """
    target = Path(folder)
    try:
        card = json.loads((target / CARD).read_text())
        made_of, runs = card["weights"], {"backend": card["backend"], "precision": card["precision"]}
        way = (card["attention"], card["attention_blocks"], card["layers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{target} has no readable {CARD}; expected a folder of clipsam export: make one"
        ) from error
    runtime = find_runtime(**runs)
    runtime.need_to_run(runs["precision"])
    if way != (settings.attention, settings.attention_blocks, list(settings.layers)):
        raise UsageError(
            f"{target} was exported with attention {way[0]!r}, and this preset attends by "
            f"{settings.attention!r} or over other blocks; export this preset"
        )
    if clip.device.type != "cpu" or clip.dtype != torch.float32:
        raise UsageError(
            f"exported models run on the CPU beside models in float32; found {clip.device.type} and "
            f"{str(clip.dtype).removeprefix('torch.')}: leave out device and dtype, or the exported models"
        )
    same_weights(target, "clip", made_of.get("clip"), clip.weights_hash)
    clip.programs = ClipPrograms(
        Programs(target, "clip", DenseTower(clip, settings), clip.weights_hash, runtime, runs["precision"]),
        settings,
    )
    if sam is not None:
        if made_of.get("sam") is None:
            raise WeightsError(
                f"{target} was exported without SAM; leave SAM out (--no-sam), or export it too"
            )
        same_weights(target, "sam", made_of["sam"], sam.weights_hash)
        sam.programs = SamPrograms(
            Programs(target, "sam", ImageEncoder(sam), sam.weights_hash, runtime, runs["precision"]),
            sam.backend.inner,
        )
    return runs
