"""Exported image towers: OpenVINO programs of CLIP's image tower and SAM's image encoder, in one folder.

Input: loaded models; output: a folder of `export.json` and one program per model and size of its input, each
with the hash of the weights that it came from. What is inside a program is the eager code itself, traced by
`torch.export`, colours normalised inside. Knows nothing of sentences, prompts, heat maps and decoders.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clipsam.clip import PatchFeatures
from clipsam.errors import MissingExtra, UsageError, WeightsError
from clipsam.sam_backends import Features, embed

if TYPE_CHECKING:
    from clipsam.clip import ClipEncoder
    from clipsam.sam import SamRefiner
    from clipsam.segmenter import AnomalySegmenter
    from clipsam.settings import HeatmapSettings

log = logging.getLogger(__name__)

CARD = "export.json"


class DenseTower(nn.Module):
    """Pixels [1, 3, H, W] in [0, 1] -> what `ClipEncoder.encode_pixels` gives: patches, pooled, layers."""

    def __init__(self, clip: ClipEncoder, settings: HeatmapSettings) -> None:
        super().__init__()
        self.visual = clip.model.visual  # so that the weights are this module's own
        self._clip, self._settings = [clip], settings

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        how = self._settings
        seen = self._clip[0].dense(pixels, how.attention, blocks=how.attention_blocks, layers=how.layers)
        assert seen.pooled is not None  # it was not declined
        return (seen.patches, seen.pooled, *seen.layers)


class ImageEncoder(nn.Module):
    """Pictures [1, 3, H, W] as SAM's processor makes them -> the levels and inner features of `embed`."""

    def __init__(self, sam: SamRefiner) -> None:
        super().__init__()
        self.model, self._backend = sam.model, sam.backend

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        features = embed(self.model, self._backend, values)
        return (*features.levels, *features.inner)


@dataclass
class Programs:
    """One model's programs in `folder`, one per size of its input; what is missing is made, and kept."""

    folder: Path
    name: str
    module: nn.Module
    weights_hash: str

    def __post_init__(self) -> None:
        self._compiled: dict[tuple[int, int], Any] = {}

    def __call__(self, values: Tensor) -> list[Tensor]:
        """Values [b, 3, H, W] -> the outputs of the module, float32, batch first."""
        program = self._program((values.shape[-2], values.shape[-1]))
        answers = [program(one[None].float().numpy()) for one in values]
        rows = [
            [torch.from_numpy(np.array(answer[i])) for i in range(len(program.outputs))] for answer in answers
        ]
        return [torch.cat(parts) for parts in zip(*rows, strict=True)]

    def make(self, height: int, width: int) -> Path:
        """Write the program for values [1, 3, height, width]; gives its file, which was perhaps there."""
        path = self.folder / f"{self.name}-{height}x{width}.xml"
        if path.is_file():
            return path
        openvino = need_openvino()
        example = torch.rand(1, 3, height, width)
        with torch.inference_mode(False), torch.no_grad():
            resized = _Positions([])
            with resized:
                self.module.eval()(example)
            with _Positions(resized.known):
                traced = torch.export.export(self.module, (example.clone(),))
        model = _converted(openvino, traced, (height, width), self.name)
        model.set_rt_info(self.weights_hash, ["clipsam", "weights"])
        # A program exists once its .xml does: a kill in between leaves nothing that would be taken for one.
        made = self.folder / f".{path.name}"
        openvino.save_model(model, made, compress_to_fp16=False)
        made.with_suffix(".bin").replace(path.with_suffix(".bin"))
        made.replace(path)
        return path

    def _program(self, size: tuple[int, int]) -> Any:
        if size not in self._compiled:
            openvino, (height, width) = need_openvino(), size
            if not (self.folder / f"{self.name}-{height}x{width}.xml").is_file():
                log.warning(
                    "%s: making the program of %s for %dx%d px, once", self.folder, self.name, width, height
                )
            path = self.make(height, width)
            core = openvino.Core()
            model = core.read_model(path)
            marked = model.has_rt_info(["clipsam", "weights"])
            found = model.get_rt_info(["clipsam", "weights"]).astype(str) if marked else ""
            _same_weights(path, self.name, found, self.weights_hash)
            how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
            how["INFERENCE_PRECISION_HINT"] = "f32"  # bfloat16, where the CPU has it, would be taken unasked
            self._compiled[size] = core.compile_model(model, "CPU", how)
        return self._compiled[size]


