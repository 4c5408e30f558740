"""SamRefiner: transformers' SAM, SAM-HQ, SAM 2.1, EdgeTAM and SAM 3's tracker behind one call.

Input: a photo, its coarse map and the prompts of its regions. Output: per region and way of asking at most
one `SoftMask`. One image embedding per photo, none when there is nothing to ask; masks, scores and
coordinates are those of a plain call of transformers' model and processor. Knows nothing of CLIP, nor of
what becomes of the masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsam.agreement import MapView
from clipsam.edges import snap
from clipsam.errors import UsageError
from clipsam.masks import MaskFrame, SoftMask
from clipsam.regions import RegionPrompt
from clipsam.sam_backends import Features, backend_of, decode, embed
from clipsam.settings import SELECTIONS, STRATEGIES, SamSettings
from clipsam.strategies import Look, looks, moved, strategy_prompts

if TYPE_CHECKING:
    from clipsam.presets import SamSpec
    from clipsam.programs.modules import SamPrograms

__all__ = ["KINDS", "SamRefiner", "SamSettings", "SoftMask"]

KINDS = ("points", "box", "box+points")
"""The ways of asking about a region: those of ClipSAM's multi-level mask refinement (arXiv 2401.12665)."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class _Embedded:
    """A photo as the decoder sees it, and where its masks lie."""

    features: Features
    frame: MaskFrame


@dataclass(frozen=True)
class _Question:
    """n prompts in the model's coordinates, all with the same number of points: one batch of the decoder."""

    points: Tensor | None  # [n, 1, p, 2] xy
    labels: Tensor | None  # [n, 1, p], 1 inside, 0 outside
    boxes: Tensor | None  # [n, 1, 4] xyxy
    masks: Tensor | None = None  # [n, 1, h, w] logits of an earlier answer


