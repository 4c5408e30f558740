"""WinCLIP+: a few flawless photos remembered by windows of patches, joined with the text map by plain means.

Input: photos of good parts, a `ClipEncoder`, the `HeatmapSettings` of attention "windows"; then any photo
with its coarse map. Output: the coarse map of both. Source: WinCLIP, Jeong et al., CVPR 2023, arXiv
2303.14814, section 4.2. Knows nothing of SAM and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsam.clip import ClipEncoder
from clipsam.errors import UsageError
from clipsam.heatmap import CoarseMap, enlarge, patch_grid, resize
from clipsam.references import hash_photos
from clipsam.settings import HeatmapSettings
from clipsam.windows import WindowFeatures, WindowMemory

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class WindowReferences:
    """Flawless photos as WinCLIP+ keeps them."""

    stage: ClassVar[str] = "references"

    encoder: ClipEncoder
    settings: HeatmapSettings
    memory: WindowMemory
    photos: int
    photos_hash: str

    @classmethod
    def build(
        cls, photos: Sequence[Pixels], encoder: ClipEncoder, settings: HeatmapSettings
    ) -> WindowReferences:
        """Remember flawless photos [H, W, 3] (RGB). Raises `UsageError` for none of them, for other attention
        than "windows", or for photos that are not seen in one piece at one size.
        """
        if not photos:
            raise UsageError("there are no reference photos; expected at least one photo of a flawless part")
        if settings.attention != "windows" or len(settings.sizes) != 1:
            raise UsageError(
                f"WinCLIP+ needs attention 'windows' at one size, but found '{settings.attention}' at "
                f"{settings.sizes}; choose one size, or another attention"
            )
        seen = [_windows(pixels, encoder, settings) for pixels in photos]
        if len({found.patches.shape for found in seen}) > 1 and not settings.square:
            raise UsageError("the reference photos differ in aspect; use square = true, as WinCLIP does")
        windows = tuple(torch.cat(parts) for parts in zip(*(found.windows for found in seen), strict=True))
        every = replace(seen[0], windows=windows, patches=torch.cat([found.patches for found in seen]))
        return cls(encoder, settings, WindowMemory.of(every), len(photos), hash_photos(photos))

    def join(self, coarse: CoarseMap, pixels: Pixels, inside: NDArray[np.bool_] | None = None) -> CoarseMap:
        """The means of both maps [H, W], and of CLIP's score of the whole photo and the highest distance,
        which knows no `inside`: a score of the whole photo cannot be limited.
        """
        strange = self.memory.distance(_windows(pixels, self.encoder, self.settings))[0].numpy()
        anomaly = (coarse.anomaly + enlarge(strange, pixels.shape[:2], self.settings.smoothing)) / 2
        whole = coarse.image_score
        return replace(
            coarse,
            anomaly=np.asarray(anomaly, dtype=np.float32),
            image_score=None if whole is None else (whole + float(strange.max())) / 2,
        )

    def manifest(self) -> dict[str, Any]:
        """What decides the map, for `run.json`."""
        return {"photos": self.photos, "hash": self.photos_hash, "windows": list(self.memory.sides)}


@torch.inference_mode()
def _windows(pixels: Pixels, encoder: ClipEncoder, settings: HeatmapSettings) -> WindowFeatures:
    patch = encoder.patch_size
    rows, columns = patch_grid(pixels.shape[:2], settings.sizes[0], patch, square=settings.square)
    crop: Tensor = resize(pixels, (rows * patch, columns * patch))[None].float() / 255
    return encoder.encode_windows(crop, settings.windows)
