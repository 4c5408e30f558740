"""The image tower of CLIP-nano: a timm VisionTransformer whose patch embedding is a small convolutional stem.

Input: pictures [b, 3, H, W], sides multiples of 16. Output: what every timm VisionTransformer gives, so the
dense code path of the big towers serves it unchanged. Convolutions see scratches of two pixels that a bare
16-px patch projection needs far more training to see (Xiao et al. 2021, arXiv 2106.14881). Importing this
file registers the towers with timm, so that open_clip finds them by the `timm_model_name` in a config. Knows
nothing of weights or training.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from clipsam.nano.rarity import FEATURES, rarity


class ConvBlock(nn.Module):
    """Norm, 3x3 convolution, ReLU, 1x1 convolution, residual: [b, c, h, w] -> the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.spatial = nn.Conv2d(width, width, 3, padding=1)
        self.act = nn.ReLU()
        self.project = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.act(self.spatial(self.norm(x))))


class ConvStem(nn.Module):
    """Pictures [b, 3, H, W] -> tokens [b, H/16, W/16, embed_dim] (NHWC, as timm wants with dynamic image
    sizes).

    The last block works on the 16-px grid and takes the place of position embeddings: any input size, no
    interpolation.
    """

    patch_size = (16, 16)

    def __init__(
        self,
        img_size: int = 256,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 192,
        widths: tuple[int, ...] = (32, 64, 128),
        blocks: tuple[int, ...] = (1, 2, 2),
        **_: Any,
    ) -> None:
        super().__init__()
        self.img_size = (img_size, img_size)
        self.grid_size = (img_size // 16, img_size // 16)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        layers: list[nn.Module] = []
        previous = in_chans
        for width, depth in zip((*widths, embed_dim), (*blocks, 1), strict=True):
            kernel = 3 if previous == in_chans else 2
            layers += [
                nn.Conv2d(previous, width, kernel, stride=2, padding=kernel // 2 if kernel == 3 else 0)
            ]
            layers += [nn.BatchNorm2d(width), *(ConvBlock(width) for _ in range(depth))]
            previous = width
        self.layers = nn.Sequential(*layers)
        self.scale = nn.Parameter(
            torch.full((embed_dim,), 0.1)
        )  # what is rare leads until the stem has learned
        self.context = nn.Sequential(nn.Linear(FEATURES, 128), nn.GELU(), nn.Linear(128, embed_dim))

    def feat_ratio(self, as_scalar: bool = True) -> int | tuple[int, int]:
        return 16 if as_scalar else (16, 16)

    def dynamic_feat_size(self, img_size: tuple[int, int]) -> tuple[int, int]:
        return img_size[0] // 16, img_size[1] // 16

    def set_input_size(
        self, img_size: int | tuple[int, int] | None = None, patch_size: int | None = None
    ) -> None:
        if img_size is not None:
            self.img_size = (img_size, img_size) if isinstance(img_size, int) else img_size
            self.grid_size = self.dynamic_feat_size(self.img_size)
            self.num_patches = self.grid_size[0] * self.grid_size[1]

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layers(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        return self.scale * tokens + self.context(rarity(x))


def _tower(width: int, depth: int, heads: int, stem: tuple[int, ...], **kwargs: Any) -> VisionTransformer:
    kwargs.pop("pretrained_cfg", None)
    kwargs.pop("pretrained_cfg_overlay", None)
    kwargs.pop("cache_dir", None)
    model = VisionTransformer(
        img_size=256,
        patch_size=16,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        class_token=False,
        global_pool=kwargs.pop("global_pool", "avg"),
        num_classes=kwargs.pop("num_classes", 0),
        fc_norm=False,
        pos_embed="none",
        pre_norm=True,
        dynamic_img_size=True,
        embed_layer=partial(ConvStem, widths=stem),
        **kwargs,
    )
    model.default_cfg = model.pretrained_cfg = {"input_size": (3, 256, 256), "pool_size": None}
    return model


@register_model
def clipsam_nano_16(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The tower of the embedded CLIP-nano; `pretrained` is ignored, since its weights come with the open_clip
    model.
    """
    return _tower(width=192, depth=6, heads=3, stem=(32, 64, 128), **kwargs)
