"""The image tower of CLIP-nano: a timm VisionTransformer whose patch embedding is a small residual network.

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
import torch.nn.functional as F
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from clipsam.nano.rarity import FEATURES, by_parts, log_window, rarity


def layer(previous: int, width: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, norm, ReLU: [b, previous, h, w] -> [b, width, h / stride, w / stride]."""
    convolution = nn.Conv2d(previous, width, kernel, stride, padding=1 if kernel == 3 else 0, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """Two convolutions beside the identity (He et al. 2016, arXiv 1512.03385): [b, c, h, w] -> as before.

    The second norm starts at zero, so that a trained stem can be given more of them and go on where it was.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = layer(width, width)
        norm = nn.BatchNorm2d(width)
        nn.init.zeros_(norm.weight)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), norm)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)))


def stage(previous: int, width: int) -> nn.Sequential:
    """[b, previous, h, w] -> [b, width, h / 2, w / 2]."""
    plain = layer(previous, width, 2, 2), layer(width, width), layer(width, width)
    return nn.Sequential(*plain, Residual(width), Residual(width))


def contrasts(x: Tensor) -> Tensor:
    """[b, 3, H, W] -> [b, 9, H, W]: the pixels, the same in units of their spread over the photo, and grey
    against its neighbourhoods of 4, 8 and 16 px in units of that contrast's spread.

    A network from scratch sees defects of dark, flat and busy photos alike many times sooner with these.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        grey = x.mean(dim=1, keepdim=True)
        fours = F.avg_pool2d(grey, 4)
        eights = F.avg_pool2d(fours, 2)
        around = [_enlarged(fours, 4), _enlarged(eights, 8), _enlarged(F.avg_pool2d(eights, 2), 16)]
        rest = [x - x.mean(dim=(2, 3), keepdim=True), *(grey - mean for mean in around)]
        spreads = [part.square().mean(dim=(2, 3), keepdim=True).sqrt() + 0.04 for part in rest]
        return torch.cat([x, *(part / spread for part, spread in zip(rest, spreads, strict=True))], 1).clamp(
            -6, 6
        )


def _enlarged(small: Tensor, factor: int) -> Tensor:
    """[b, c, h, w] -> [b, c, factor * h, factor * w], bilinear: `F.interpolate` as two matrix products, which
    exported programs run several times sooner.
    """
    rows, columns = (_stretch(cells, factor, small) for cells in small.shape[2:])
    return rows @ small @ columns.T


def _stretch(cells: int, factor: int, like: Tensor) -> Tensor:
    """Matrix [factor * cells, cells] that interpolates linearly between the centres of cells."""
    places = (torch.arange(factor * cells, device=like.device, dtype=like.dtype) + 0.5) / factor - 0.5
    numbers = torch.arange(cells, device=like.device, dtype=like.dtype)
    return (1 - (places.clamp(0, cells - 1)[:, None] - numbers).abs()).clamp(min=0)


class LearnedRarity(nn.Module):
    """How rare each cell is within its own photo, by features that are learned: [b, c, h, w] -> [b, 2 heads,
    h, w].

    Each head projects to unit vectors and gives minus the log density of two Parzen windows.
    """

    def __init__(self, width: int, heads: int = 3, dim: int = 24) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Conv2d(width, heads * dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            bias = self.project.bias
            assert bias is not None
            points = F.conv2d(x.float(), self.project.weight.float(), bias.float())
            points = points.unflatten(1, (self.heads, -1))
            points = F.normalize(points, dim=2).flatten(3)
            rare = by_parts(lambda some: self.rare(some, points), points.transpose(2, 3))
            rare = rare + torch.ones_like(points[0, 0, 0]).sum().log()
            return rare.flatten(1, 2).unflatten(2, x.shape[2:])

    def rare(self, some: Tensor, points: Tensor) -> Tensor:
        """Unit vectors [b, heads, m, dim] among all [b, heads, dim, n] -> [b, heads, 2, m], by window."""
        distance = 2 - 2 * some @ points
        return torch.stack([-log_window(distance, width) for width in (0.2, 0.5)], dim=2)


class ConvStem(nn.Module):
    """Pictures [b, 3, H, W] -> tokens [b, H/16, W/16, embed_dim] (NHWC, as timm wants with dynamic image
    sizes).

    Stages of convolutions at strides 4, 8 and 16, one at stride 32 for context, and beside them what is
    rare in the photo, by fixed statistics and by learned features. Convolutions take the place of position
    embeddings: any input size, no interpolation.
    """

    patch_size = (16, 16)

    def __init__(
        self,
        img_size: int = 256,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 256,
        widths: tuple[int, int, int, int] = (48, 96, 192, 256),
        **_: Any,
    ) -> None:
        super().__init__()
        self.set_input_size(img_size)
        first, second, third, last = widths
        start = nn.Sequential(layer(4 * 3 * in_chans, first, 3, 2), layer(first, first))
        self.fine = nn.ModuleList([start, stage(first, second), stage(second, third)])
        self.wide = nn.Sequential(layer(third, last, 2, 2), layer(last, last), layer(last, last))
        self.rare = LearnedRarity(third)
        self.context = nn.Sequential(
            nn.Linear(FEATURES + 2 * self.rare.heads, 160), nn.GELU(), nn.Linear(160, 160)
        )
        self.convolved = third + last
        self.merge = nn.Linear(self.convolved + 160, embed_dim)

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

    def parts(self) -> list[tuple[nn.Module, str]]:
        """What is worth compiling, as `Tower.parts` gives it. `rarity` would take the compiler minutes, and
        `wide` gains nothing but other code for small photos than for large ones.
        """
        return [(self, "stages"), (self.rare, "rare")]

    def stages(self, x: Tensor) -> list[Tensor]:
        """Normalised pixels [b, 3, H, W] -> features [b, c, h, w] at strides 4, 8 and 16."""
        x = F.pixel_unshuffle(contrasts(x), 2).contiguous(memory_format=torch.channels_last)
        found = []
        for part in self.fine:
            x = part(x)
            found.append(x)
        return found

    def seen(self, x: Tensor) -> Tensor:
        """Normalised pixels -> what the convolutions alone know of each cell, [b, H/16, W/16, c]."""
        near = self.stages(x)[-1]
        # By pairs of cells; of an even number the padding has no partner and is dropped.
        wide = F.interpolate(self.wide(F.pad(near, (0, 1, 0, 1))), size=near.shape[2:])
        return torch.cat([near, wide], dim=1).permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.seen(x)
        learned = self.rare(seen[..., : self.rare.project.in_channels].permute(0, 3, 1, 2))
        rare = torch.cat([rarity(x), learned.permute(0, 2, 3, 1)], dim=-1)
        return self.merge(torch.cat([seen, self.context(rare)], dim=-1))


def _tower(
    width: int, depth: int, heads: int, stem: tuple[int, int, int, int], **kwargs: Any
) -> VisionTransformer:
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
    return _tower(width=256, depth=2, heads=4, stem=(48, 96, 192, 256), **kwargs)
