"""Bare passes: what the networks alone cost of a photo.

Input: a segmenter and a photo, which is segmented once while the pixels and questions that its networks are
given are noted. Output: `BareClip` and `BareSam`, which make the same passes again with nothing around them.
Knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsam.clip import ClipEncoder
from clipsam.sam import SamRefiner, prepared
from clipsam.sam_backends import Features, decode, embed
from clipsam.segmenter import AnomalySegmenter


@dataclass(frozen=True)
class BareClip:
    """The image tower's own embedding of the batches of pixels [b, 3, H, W] that it is given."""

    encoder: ClipEncoder
    crops: tuple[Tensor, ...]

    def encode(self) -> None:
        encoder, low = self.encoder, self.encoder.dtype != torch.float32
        with torch.autocast(encoder.device.type, encoder.dtype if low else torch.bfloat16, enabled=low):
            for crop in self.crops:
                bare_pass(encoder, crop)


@dataclass(frozen=True)
class BareSam:
    """The pictures that SAM embeds, as its processor makes them, and the questions to its decoder."""

    refiner: SamRefiner
    pictures: tuple[Tensor, ...]
    asked: tuple[tuple[Any, Any], ...]  # what `SamRefiner._decode` is given

    @property
    def questions(self) -> tuple[int, ...]:
        """How many prompts each pass of the decoder answers."""
        return tuple(
            len(question.boxes if question.points is None else question.points) for _, question in self.asked
        )

    def embed(self) -> None:
        """All embeddings."""
        for values in self.pictures:
            self._embed(values)

    def decode(self) -> None:
        """All passes of the decoder."""
        for photo, question in self.asked:
            self.refiner._decode(photo, question)

    def decode_one(self) -> None:
        """One pass for one box."""
        side = min(self.pictures[0].shape[-2:])
        box = torch.tensor([[[side / 4, side / 4, side / 2, side / 2]]], device=self.refiner.device)
        features = self.asked[0][0].features
        decode(self.refiner.model, self.refiner.backend, features, 1, input_boxes=box)

    def _embed(self, values: Tensor) -> Features:
        refiner, low = self.refiner, self.refiner._dtype != torch.float32
        with torch.autocast(refiner.device.type, refiner._dtype if low else torch.bfloat16, enabled=low):
            return embed(refiner.model, refiner.backend, values)


def bare_passes(segmenter: AnomalySegmenter, pixels: NDArray[np.uint8]) -> tuple[BareClip, BareSam | None]:
    """The passes that `segment` makes for this photo [H, W, 3]; None where it asks SAM nothing."""
    crops: list[Tensor] = []
    shown: list[NDArray[np.uint8]] = []
    asked: list[tuple[Any, Any]] = []
    clip, sam = segmenter.clip, segmenter.sam
    with ExitStack() as stack:
        for method in ("encode_pixels", "encode_windows"):
            stack.enter_context(_noting(clip, method, lambda batch, *_, **__: crops.append(batch)))
        if sam:
            stack.enter_context(_noting(sam, "_embed", shown.append))
            stack.enter_context(_noting(sam, "_decode", lambda *question: asked.append(question)))
        segmenter.segment(pixels)
    bare = BareClip(clip, tuple((crop.to(clip.device) - 0.5) / 0.25 for crop in crops))
    if sam is None or not asked:
        return bare, None
    return bare, BareSam(sam, tuple(_fitted(sam, picture) for picture in shown), tuple(asked))


def bare_pass(encoder: ClipEncoder, pixels: Tensor) -> Tensor:
    """Normalised pixels [b, 3, H, W] -> the tower's own embedding [b, d], and nothing else: `encode_image`;
    away from the native size its parts, with positions resized.
    """
    if tuple(pixels.shape[-2:]) == tuple(encoder.image_size):
        return torch.as_tensor(encoder.model.encode_image(pixels))
    start = encoder.tower.embed(pixels)
    tokens = start.tokens
    for block in start.blocks:
        tokens = block(tokens)
    return encoder.tower.pool(tokens)


def _fitted(refiner: SamRefiner, picture: NDArray[np.uint8]) -> Tensor:
    made = prepared(refiner._processor.image_processor, picture)
    return torch.as_tensor(made["pixel_values"]).to(refiner.device)


@contextmanager
def _noting(owner: object, method: str, note: Callable[..., Any]) -> Iterator[None]:
    """While open, calls of this object's method are noted before they are made."""
    made = getattr(owner, method)

    def noted(*given: Any, **named: Any) -> Any:
        note(*given, **named)
        return made(*given, **named)

    setattr(owner, method, noted)
    try:
        yield
    finally:
        delattr(owner, method)
