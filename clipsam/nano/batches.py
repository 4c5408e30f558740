"""Batches for training CLIP-nano: rendered pictures, their masks per defect type, and sentences about them.

Batch number `i` of a seed is always the same, whichever worker renders it, so that a killed training resumes
exactly. Input: a seed and sizes. Output: `ClipBatch`. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from clipsam.nano.corpus.captions import defect_sentence, describe, normal_sentence, product_words
from clipsam.nano.corpus.compose import Instance, Sample, render
from clipsam.nano.corpus.defects import DEFECTS

TYPES = (*DEFECTS, "damage")
"""The defect types that are trained; the last stands for any of them."""

STRIDE = 4
"""Masks are compared at a quarter of the picture's resolution: finer than a patch, four times cheaper than
pixels.
"""


NEAR = 96
"""Side of a close-up, px."""


@dataclass(frozen=True)
class ClipBatch:
    """One batch.

    `pixels` uint8 [b, H, W, 3]; `targets` float32 [b, k, H/4, W/4], the share of each cell covered by each
    type, the last type being "damage" (any defect); `normal` 2b sentences (two per picture); `abnormal` 2k
    sentences; `captions` b. `near` and `near_targets`: close-ups of defects, as `pixels` and `targets`.
    """

    pixels: Tensor
    targets: Tensor
    normal: list[str]
    abnormal: list[str]
    captions: list[str]
    near: Tensor
    near_targets: Tensor

    def __len__(self) -> int:
        return len(self.pixels)


Photo = tuple[np.ndarray, list[tuple[str, np.ndarray]], Sample]
"""A picture, the masks of its defects by type, and the sample that it is of."""


class ClipBatches(Dataset[ClipBatch]):
    """All batches of a training, by number: about `batch` pictures of 256 x 256 px, fewer where the size is
    larger. Sizes come in turn.
    """

    def __init__(self, seed: int, length: int, batch: int, sizes: Sequence[tuple[int, int]]) -> None:
        self.seed, self.length, self.batch, self.sizes = seed, length, batch, tuple(sizes)
        self.groups: dict[int, list[Sample]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> ClipBatch:
        rng = np.random.default_rng((self.seed, 1, index))
        samples = (*self.group(index), *self.group(index + len(self.sizes)))
        near = [
            photo for sample in samples for one in sample.instances for photo in close_ups(sample, one, rng)
        ]
        return collate([photo for sample in samples for photo in pair(sample, rng)], rng, near)

    def group(self, index: int) -> list[Sample]:
        """Half of the samples of a batch; each group comes twice, `len(sizes)` batches apart."""
        if index not in self.groups:
            height, width = self.sizes[index % len(self.sizes)]
            count = max(1, self.batch * 64 * 256 // (height * width))
            seeds = np.random.default_rng((self.seed, index)).integers(2**31, size=count)
            self.groups[index] = [render(int(seed), height, width, p_normal=0.05) for seed in seeds]
            self.groups.pop(index - len(self.sizes) - 1, None)
        return self.groups[index]


def pair(sample: Sample, rng: np.random.Generator) -> list[Photo]:
    """Return the picture with its masks and the same photo without the defects, mirrored and flipped alike.

    The two differ in nothing but the defect, so all that they share cancels in the gradient: without the
    twin, thousands of batches pass before the network sees defects among so many kinds of parts.
    """
    flips = flipped(rng)
    masks = [(one.defect, one.mask[flips]) for one in sample.instances]
    tones = recoloured(rng)
    return [(tones(sample.image[flips]), masks, sample), (tones(sample.flawless[flips]), [], sample)]


def close_ups(sample: Sample, shown: Instance, rng: np.random.Generator, count: int = 2) -> list[Photo]:
    """Square crops around one defect, 1.2 to 4 times as wide as it, all scaled to `NEAR` px.

    What a defect is of shows here at a tenth of the cost of a whole picture.
    """
    photos: list[Photo] = []
    rows, columns = np.nonzero(shown.mask)
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    for _ in range(count):
        side = longer * np.exp(rng.uniform(np.log(1.2), np.log(4)))
        side = int(np.clip(side, NEAR // 2, min(shown.mask.shape)))
        start = [
            int(np.clip(rng.normal((found.min() + found.max() - side) / 2, 0.1 * side), 0, limit - side))
            for found, limit in zip((rows, columns), shown.mask.shape, strict=True)
        ]
        window = tuple(slice(begin, begin + side) for begin in start)
        flips = flipped(rng)
        image = recoloured(rng)(sample.image[window][flips])
        masks = [(one.defect, scaled(one.mask[window][flips]) > 0.5) for one in sample.instances]
        photos.append((np.rint(scaled(image)).astype(np.uint8), masks, sample))
    return photos


def flipped(rng: np.random.Generator) -> tuple[slice, ...]:
    """Rows and columns of a picture, each backwards in half of the cases."""
    return tuple(slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(2))


def scaled(plane: np.ndarray) -> np.ndarray:
    """A square [s, s] or [s, s, c] at `NEAR` px, float32."""
    pixels = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(plane))).permute(2, 0, 1)[None].float()
    smaller = F.interpolate(pixels, size=(NEAR, NEAR), mode="bilinear", antialias=True)
    return smaller[0].permute(1, 2, 0).numpy().reshape(NEAR, NEAR, *plane.shape[2:])


def recoloured(rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A change of tone for uint8 [H, W, 3]: mostly none, else another curve per colour, swapped or inverted
    colours, or grey.

    Products come in every colour and under every light; what is wrong with them stays wrong.
    """
    if rng.random() < 0.4:
        return lambda image: image
    levels = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.normal(0, 0.2, 3))
    low = rng.uniform(0, 0.1)
    levels = low + levels * (rng.uniform(0.75, 1) - low)
    if rng.random() < 0.1:
        levels = 1 - levels
    table = np.rint(levels * 255).astype(np.uint8)
    order = rng.permutation(3) if rng.random() < 0.3 else np.arange(3)
    if rng.random() < 0.15:
        order, table = np.full(3, order[0]), table[:, :1].repeat(3, axis=1)
    return lambda image: np.stack([table[image[..., c], i] for i, c in enumerate(order)], axis=-1)