class ClipPrograms:
    """CLIP's image tower; serves the way of attending that it was exported with."""

    def __init__(self, programs: Programs, settings: HeatmapSettings) -> None:
        self.programs = programs
        self._way = (settings.attention, settings.attention_blocks, tuple(settings.layers))

    def serves(self, attention: str, blocks: int | None, layers: Sequence[int]) -> bool:
        return (attention, blocks, tuple(layers)) == self._way

    def __call__(self, pixels: Tensor) -> PatchFeatures:
        """As `ClipEncoder.encode_pixels`."""
        patches, pooled, *layers = self.programs(pixels)
        return PatchFeatures(patches, pooled, tuple(layers))


class SamPrograms:
    """SAM's image encoder."""

    def __init__(self, programs: Programs, inner: bool) -> None:
        self.programs, self._inner = programs, inner

    def __call__(self, values: Tensor) -> Features:
        """As `sam_backends.embed`."""
        found = self.programs(values)
        return Features(found[:1], found[1:]) if self._inner else Features(found, [])


def export(segmenter: AnomalySegmenter, folder: str | Path, sizes: Sequence[tuple[int, int]]) -> list[Path]:
    """Put all programs that photos of these sizes (height, width) need into a new folder; gives their files.

    The segmenter, which must be on the CPU in float32, runs them from then on. Raises `UsageError` where the
    folder holds something or the way of attending needs more than the tower, `MissingExtra`.
    """
    need_openvino()
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
        "backend": "openvino",
        "weights": {"clip": clip.weights_hash, "sam": sam.weights_hash if sam else None},
        "attention": settings.attention,
        "attention_blocks": settings.attention_blocks,
        "layers": list(settings.layers),
    }
    (target / CARD).write_text(json.dumps(card, indent=2) + "\n")
    segmenter.programs = attach(target, clip, sam, settings)
    for height, width in sizes:
        segmenter.warm_up(np.full((height, width, 3), 128, np.uint8))  # makes what such a photo asks for
    return sorted(target.glob("*.xml"))


def attach(
    folder: str | Path, clip: ClipEncoder, sam: SamRefiner | None, settings: HeatmapSettings
) -> dict[str, Any]:
    """Let the programs of `folder` take the place of the towers of `clip` and `sam`; gives the card.

    Raises `WeightsError` where the folder was made of other weights or is none of `clipsam export`,
    `UsageError` where the models are not on the CPU in float32 or attend otherwise, `MissingExtra`.
    """
    need_openvino()
    target = Path(folder)
    try:
        card = json.loads((target / CARD).read_text())
        made_of = card["weights"]
        way = (card["attention"], card["attention_blocks"], card["layers"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{target} has no readable {CARD}; expected a folder of clipsam export: make one"
        ) from error
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
    _same_weights(target, "clip", made_of.get("clip"), clip.weights_hash)
    clip.programs = ClipPrograms(
        Programs(target, "clip", DenseTower(clip, settings), clip.weights_hash), settings
    )
    if sam is not None:
        if made_of.get("sam") is None:
            raise WeightsError(
                f"{target} was exported without SAM; leave SAM out (--no-sam), or export it too"
            )
        _same_weights(target, "sam", made_of["sam"], sam.weights_hash)

        sam.programs = SamPrograms(
            Programs(target, "sam", ImageEncoder(sam), sam.weights_hash), sam.backend.inner
        )
    return {"backend": card["backend"]}


class _Positions(TorchFunctionMode):
    """Antialiased resizing, which only position embeddings see: done once, then part of the program.

    OpenVINO has no such operation. The results are kept in the order of the calls, or taken from `known`.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known, self._given = known, iter(list(known))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.interpolate or not kwargs.get("antialias"):
            return func(*args, **kwargs)
        given = next(self._given, None)
        if given is None:
            given = func(*args, **kwargs)
            self.known.append(given)
        return given


def _converted(openvino: Any, traced: Any, size: tuple[int, int], name: str) -> Any:
    try:
        return openvino.convert_model(traced, input=[1, 3, *size])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UsageError(
            f"OpenVINO cannot take {name} at {size[1]}x{size[0]} px ({reason}); run it without export"
        ) from error


def need_openvino() -> Any:
    """The library; `MissingExtra` where it is not installed."""
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("running exported models", "openvino") from error
    return openvino


def _same_weights(where: Path, name: str, found: str | None, expected: str) -> None:
    if found != expected:
        raise WeightsError(
            f"{where} was exported from other weights of {name} ({(found or 'none')[:12]}) than are loaded "
            f"({expected[:12]}); export anew with clipsam export"
        )
