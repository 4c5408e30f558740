"""What describes each patch of a photo when it is compared with other photos: features of several layers.

Input: a photo [H, W, 3], a `ClipEncoder`, `LayerSettings`. Output: one tensor [c, h, w] a layer, all on one
grid of patches: transformer blocks, stages of a convolutional stem, and plain statistics of the pixels. How
they are compared is `memory.py`'s affair.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipsam.clip import ClipEncoder
from clipsam.errors import TowerError
from clipsam.heatmap import patch_grid, resize
from clipsam.nano.rarity import statistics
from clipsam.settings import LayerSettings


@torch.inference_mode()
def encode_layers(
    pixels: NDArray[np.uint8], encoder: ClipEncoder, settings: LayerSettings
) -> tuple[Tensor, ...]:
    """Photo [H, W, 3] (RGB) -> features [c, h, w], float32 on the CPU, one tensor a layer, on one grid.

    Finer layers are averaged onto the grid, coarser ones interpolated. Order: blocks, stages of the stem,
    statistics. Raises `TowerError` for a stage that the tower does not have.
    """
    picture = _picture(pixels, encoder, settings)
    cell = settings.grid or encoder.patch_size
    grid = (max(picture.shape[-2] // cell, 1), max(picture.shape[-1] // cell, 1))
    return tuple(_on_grid(layer, grid) for layer in _layers(picture, encoder, settings))


def encode_whole(pixels: NDArray[np.uint8], encoder: ClipEncoder, settings: LayerSettings) -> Tensor:
    """Photo [H, W, 3] (RGB) -> the tower's own embedding of it, a unit vector [d], float32 on the CPU."""
    pooled = encoder.encode_pixels(_picture(pixels, encoder, settings), "plain").pooled
    assert pooled is not None  # it is left out only where that is asked for
    return pooled[0].cpu()


def local_mean(features: Tensor, side: int) -> Tensor:
    """[c, h, w] -> the same shape: means over `side` x `side` patches, over fewer at the border."""
    if side == 1:
        return features
    return F.avg_pool2d(features[None], side, 1, side // 2, count_include_pad=False)[0]


def compressed(cells: Tensor) -> Tensor:
    """Statistics [12, h, w] of pixels in [0, 1] with square roots of the contrasts.

    Spreads and steps differ by orders of magnitude between a smooth face and an edge; under the root, what is
    unusual on the face does not drown in what is usual at the edge.
    """
    return torch.cat([cells[:3], (cells[3:10] + 0.003).sqrt(), cells[10:]])


def _picture(pixels: NDArray[np.uint8], encoder: ClipEncoder, settings: LayerSettings) -> Tensor:
    """The photo as the tower sees it, [1, 3, h, w] in [0, 1], in whole patches."""
    patch = encoder.patch_size
    size = settings.size if settings.enlarge else min(settings.size, max(pixels.shape[:2]))
    rows, columns = patch_grid(pixels.shape[:2], size, patch)
    return resize(pixels, (rows * patch, columns * patch)).float()[None] / 255


def _layers(picture: Tensor, encoder: ClipEncoder, settings: LayerSettings) -> Iterator[Tensor]:
    if settings.depths:
        blocks = [max(round(depth * encoder.depth), 1) for depth in settings.depths]
        yield from encoder.encode_levels(picture, blocks)[0].permute(0, 3, 1, 2).cpu()
    if settings.strides:
        found = {picture.shape[-2] // stage.shape[-2]: stage for stage in encoder.encode_stages(picture)}
        if missing := set(settings.strides) - found.keys():
            raise TowerError(
                f"the stem of {encoder.name} has no stage of stride {min(missing)}; "
                f"expected some of {', '.join(map(str, sorted(found)))}"
            )
        yield from (found[stride][0].cpu() for stride in settings.strides)
    for cell in settings.cells:
        yield compressed(statistics(picture, min(cell, *picture.shape[-2:]))[0])


def _on_grid(layer: Tensor, grid: tuple[int, int]) -> Tensor:
    if layer.shape[1] > grid[0] or layer.shape[2] > grid[1]:
        return F.adaptive_avg_pool2d(layer[None], grid)[0]
    return F.interpolate(layer[None], grid, mode="bilinear")[0] if layer.shape[1:] != grid else layer
