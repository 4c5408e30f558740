"""ProxyEncoder: a second image encoder whose patches say which places of a photo belong together.

Input: pixels in [0, 1] and the grid of the CLIP beside it. Output: a unit vector for each patch of it.
DINOv2 (with registers or without) and DINOv3 ViTs, through transformers, each with the normalisation of its
training. Knows nothing of text or attention; what becomes of the vectors is `attention.py`'s affair.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsam.presets import ProxySpec
from clipsam.weights import load_proxy


class ProxyEncoder:
    """A loaded DINO: `name`, `weights_hash`, `patch_size` (px).

    `model` is transformers' `Dinov2Model`, `Dinov2WithRegistersModel` or `DINOv3ViTModel`; `mean` and `std`
    are those of its training, for RGB in [0, 1].
    """

    def __init__(
        self,
        model: Any,
        *,
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        name: str,
        weights_hash: str,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.model = model.eval().requires_grad_(False).to(device, getattr(torch, dtype))
        self.name, self.weights_hash = name, weights_hash
        self.patch_size = int(model.config.patch_size)
        self.prefix = 1 + int(getattr(model.config, "num_register_tokens", 0))
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))

    @classmethod
    def from_spec(
        cls, spec: ProxySpec, *, models_dir: str | Path | None = None, **options: Any
    ) -> ProxyEncoder:
        """Load what a specification names; `options` (device, dtype) go to the constructor. `WeightsError`
        where the weights are missing, damaged, or of a family that is not known here.
        """
        return cls(**vars(load_proxy(spec, models_dir)), **options)

    @torch.inference_mode()
    def features(self, pixels: Tensor, grid: tuple[int, int]) -> Tensor:
        """Pixels [b, 3, H, W] in [0, 1] -> unit vectors [b, h*w, c], float32, row by row of `grid` (h, w).

        The pixels are resized so that this encoder has the same grid as the tower beside it; ProxyCLIP
        enlarges CLIP's values to the grid of the proxy instead.
        """
        side = self.patch_size
        shape = (grid[0] * side, grid[1] * side)
        if pixels.shape[-2:] != shape:
            pixels = F.interpolate(pixels, size=shape, mode="bicubic", antialias=True).clamp(0, 1)
        pixels = ((pixels - self._mean) / self._std).to(self.model.dtype)
        tokens = self.model(pixel_values=pixels).last_hidden_state[:, self.prefix :]
        return F.normalize(tokens.float(), dim=-1)