class SamRefiner:
    """A SAM that stays loaded; `refine` keeps nothing between photos."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str = "sam",
        weights_hash: str = "",
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        """`model` and `processor`: those of one of the `BACKENDS` (see `clipsam/sam_backends.py`).

        `dtype` "bfloat16" runs the image encoder, which takes nearly all the time, under autocast. The
        decoder stays in float32: in bfloat16 the coordinates of prompts would be off by several pixels.
        """
        if dtype not in _DTYPES:
            raise UsageError(f"the dtype of SAM must be one of: {', '.join(_DTYPES)}; found {dtype!r}")
        self.name, self.weights_hash = name, weights_hash
        self.device = torch.device(device)
        self._dtype = _DTYPES[dtype]
        self.backend = backend_of(model, name)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self._processor = processor
        self.programs: SamPrograms | None = None  # take the encoder's place; see `clipsam/programs`

    @classmethod
    def from_spec(cls, spec: SamSpec, *, models_dir: str | Path | None = None, **options: Any) -> SamRefiner:
        """Load what a specification names; `options` (device, dtype) go to the constructor.

        Raises `WeightsError` where the weights are missing or damaged.
        """
        from clipsam.weights import load_sam

        return cls(**vars(load_sam(spec, models_dir)), **options)

    @torch.inference_mode()
    def refine(
        self,
        pixels: NDArray[np.uint8],
        prompts: Sequence[RegionPrompt],
        coarse: NDArray[np.float32],
        settings: SamSettings | None = None,
    ) -> tuple[SoftMask, ...]:
        """SAM's masks for `prompts` on `pixels` [H, W, 3] that agree with the map `coarse` [H, W].

        Each region is asked for once per kind, with the points and boxes of `settings.strategy`. Answers are
        refused that agree too little with the map (see `MapView`) or that swallow far more than the region
        (see `SamSettings`). Of SAM's three answers `settings.selection` keeps one, or none where all are
        refused:

        - "iou*agreement": the highest product of SAM's IoU score and the agreement with the map;
        - "iou": what SAM itself holds for best; "agreement": what fits the map best; "stability": what
          changes least with the threshold;
        - "all": each answer that is not refused, as a mask of its own (ClipSAM and PPSS merge all three).

        The strategy "cascade" asks three times: as it is, with the mask logits of the first answer, and with
        those of the second answer and the box around it (arXiv 2510.11028, for points). Regions that are tiny
        at SAM's resolution are asked on a crop (`settings.crop`), and points and boxes follow visible
        borders (`settings.edges`). Without them points and boxes go to SAM as they are.
        """
        settings = settings or SamSettings()
        _check(pixels, coarse, settings)
        if not prompts:
            return ()
        asked = strategy_prompts(coarse, prompts, settings)
        if settings.edges > 0:
            asked = snap(asked, pixels, settings.edges)
        masks: list[SoftMask] = []
        for look in looks(asked, coarse.shape, self._mask_side, settings):
            masks += self._masks(pixels, coarse, asked, look, settings)
        return tuple(sorted(masks, key=lambda mask: (mask.region, settings.kinds.index(mask.kind))))

    @property
    def _mask_side(self) -> int:
        """Cells of a mask along a side: four per cell of the image features, in every family."""
        prompts = self.model.config.prompt_encoder_config
        side = prompts.image_size
        return 4 * ((side if isinstance(side, int) else max(side)) // prompts.patch_size)

    def _masks(
        self,
        pixels: NDArray[np.uint8],
        coarse: NDArray[np.float32],
        prompts: Sequence[RegionPrompt],
        look: Look,
        settings: SamSettings,
    ) -> Iterator[SoftMask]:
        """What SAM answers when it is shown one window of the photo."""
        x0, y0, x1, y1 = look.window
        local = [moved(prompts[region], look.window) for region in look.regions]
        photo = self._embed(np.ascontiguousarray(pixels[y0:y1, x0:x1]))
        view = MapView(coarse[y0:y1, x0:x1], local, photo.frame, self.device)
        for kind in settings.kinds:
            for batch in _batches(local, kind, settings.batch):
                for mask in self._answers(photo, view, local, batch, kind, settings):
                    region, (left, top, right, bottom) = look.regions[mask.region], mask.window
                    yield replace(
                        mask,
                        region=region,
                        prompt=prompts[region],
                        window=(left + x0, top + y0, right + x0, bottom + y0),
                        frame=replace(mask.frame, origin=(y0, x0)),
                    )

    def _embed(self, pixels: NDArray[np.uint8]) -> _Embedded:
        images = prepared(self._processor.image_processor, pixels)
        values = images["pixel_values"].to(self.device)
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            features = self.programs(values) if self.programs else embed(self.model, self.backend, values)
        height, width = values.shape[-2:]
        pads = self.backend.pads
        resized = [int(side) for side in images["reshaped_input_sizes"][0]] if pads else (height, width)
        frame = MaskFrame(
            photo=(pixels.shape[0], pixels.shape[1]),
            mask=(4 * features.grid[0], 4 * features.grid[1]),
            resized=(resized[0], resized[1]),
            padded=(height, width) if pads else None,
        )
        return _Embedded(features, frame)

    def _answers(
        self,
        photo: _Embedded,
        view: MapView,
        prompts: Sequence[RegionPrompt],
        batch: list[int],
        kind: str,
        settings: SamSettings,
    ) -> list[SoftMask]:
        """The masks that are kept for the prompts with indices `batch`."""
        asked = [prompts[index] for index in batch]
        question = self._question(photo.frame, asked, kind)
        logits, ious = self._decode(photo, question)
        verdict = view.judge(batch, logits, ious, settings)
        for last in (False, True) if settings.strategy == "cascade" else ():
            answer = _pick(logits, verdict.best)[:, None]
            question = replace(question, masks=answer)
            if last:
                boxes = _boxes_around(answer, photo.frame, otherwise=self._boxes(photo.frame, asked))
                question = replace(question, boxes=boxes)
            logits, ious = self._decode(photo, question)
            verdict = view.judge(batch, logits, ious, settings)
        if settings.selection == "all":  # each answer is judged alone
            batch = [region for region in batch for _ in range(logits.shape[1])]
            logits, ious = logits.flatten(0, 1)[:, None], ious.flatten()[:, None]
            verdict = view.judge(batch, logits, ious, settings)
        chosen = _pick(logits, verdict.best).cpu().numpy()
        return [
            SoftMask(
                region=region,
                prompt=prompts[region],
                kind=kind,
                iou=float(verdict.iou[row]),
                agreement=float(verdict.agreement[row]),
                window=verdict.windows[row],
                logits=chosen[row].copy(),  # not a view that keeps the whole batch alive
                frame=photo.frame,
            )
            for row, region in enumerate(batch)
            if verdict.accepted[row]
        ]

    def _question(self, frame: MaskFrame, prompts: Sequence[RegionPrompt], kind: str) -> _Question:
        points = labels = None
        if "points" in kind:
            both = np.stack([np.concatenate([prompt.positives, prompt.negatives]) for prompt in prompts])
            points = self._scaled(torch.from_numpy(both), frame)[:, None]
            signs = [[1] * len(prompt.positives) + [0] * len(prompt.negatives) for prompt in prompts]
            labels = torch.tensor(signs, device=self.device)[:, None]
        return _Question(points, labels, self._boxes(frame, prompts) if "box" in kind else None)

    def _boxes(self, frame: MaskFrame, prompts: Sequence[RegionPrompt]) -> Tensor:
        corners = torch.tensor([prompt.box_xyxy for prompt in prompts], dtype=torch.float32)
        return self._scaled(corners.view(-1, 2, 2), frame).view(-1, 1, 4)

    def _scaled(self, coordinates: Tensor, frame: MaskFrame) -> Tensor:
        """Photo coordinates [n, p, 2] xy in the model's pixels, as transformers' processors compute them.

        Those of SAM 1 and SAM-HQ do it in float64, the others in float32; SAM's random Fourier features see
        the difference.
        """
        scaled = coordinates.to(torch.float64 if self.backend.pads else torch.float32)
        scaled[..., 0] *= frame.resized[1] / frame.photo[1]
        scaled[..., 1] *= frame.resized[0] / frame.photo[0]
        return scaled.to(self.device)

    def _decode(self, photo: _Embedded, question: _Question) -> tuple[Tensor, Tensor]:
        """Mask logits [n, 3, h, w] and IoU scores [n, 3] of one batch."""
        given = question.boxes if question.points is None else question.points
        assert given is not None
        return decode(
            self.model,
            self.backend,
            photo.features,
            len(given),
            input_points=question.points,
            input_labels=question.labels,
            input_boxes=question.boxes,
            input_masks=question.masks,
        )


def _check(pixels: NDArray[np.uint8], coarse: NDArray[np.float32], settings: SamSettings) -> None:
    unknown = [kind for kind in settings.kinds if kind not in KINDS]
    if unknown or not settings.kinds:
        raise UsageError(f"SAM is asked by some of: {', '.join(KINDS)}; found {', '.join(unknown) or 'none'}")
    for name, known in (("strategy", STRATEGIES), ("selection", SELECTIONS)):
        if (found := getattr(settings, name)) not in known:
            raise UsageError(f"SAM's {name} must be one of: {', '.join(known)}; found {found!r}")
    for name in ("batch", "patch_grid", "max_points"):
        if (number := getattr(settings, name)) < 1:
            raise UsageError(f"{name} of SAM's settings must be at least 1, found {number}")
    if not settings.crop_context > 1:
        raise UsageError(f"crop_context of SAM's settings must be above 1, found {settings.crop_context}")
    for name, limit in (("edges", 1.0), ("patch_margin", 0.5)):
        if not 0 <= (share := getattr(settings, name)) < limit:
            raise UsageError(f"{name} of SAM's settings must lie in [0, {limit:g}), found {share}")
    if pixels.dtype != np.uint8 or pixels.shape != (*coarse.shape, 3):
        found = f"{pixels.dtype} {list(pixels.shape)} with a map {list(coarse.shape)}"
        raise UsageError(f"expected pixels uint8 [H, W, 3] and a map [H, W] of the same photo, found {found}")


def _batches(prompts: Sequence[RegionPrompt], kind: str, size: int) -> Iterator[list[int]]:
    """Indices of prompts, at most `size` at once, with equal numbers of points.

    Padding to one number is not an option: SAM attends to padding points too, and the masks would change.
    """

    def points(index: int) -> int:
        return len(prompts[index].positives) + len(prompts[index].negatives) if "points" in kind else 0

    for _, group in groupby(sorted(range(len(prompts)), key=points), key=points):
        indices = list(group)
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def _pick(logits: Tensor, best: Tensor) -> Tensor:
    """From answers [n, m, h, w] the one at `best` [n]: [n, h, w]."""
    return logits[torch.arange(len(best), device=best.device), best]


def prepared(processor: Any, pixels: NDArray[np.uint8]) -> Any:
    """What SAM's image processor makes of a photo [H, W, 3], `pixel_values` [1, 3, h, w] among it.

    The photo is resized before, as a view: the processor would copy it twice before it does the same.
    """
    photo = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    photo = processor.resize(photo, processor.size, resample=processor.resample)
    return processor(
        images=photo[0], do_resize=False, input_data_format="channels_first", return_tensors="pt"
    )


def _boxes_around(answer: Tensor, frame: MaskFrame, otherwise: Tensor) -> Tensor:
    """Boxes [n, 1, 4] around positive logits [n, 1, h, w], in model pixels; `otherwise` where none is."""
    scale = [model / mask for model, mask in zip(frame.padded or frame.resized, frame.mask, strict=True)]
    boxes = otherwise.clone()
    for box, inside in zip(boxes[:, 0], (answer[:, 0] > 0).cpu().numpy(), strict=True):
        ys, xs = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if len(ys):
            x1, y1 = (
                min((xs[-1] + 1) * scale[1], frame.resized[1]),
                min((ys[-1] + 1) * scale[0], frame.resized[0]),
            )
            box[:] = torch.tensor([xs[0] * scale[1], ys[0] * scale[0], x1, y1])
    return boxes
