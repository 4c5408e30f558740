"""Sketches: the nearest neighbour of many patches in each of many sets, found by few numbers a patch.

Input: sets of features [m, d] of a batch's photos, then queries [n, d]. Output: a likely nearest neighbour in
every set, by the main components of the features, and its true distance. Knows nothing of photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipsam.memory import draw

SAMPLE = 2048  # patches that the main components are taken from
BLOCK = 512  # queries at a time: what is compared stays in the processor's cache
PAIRS = 2**21  # numbers that are compared in full at once: 8 MB


@dataclass(frozen=True, eq=False)
class Sketches:
    """Sets of patches, and their main components as sketches of them.

    `rows` [sets, m, d], float16, the views of a patch side by side, as wide as `widths` says; sets with fewer
    patches repeat their first, which changes no nearest neighbour. `small` [sets, count, m] are the sketches
    and `half` [sets, 1, m] half their squared lengths, by `middle` [d] and `axes` [d, count].
    """

    rows: Tensor
    widths: tuple[int, ...]
    middle: Tensor
    axes: Tensor
    small: Tensor
    half: Tensor

    @classmethod
    def of(cls, sets: Sequence[Sequence[Tensor]], count: int, seed: int = 0) -> Sketches:
        """Sketches of at most `count` numbers of sets of patches, each [m, d] for one or several views."""
        longest = max(len(views[0]) for views in sets)
        rows = torch.stack([filled(torch.cat(list(views), dim=1), longest) for views in sets]).half()
        sample = rows.flatten(0, 1)
        sample = sample[draw(len(sample), SAMPLE, seed)].float()
        middle = sample.mean(dim=0)
        axes = main_components(sample - middle, count)
        small = torch.stack([((patches.float() - middle) @ axes).T for patches in rows]).contiguous()
        half = small.square().sum(dim=1, keepdim=True) / 2
        return cls(rows, tuple(view.shape[1] for view in sets[0]), middle, axes, small, half)

    def nearest(self, views: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Squared distances of sketches [n, sets] of queries, [n, d] a view, to the nearest in each set, and
        which of its patches that is [n, sets].
        """
        queries = (torch.cat(list(views), dim=1) - self.middle) @ self.axes
        found = torch.empty(len(queries), len(self.rows))
        places = torch.empty(found.shape, dtype=torch.long)
        room = torch.empty(BLOCK, self.rows.shape[1])
        for number, (small, half) in enumerate(zip(self.small, self.half, strict=True)):
            for start in range(0, len(queries), BLOCK):
                part = queries[start : start + BLOCK]
                here = slice(start, start + len(part))
                rest = torch.addmm(half, part, small, alpha=-1, out=room[: len(part)])
                found[here, number], places[here, number] = rest.min(dim=1)
        return 2 * found + queries.square().sum(dim=1, keepdim=True), places

    def distances(self, views: Sequence[Tensor], sets: Tensor, places: Tensor) -> list[Tensor]:
        """Euclidean distances [n, c] for each view of queries [n, d] to the chosen patches [n, c]."""
        queries, chosen = torch.cat(list(views), dim=1), sets * self.rows.shape[1] + places
        known, found = self.rows.flatten(0, 1), []
        for start in range(0, len(queries), step := max(PAIRS // (chosen.shape[1] * len(self.middle)), 1)):
            part = slice(start, start + step)
            apart = known[chosen[part]].float() - queries[part, None]
            found.append(torch.stack([each.norm(dim=2) for each in apart.split(self.widths, dim=2)]))
        return list(torch.cat(found, dim=1))


def main_components(centred: Tensor, count: int) -> Tensor:
    """The directions [d, count] in which features [n, d] of mean 0 vary most; of fewer dimensions, all."""
    count = min(count, *centred.shape)
    if centred.shape[1] <= len(centred):
        return torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -count:]
    found = torch.linalg.eigh(centred @ centred.T)  # wider than long: the same from the smaller product
    directions = centred.T @ found.eigenvectors[:, -count:]
    return directions / directions.norm(dim=0).clamp(min=1e-12)


def filled(patches: Tensor, length: int) -> Tensor:
    """Patches [m, ...] with the first repeated up to `length`."""
    return torch.cat([patches, patches[:1].expand(length - len(patches), *patches.shape[1:])])
