"""How rare each patch is within its own photo: statistics per patch, and their density among all patches.

Input: normalised pixels [b, 3, H, W]. Output: numbers per patch [b, H/16, W/16, FEATURES] for the stem of
CLIP-nano. A defect is first of all what the photo does not have elsewhere; untrained, these numbers alone
already rank the patches of rendered defects at an AUROC near 0.8, so the tower starts from there. Nothing
here is learned or kept between photos.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 16
BANDWIDTHS = (0.15, 0.4, 1.0)
STATISTICS = 12
FEATURES = 4 * STATISTICS + len(BANDWIDTHS)
PART = 4096  # patches that are compared with each other at once: a photo of 1024 px is one part
_FLOOR = 0.04  # a hundredth of the pixel range, after normalisation: flat photos have no rare patches


@torch.no_grad()
def rarity(pixels: Tensor) -> Tensor:
    """[b, 3, H, W] -> [b, H/16, W/16, FEATURES]: statistics in units of their spread over the photo, their
    size, the largest of both among the four quarters of the patch, and minus log densities (Parzen windows of
    three widths).
    """
    with torch.autocast(pixels.device.type, enabled=False):
        pixels = pixels.float()
        means, largest = _pooled(pixels, CELL // 2)
        whole = standardised(_described(F.avg_pool2d(means, 2), F.max_pool2d(largest, 2)))
        quarters = F.max_pool2d(standardised(_described(means, largest)).abs(), 2)
        rare = -log_density(whole)
        features = torch.cat([whole, whole.abs(), quarters, quarters.square() / 4, rare], dim=1)
        return features.clamp(-8, 8).permute(0, 2, 3, 1)


def statistics(pixels: Tensor, cell: int) -> Tensor:
    """[b, 3, H, W] -> [b, 12, H/cell, W/cell]: mean and spread of each colour; of grey the mean and largest
    steps to the right and down, the largest and the smallest value.
    """
    return _described(*_pooled(pixels, cell))


def _pooled(pixels: Tensor, cell: int) -> tuple[Tensor, Tensor]:
    """Means [b, 8, H/cell, W/cell] of colours, their squares and the steps of grey; maxima [b, 4, ...] of
    the steps, grey and minus grey.
    """
    grey = pixels.mean(dim=1, keepdim=True)
    right = F.pad((grey[..., 1:] - grey[..., :-1]).abs(), (0, 1))
    down = F.pad((grey[..., 1:, :] - grey[..., :-1, :]).abs(), (0, 0, 0, 1))
    means = _cells(torch.cat([pixels, pixels.square(), right, down], dim=1), cell, torch.mean)
    return means, _cells(torch.cat([right, down, grey, -grey], dim=1), cell, torch.amax)


def _cells(x: Tensor, cell: int, pool: Callable[..., Tensor]) -> Tensor:
    """[b, c, H, W] -> [b, c, H // cell, W // cell]: `pool` over each cell, rows first, then columns. It takes
    half the time of torch's pooling, and less than half in exported programs.
    """
    for axis in (2, 3):
        whole = x.narrow(axis, 0, x.shape[axis] // cell * cell)
        x = pool(whole.unflatten(axis, (-1, cell)), dim=axis + 1)
    return x


def _described(means: Tensor, largest: Tensor) -> Tensor:
    """The statistics of what `_pooled` gives."""
    mean, square, steps = means.split([3, 3, 2], dim=1)
    spread = (square - mean.square()).clamp(min=1e-6).sqrt()
    steepest, brightest, darkest = largest.split([2, 1, 1], dim=1)
    return torch.cat([mean, spread, steps, steepest, brightest, -darkest], dim=1)


def standardised(features: Tensor) -> Tensor:
    """Each channel of [b, c, h, w] minus its mean over the photo, by its spread there."""
    centred = features - features.mean(dim=(2, 3), keepdim=True)
    return centred / (centred.square().mean(dim=(2, 3), keepdim=True).sqrt() + _FLOOR)


def log_density(features: Tensor) -> Tensor:
    """[b, c, h, w] -> [b, 3, h, w]: log of the mean Gaussian kernel between a patch and every patch of the
    photo.
    """
    points = features.flatten(2).transpose(1, 2)

    def kernels(some: Tensor) -> Tensor:
        distance = torch.cdist(some, points).square() / points.shape[-1]
        return torch.stack([log_window(distance, width) for width in BANDWIDTHS], 1)

    count = torch.ones_like(points[0, :, 0]).sum().log()
    return (by_parts(kernels, points) - count).unflatten(2, features.shape[2:])


def log_window(distance: Tensor, width: float) -> Tensor:
    """Squared distances [..., n, m] of n points to m that they are among -> log of the sum of Gaussian
    kernels [..., n]. No maximum is taken out of it: each point's own kernel is 1 but for rounding.
    """
    return (distance / (-2 * width**2)).exp().sum(dim=-1).log()


def by_parts(kernels: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """`kernels(points)` of points [..., n, c]: [..., n], in parts where n x n numbers are too many."""
    count = points.shape[-2]
    if torch.compiler.is_compiling() or count <= PART:  # one graph for every size
        return kernels(points)
    rows = max(1, PART**2 // count)
    return torch.cat([kernels(part) for part in points.split(rows, dim=-2)], dim=-1)
