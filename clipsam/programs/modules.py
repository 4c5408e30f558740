"""What is exported of the models, as modules that `torch.export` can trace, and programs in their place.

Input: a loaded `ClipEncoder` or `SamRefiner`. Output: modules of pixels alone, each with rendered pictures as
its quantisation needs them, and callables that answer as the towers do. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from clipsam.clip import PatchFeatures
from clipsam.sam import prepared
from clipsam.sam_backends import Features, embed

if TYPE_CHECKING:
    from clipsam.clip import ClipEncoder
    from clipsam.programs.folder import Programs
    from clipsam.sam import SamRefiner
    from clipsam.settings import HeatmapSettings

_SEEDS = 1 << 41  # of pictures that neither training nor validation sees
_EXACT = ("trunk.patch_embed.rare.", "trunk.patch_embed.context.", "head.")
_ASPECTS = ((1.0, 1.0), (0.67, 1.0), (1.0, 0.67))


class Exportable(nn.Module):
    """A module of values [1, 3, H, W]. `step`: one program serves all sides that are multiples of it; None:
    a program serves one size.
    """

    step: int | None = None

    def exact(self) -> list[NDArray[np.float32]]:
        """Weights whose products int8 leaves in float32: those of which eval/bench_export.py says that they
        cost accuracy and save no time.
        """
        return []

    def pictures(self, count: int, size: tuple[int, int] | None) -> Iterator[NDArray[np.float32]]:
        """Rendered pictures as input of this size (None: of many): float32 [1, 3, H, W]. Never photos."""
        raise NotImplementedError


class DenseTower(Exportable):
    """Pixels [1, 3, H, W] in [0, 1] -> what `ClipEncoder.encode_pixels` gives: patches, pooled, layers."""

    def __init__(self, clip: ClipEncoder, settings: HeatmapSettings) -> None:
        super().__init__()
        self.visual = clip.model.visual  # so that the weights are this module's own
        self._clip, self._settings = [clip], settings
        if clip.tower.any_size and settings.attention != "neighbour":
            self.step = clip.patch_size

    def exact(self) -> list[NDArray[np.float32]]:
        """What nano knows of the photo's own statistics, and its last projection."""
        named = [(name, weight) for name, weight in self.visual.named_parameters() if weight.ndim > 1]
        return [weight.detach().numpy() for name, weight in named if name.startswith(_EXACT)]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        how = self._settings
        seen = self._clip[0].dense(pixels, how.attention, blocks=how.attention_blocks, layers=how.layers)
        assert seen.pooled is not None
        return (seen.patches, seen.pooled, *seen.layers)

    def pictures(self, count: int, size: tuple[int, int] | None) -> Iterator[NDArray[np.float32]]:
        sizes = [size] if size else list(self._sizes())
        for number in range(count):
            picture = _rendered(number, *sizes[number % len(sizes)])
            yield np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32) / np.float32(255)

    def _sizes(self) -> Iterator[tuple[int, int]]:
        patch = self._clip[0].patch_size
        for share in _ASPECTS:
            for side in self._settings.sizes:
                height, width = (max(round(side * part / patch), 2) * patch for part in share)
                yield height, width


class ImageEncoder(Exportable):
    """Pictures [1, 3, H, W] as SAM's processor makes them -> the levels and inner features of `embed`."""

    def __init__(self, sam: SamRefiner) -> None:
        super().__init__()
        self.model, self._backend = sam.model, sam.backend
        self._processor = sam._processor.image_processor

    def forward(self, values: Tensor) -> tuple[Tensor, ...]:
        features = embed(self.model, self._backend, values)
        return (*features.levels, *features.inner)

    def pictures(self, count: int, size: tuple[int, int] | None) -> Iterator[NDArray[np.float32]]:
        side = max(size) if size else 512
        for number in range(count):
            height, width = (round(side * share) for share in _ASPECTS[number % len(_ASPECTS)])
            yield prepared(self._processor, _rendered(number, height, width))["pixel_values"].numpy()


def _rendered(number: int, height: int, width: int) -> NDArray[np.uint8]:
    from clipsam.nano.corpus.compose import render

    return render(_SEEDS + number, height, width).image


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
