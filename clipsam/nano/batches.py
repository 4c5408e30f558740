"""Batches for training CLIP-nano: rendered pictures, their masks per defect type, and sentences about them.

Batch number `i` of a seed is always the same, whichever worker renders it, so that a killed training resumes
exactly. Input: a seed and sizes. Output: `ClipBatch`. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from clipsam.nano.corpus.captions import defect_sentence, describe, normal_sentence, product_words
from clipsam.nano.corpus.compose import Sample, render
from clipsam.nano.corpus.defects import DEFECTS

TYPES = (*DEFECTS, "damage")
"""The defect types that are trained; the last stands for any of them."""

STRIDE = 4
"""Masks are compared at a quarter of the picture's resolution: finer than a patch, four times cheaper than
pixels.
"""


@dataclass(frozen=True)
class ClipBatch:
    """One batch.

    `pixels` uint8 [b, H, W, 3]; `targets` float32 [b, k, H/4, W/4], the share of each cell covered by each
    type, the last type being "damage" (any defect); `normal` 2b sentences (two per picture); `abnormal` 2k
    sentences; `captions` b.
    """

    pixels: Tensor
    targets: Tensor
    normal: list[str]
    abnormal: list[str]
    captions: list[str]

    def __len__(self) -> int:
        return len(self.pixels)


Photo = tuple[np.ndarray, list[tuple[str, np.ndarray]], Sample]
"""A picture, the masks of its defects by type, and the sample that it is of."""


class ClipBatches(Dataset[ClipBatch]):
    """All batches of a training, by number: about `batch` pictures of 256 x 256 px, fewer where the size
    drawn is larger.
    """

    def __init__(self, seed: int, length: int, batch: int, sizes: Sequence[tuple[int, int]]) -> None:
        self.seed, self.length, self.batch, self.sizes = seed, length, batch, tuple(sizes)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> ClipBatch:
        rng = np.random.default_rng((self.seed, index))
        height, width = self.sizes[int(rng.integers(len(self.sizes)))]
        count = max(2, self.batch * 128 * 256 // (height * width))
        seeds = rng.integers(2**31, size=count)
        samples = [render(int(seed), height, width, p_normal=0.05) for seed in seeds]
        return collate([photo for sample in samples for photo in pair(sample, rng)], rng)


def pair(sample: Sample, rng: np.random.Generator) -> list[Photo]:
    """Return the picture with its masks and the same photo without the defects, mirrored and flipped alike.

    The two differ in nothing but the defect, so all that they share cancels in the gradient: without the
    twin, thousands of batches pass before the network sees defects among so many kinds of parts.
    """
    flips = tuple(slice(None, None, -1 if rng.random() < 0.5 else 1) for _ in range(2))
    masks = [(one.defect, one.mask[flips]) for one in sample.instances]
    return [(sample.image[flips], masks, sample), (sample.flawless[flips], [], sample)]


def collate(samples: Sequence[Photo], rng: np.random.Generator) -> ClipBatch:
    """Stack pictures of one size and write the sentences of the batch."""
    pixels = torch.from_numpy(np.stack([image for image, _, _ in samples]))
    height, width = pixels.shape[1:3]
    targets = torch.zeros(len(samples), len(TYPES), height // STRIDE, width // STRIDE)
    for target, (_, instances, _) in zip(targets, samples, strict=True):
        for defect, mask in instances:
            share = F.avg_pool2d(torch.from_numpy(mask.astype(np.float32))[None], STRIDE)[0]
            for index in (TYPES.index(defect), len(TYPES) - 1):
                target[index] = torch.maximum(target[index], share)
    names = [product_words(rng, sample.names) for _, _, sample in samples]
    return ClipBatch(
        pixels=pixels,
        targets=targets,
        normal=[normal_sentence(rng, name) for name in names for _ in range(2)],
        abnormal=[defect_sentence(rng, str(rng.choice(names)), defect) for defect in TYPES for _ in range(2)],
        captions=[describe(rng, sample.names, [kind for kind, _ in masks]) for _, masks, sample in samples],
    )
