"""Comparing patches with remembered patches: nearest neighbours, what stands for many, and bounded scores.

Input: features [n, d] as tensors. Output: distances, choices of patches, scores in [0, 1], and how they join
the text map. Pure functions and small frozen classes; knows nothing of photos and towers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipsam.settings import ConsensusSettings, ReferenceSettings

BLOCK = 2**24  # similarities that are held at once: 64 MB
PROJECTED = 64  # numbers a patch that the cover is chosen by
SUREST = 1e-3  # odds are not counted beyond this probability and its opposite


def nearest(queries: Tensor, memory: Tensor, apart: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Euclidean distance [n] of each query [n, d] to its nearest neighbour in the memory [m, d].

    `apart`, integers [n] and [m]: where they are equal (patches of one photo), the pair does not count; a
    query without any other neighbour is infinitely far.
    """
    best = []
    for block, rest in _rests(queries, memory):
        if apart is not None:
            rest[apart[0][block, None] == apart[1][None]] = float("inf")
        best.append(rest.amin(dim=1))
    return _distance(queries, torch.cat(best))


def nearest_one(queries: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """As `nearest`, with the index [n] of the neighbour."""
    found = [rest.min(dim=1) for _, rest in _rests(queries, memory)]
    best, places = (torch.cat(parts) for parts in zip(*found, strict=True))
    return _distance(queries, best), places


def nearest_few(queries: Tensor, memory: Tensor, count: int) -> Tensor:
    """Indices [n, count] of the nearest neighbours of each query [n, d] in a memory [m, d], in any order."""
    count = min(count, len(memory))
    blocks = _rests(queries, memory)
    return torch.cat([rest.topk(count, largest=False, sorted=False).indices for _, rest in blocks])


def _rests(queries: Tensor, memory: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of queries, and what their distances to the memory vary by: |m|^2 / 2 - q m, one matrix product,
    since |q - m|^2 = |q|^2 + 2 (|m|^2 / 2 - q m).
    """
    half = memory.square().sum(dim=1)[None] / 2
    step = max(BLOCK // max(len(memory), 1), 1)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        yield block, torch.addmm(half, queries[block], memory.T, alpha=-1)


def _distance(queries: Tensor, rest: Tensor) -> Tensor:
    return (queries.square().sum(dim=1) + 2 * rest).clamp(min=0).sqrt()


def log_odds(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of a map in [0, 1], at most those of `SUREST`."""
    clipped = np.clip(probabilities, np.float32(SUREST), np.float32(1 - SUREST))
    return np.asarray(np.log(clipped / (1 - clipped)), dtype=np.float32)


def join(
    text: NDArray[np.float32],
    other: NDArray[np.float32],
    usual: NDArray[np.float32] | None,
    settings: ReferenceSettings | ConsensusSettings,
) -> NDArray[np.float32]:
    """The text map [H, W] and the map by other photos as one, in [0, 1].

    Mixing "mean" is their weighted mean (WinCLIP+, APRIL-GAN). "odds" adds log odds: those by other photos,
    `text_weight` times those of the text, and `excess_weight` times what the text says here beyond
    `usual`, what it says of the nearest patches of the other photos. What the sentences mistake for
    damage on every part (a glint, a bore) thus counts no more.
    """
    if settings.mixing == "mean":
        weight = np.float32(settings.text_weight)
        return np.asarray(weight * text + (1 - weight) * other, dtype=np.float32)
    says = log_odds(text)
    odds = log_odds(other) + np.float32(settings.text_weight) * says
    if usual is not None:
        odds += np.float32(settings.excess_weight) * (says - log_odds(usual))
    return np.asarray(1 / (1 + np.exp(-odds)), dtype=np.float32)


def cover(features: Tensor, count: int, seed: int = 0) -> Tensor:
    """Indices of `count` of [n, d] features that cover all: greedily, each the farthest from those before.

    The k-center selection of PatchCore (arXiv 2106.08265), as there by a random projection of the features.
    """
    generator = torch.Generator().manual_seed(seed)
    if features.shape[1] > PROJECTED:
        features = features @ torch.randn(features.shape[1], PROJECTED, generator=generator)
    distance = (features - features.mean(dim=0)).square().sum(dim=1)
    lengths, chosen = features.square().sum(dim=1), []
    for turn in range(min(count, len(features))):
        chosen.append(int(distance.argmax()))
        to_last = lengths + lengths[chosen[-1]] - 2 * (features @ features[chosen[-1]])
        distance = to_last if turn == 0 else torch.minimum(distance, to_last)
        distance[chosen[-1]] = -1  # rounding must not choose one twice
    return torch.tensor(chosen)


@dataclass(frozen=True)
class Scaling:
    """Makes layers comparable: what is subtracted from and what divides the channels of each, [c] each.

    None: the features of each patch and layer get unit length instead. Either way a layer weighs as much as
    any other, whatever its number of channels.
    """

    channels: tuple[tuple[Tensor, Tensor], ...] | None = None

    @classmethod
    def of(cls, layers: Sequence[Tensor]) -> Scaling:
        """The scaling by the means and spreads of these features, one [n, c] a layer."""
        return cls(tuple((layer.mean(dim=0), _spread(layer)) for layer in layers))

    def __call__(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """Features [n, c] a layer -> the same, scaled."""
        if self.channels is None:
            return [F.normalize(layer, dim=-1) for layer in layers]
        scaled = zip(layers, self.channels, strict=True)
        return [(layer - mean) / (spread * mean.numel() ** 0.5) for layer, (mean, spread) in scaled]


def side_by_side(layers: Sequence[Tensor]) -> Tensor:
    """Scaled features [n, c] a layer -> [n, all of c], as long as those of one layer."""
    return torch.cat(list(layers), dim=1) / len(layers) ** 0.5


def _spread(layer: Tensor) -> Tensor:
    """Standard deviation of each channel; one that hardly varies in the memory must not decide alone."""
    spread = layer.std(dim=0, correction=0)
    return spread + 0.01 * spread.mean() + 1e-6


@dataclass(frozen=True)
class Grading:
    """Distances -> scores in [0, 1): 0.5 at `middle`, odds that grow as a power `steepness` of the distance.

    The middle is a high quantile of what is known to be normal, so 0.5 says: as far as the rarest of them.
    """

    middle: float
    steepness: float

    @classmethod
    def of(cls, distances: Tensor, tail: float, steepness: float) -> Grading:
        """The grading under which the part `tail` of normal `distances` scores below 0.5."""
        return cls(max(float(distances.float().quantile(tail)), 1e-6), steepness)

    def __call__(self, distances: Tensor) -> Tensor:
        return torch.sigmoid(self.steepness * torch.log(distances.clamp(min=1e-12) / self.middle))


def draw(total: int, count: int, seed: int) -> Tensor:
    """Indices of `count` of `total` things drawn at random, in order; of all where there are no more."""
    if count >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values
