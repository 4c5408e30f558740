"""Simulated prompts for training SAM-nano: clicks and jittered boxes on known masks (Kirillov et al. 2023,
arXiv 2304.02643).

Input: rendered samples. Output: `SamBatch`. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.utils.data import Dataset

from clipsam.nano.batches import recoloured
from clipsam.nano.corpus.compose import Sample, render
from clipsam.nano.corpus.families import HELD_OUT
from clipsam.nano.models import SAM_PATCH, SAM_SIZE

LOW = SAM_SIZE // SAM_PATCH * 4
"""Side of SAM-nano's mask logits."""

SMALLEST = 6 / LOW**2
"""Share of the picture below which a mask is no target."""

ZOOMED = 0.75
"""Share of the pictures that are crops around one target, as small regions are shown in use."""

KEPT = 0.9
"""A mask of which a crop holds less than this part is no target in it."""


@dataclass(frozen=True)
class SamBatch:
    """`pixels` uint8 [b, S, S, 3] (padded at the right and bottom); `masks` float32 [b, n, 96, 96] in [0,
    1]; `points` float32 [b, n, p, 2] and `labels` [b, n, p] (1, 0 or -1 for padding); `boxes` float32 [b, n,
    4]; S-px frame.
    """

    pixels: Tensor
    masks: Tensor
    points: Tensor
    labels: Tensor
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


class SamBatches(Dataset[SamBatch]):
    """All batches of a training, by number: `batch` pictures with `prompts` targets each.

    The split "validation" draws only families that training never draws.
    """

    def __init__(self, seed: int, length: int, batch: int, prompts: int, split: str = "train") -> None:
        self.seed, self.length, self.batch, self.prompts = seed, length, batch, prompts
        self.families = HELD_OUT if split == "validation" else None

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SamBatch:
        rng = np.random.default_rng((self.seed, 7, index))
        rows: list[tuple[Tensor, ...]] = []
        while len(rows) < self.batch:
            near = rng.random() < ZOOMED
            sides = rng.integers((320, 240) if near else (224, 160), (513, 513) if near else (321, 321))
            height, width = sorted(int(side) for side in sides)[:: 1 if rng.random() < 0.5 else -1]
            sample = render(int(rng.integers(2**31)), height, width, families=self.families, p_normal=0.1)
            image, masks = sample.image, targets_of(sample, rng, smallest=1e-4 if near else SMALLEST)
            if near and masks:
                image, masks = zoomed(image, masks, rng)
            if masks:
                rows.append(self.row(recoloured(rng)(image), masks, rng))
        return SamBatch(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def row(
        self, image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], rng: np.random.Generator
    ) -> tuple[Tensor, ...]:
        """One picture scaled to SAM's frame, with `prompts` targets drawn from its masks."""
        scale = SAM_SIZE / max(image.shape[:2])
        chosen = [masks[int(rng.integers(len(masks)))] for _ in range(self.prompts)]
        pixels, low = framed(image, chosen, scale)
        prompts = [prompt_for(mask, rng) for mask in chosen]
        points = torch.from_numpy(np.stack([p for p, _, _ in prompts]) * scale).float()
        labels = torch.from_numpy(np.stack([label for _, label, _ in prompts]))
        boxes = torch.from_numpy(np.stack([box for _, _, box in prompts]) * scale).float()
        return pixels, low, points, labels, boxes


def targets_of(
    sample: Sample, rng: np.random.Generator, smallest: float = SMALLEST
) -> list[NDArray[np.bool_]]:
    """What SAM should outline: each defect (twice as likely), pieces, and the part itself.

    What covers less than the `smallest` share of the picture is left out: there is nothing to outline.
    """
    defects = [one.mask for one in sample.instances]
    pieces = [mask for _, mask in sample.pieces]
    if len(pieces) > 3:
        pieces = [pieces[i] for i in rng.choice(len(pieces), 3, replace=False)]
    part = [sample.solid] if sample.solid.mean() < 0.95 else []
    return [mask for mask in (*defects, *defects, *pieces, *part) if mask.mean() > smallest]


def zoomed(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], rng: np.random.Generator
) -> tuple[NDArray[np.uint8], list[NDArray[np.bool_]]]:
    """A square crop around one of the masks, 1.4 to 5 times as wide as it, and the masks that lie in it."""
    rows, columns = np.nonzero(masks[int(rng.integers(len(masks)))])
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    side = int(max(longer * np.exp(rng.uniform(np.log(1.4), np.log(5))), 32))
    window = []
    for found, limit in ((rows, image.shape[0]), (columns, image.shape[1])):
        middle = (found.min() + found.max()) / 2 + rng.normal(0, 0.1) * (side - longer)
        start = int(np.clip(round(middle - side / 2), 0, max(0, limit - side)))
        window.append(slice(start, start + side))
    row, column = window
    crops = ((mask, mask[row, column]) for mask in masks)
    kept = [crop for mask, crop in crops if crop.mean() > SMALLEST and crop.sum() > KEPT * mask.sum()]
    return image[row, column], kept


def framed(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.bool_]], scale: float
) -> tuple[Tensor, Tensor]:
    """Scale a picture and its masks to fill the frame with the longest side; pad at the right and bottom."""
    height, width = (round(side * scale) for side in image.shape[:2])
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    planes = (
        F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)[0].round().clamp(0, 255)
    )
    pixels = (
        F.pad(planes, (0, SAM_SIZE - width, 0, SAM_SIZE - height), value=127.5)
        .permute(1, 2, 0)
        .to(torch.uint8)
    )
    low = torch.from_numpy(np.stack(masks).astype(np.float32))[None]
    rows, columns = (max(1, round(side * LOW / SAM_SIZE)) for side in (height, width))
    low = F.interpolate(low, size=(rows, columns), mode="bilinear", antialias=True)[0].clamp(0, 1)
    return pixels, F.pad(low, (0, LOW - columns, 0, LOW - rows))


def prompt_for(
    mask: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
    """Up to three positive clicks, up to two negative ones from a ring, and a jittered box; picture
    coordinates.
    """
    rows, columns = np.nonzero(mask)
    points, labels = np.zeros((5, 2)), np.full(5, -1, dtype=np.int64)
    positives = int(rng.integers(1, 4))
    for slot in range(positives):
        pick = int(rng.integers(len(rows)))
        points[slot], labels[slot] = (columns[pick], rows[pick]), 1
    negatives = int(rng.integers(0, 3))
    if negatives:
        ring = np.nonzero(
            ndimage.binary_dilation(mask, iterations=int(rng.integers(4, 12)))
            & ~ndimage.binary_dilation(mask)
        )
        for slot in range(positives, positives + negatives if len(ring[0]) else positives):
            pick = int(rng.integers(len(ring[0])))
            points[slot], labels[slot] = (ring[1][pick], ring[0][pick]), 0
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=float)
    reach = 0.12 * np.array([box[2] - box[0], box[3] - box[1]] * 2) + 1.5
    box += rng.normal(0, 0.5, 4) * reach + 0.4 * reach * np.array([-1, -1, 1, 1])
    return points, labels, box