def collate(samples: Sequence[Photo], rng: np.random.Generator, near: Sequence[Photo] = ()) -> ClipBatch:
    """Stack pictures of one size, and close-ups, and write the sentences of the batch."""
    names = [product_words(rng, sample.names) for _, _, sample in samples]
    return ClipBatch(
        pixels=stacked(samples),
        targets=shares(samples),
        normal=[normal_sentence(rng, name) for name in names for _ in range(2)],
        abnormal=[defect_sentence(rng, str(rng.choice(names)), defect) for defect in TYPES for _ in range(2)],
        captions=[describe(rng, sample.names, [kind for kind, _ in masks]) for _, masks, sample in samples],
        near=stacked(near),
        near_targets=shares(near),
    )


def stacked(photos: Sequence[Photo]) -> Tensor:
    """Pictures of one size, uint8 [n, H, W, 3]."""
    empty = torch.zeros(0, NEAR, NEAR, 3, dtype=torch.uint8)
    return torch.from_numpy(np.stack([image for image, _, _ in photos])) if photos else empty


def shares(photos: Sequence[Photo]) -> Tensor:
    """The share of each cell that each type covers, float32 [n, k, H / 4, W / 4]."""
    height, width = photos[0][0].shape[:2] if photos else (NEAR, NEAR)
    targets = torch.zeros(len(photos), len(TYPES), height // STRIDE, width // STRIDE)
    for target, (_, instances, _) in zip(targets, photos, strict=True):
        for defect, mask in instances:
            share = F.avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None], STRIDE)[0]
            for index in (TYPES.index(defect), len(TYPES) - 1):
                target[index] = torch.maximum(target[index], share)
    return targets
