"""Backends: what differs between transformers' SAM families, behind one pair of functions, embed and decode.

Input: a loaded model of a family in `BACKENDS`. Output: features of a photo that can be asked again and
again, and mask logits with IoU scores. The family is the `model_type` of the model's own config; there is
no other way in and no fallback. Knows nothing of files, regions and coarse maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipsam.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Backend:
    """One family: transformers' classes, how a photo is fitted in, and what the encoder hands to the decoder.

    `pads`: the aspect ratio is kept and the rest padded (SAM 1); otherwise the photo is stretched.
    `pyramid`: the encoder gives three levels, finest first (SAM 2 and later). `inner`: it also gives the
    features of earlier blocks, which the decoder wants back (SAM-HQ). `blocks`: where the encoder keeps its
    transformer blocks, if it is made of them. `renamed`: where the published file holds more than this model,
    patterns of its tensors' names and what they are called in the model.
    """

    title: str
    model_class: str
    processor_class: str
    pads: bool = False
    pyramid: bool = True
    inner: bool = False
    blocks: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Features:
    """A photo as the decoder takes it: levels [1, c, h, w], coarsest last, and inner ones [1, h, w, c]."""

    levels: list[Tensor]
    inner: list[Tensor]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the coarsest level; masks are four times as fine."""
        return self.levels[-1].shape[-2], self.levels[-1].shape[-1]


_SAM = Backend("SAM", "SamModel", "SamProcessor", pads=True, pyramid=False, blocks="layers")
_SAM_HQ = Backend(
    "SAM-HQ", "SamHQModel", "SamHQProcessor", pads=True, pyramid=False, inner=True, blocks="layers"
)
_SAM2 = Backend("SAM 2, 2.1", "Sam2Model", "Sam2Processor", blocks="backbone.blocks")
_EDGETAM = Backend("EdgeTAM", "EdgeTamModel", "Sam2Processor")
_SAM3 = Backend("SAM 3 tracker", "Sam3TrackerModel", "Sam3TrackerProcessor", blocks="backbone.layers")
_SAM3_PUBLISHED = Backend(
    "SAM 3 tracker",
    "Sam3TrackerModel",
    "Sam3TrackerProcessor",
    blocks="backbone.layers",
    # The published file holds detector and tracker; they share the backbone.
    renamed={
        r"^detector_model\.vision_encoder\.backbone\.": "vision_encoder.backbone.",
        r"^tracker_neck\.": "vision_encoder.neck.",
        r"^tracker_model\.": "",
    },
)

BACKENDS: dict[str, Backend] = {
    "sam": _SAM,
    "sam_hq": _SAM_HQ,
    "sam2": _SAM2,
    "sam2_video": _SAM2,  # the published SAM 2.1; what it needs for videos is left out
    "edgetam": _EDGETAM,
    "edgetam_video": _EDGETAM,  # the published EdgeTAM, likewise
    "sam3_tracker": _SAM3,
    "sam3_tracker_video": _SAM3,
    "sam3_video": _SAM3_PUBLISHED,
}
"""Backends by `model_type` in config.json."""


def backend_of(model: Any, name: str) -> Backend:
    """The backend of a loaded model; `WeightsError` where its family is not known or is not that class."""
    family = model.config.model_type
    if family not in BACKENDS:
        raise WeightsError(f"{name} is of the family {family!r}; expected one of: {', '.join(BACKENDS)}")
    backend = BACKENDS[family]
    if type(model).__name__ != backend.model_class:
        raise WeightsError(
            f"{name} is a {type(model).__name__} with a config of {family!r}; expected {backend.model_class}"
        )
    return backend


def embed(model: Any, backend: Backend, values: Tensor) -> Features:
    """The features of one photo, `values` [1, 3, H, W] as the processor makes them, in float32."""
    found = model.get_image_embeddings(values)
    levels, inner = (found, []) if backend.pyramid else ([found], [])
    if backend.inner:
        levels, inner = [found[0]], found[1]
    return Features([level.float() for level in levels], [part.float() for part in inner])


def parts(model: Any, backend: Backend) -> list[Any]:
    """The encoder's transformer blocks, for `compiled.py`; none of EdgeTAM, which is made of convolutions."""
    return list(model.vision_encoder.get_submodule(backend.blocks)) if backend.blocks else []


def decode(
    model: Any, backend: Backend, features: Features, count: int, **question: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mask logits [count, 3, h, w] and IoU scores [count, 3] for `count` prompts.

    `question`: `input_points`, `input_labels`, `input_boxes`, `input_masks` as transformers takes them, one
    prompt per batch entry.
    """
    # One photo per prompt, not n prompts on one photo: only so does SAM take a mask prompt for each.
    levels = [level.expand(count, -1, -1, -1) for level in features.levels]
    if backend.inner:
        question["intermediate_embeddings"] = [part.expand(count, -1, -1, -1) for part in features.inner]  # type: ignore[assignment]
    answer = model(
        image_embeddings=levels if backend.pyramid else levels[0], multimask_output=True, **question
    )
    return answer.pred_masks[:, 0], answer.iou_scores[:, 0]
