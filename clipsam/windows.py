"""WinCLIP's windows: small squares of patches that go through the tower alone, with embeddings of their own.

Input: a tower and normalised pixels. Output: `WindowFeatures`; scores of windows become maps by the harmonic
mean of all windows over a patch, so that one window which looks flawless outweighs several that do not. Also
the paper's memory of a few flawless photos. Source: WinCLIP, Jeong et al., CVPR 2023, arXiv 2303.14814. Knows
nothing of text and photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsam.errors import TowerError, UsageError
from clipsam.towers import Block, Embedded, Tower, attend

WINDOW_BATCH = 256  # windows per forward pass: each is at most a few tokens long


@dataclass(frozen=True)
class WindowFeatures:
    """Unit vectors, float32: `pooled` [b, d] of the whole; `windows` [b, rows, columns, d] for each of
    `sides`, a window being named by its upper left patch; `patches` [b, h, w, c] after the final norm,
    not projected. `levels` [b, s, h, w, c]: patches after some blocks, as `Tower.levels` gives them, None
    where nobody wanted them.
    """

    pooled: Tensor
    sides: tuple[int, ...]
    windows: tuple[Tensor, ...]
    patches: Tensor
    levels: Tensor | None = None


def see_windows(
    tower: Tower, pixels: Tensor, sides: Sequence[int], levels: Sequence[int] = ()
) -> WindowFeatures:
    """Normalised pixels [b, 3, H, W] -> features of the whole, of all windows and of all patches.

    The patches are embedded once, with their places in the photo; the blocks then run over each window's
    patches and the prefix tokens alone. What does not depend on the window, or is not pooled, is not
    computed again: the first block's projections, and the last block of all but the prefix tokens.
    """
    if tower.rotary:
        raise TowerError(
            "this tower turns its tokens by their place in every block, so it cannot see windows alone; "
            "expected positions that are added at the start: choose another model or attention mode"
        )
    start = tower.embed(pixels)
    if max(sides) > min(start.grid):
        raise UsageError(
            f"a window of {max(sides)} patches does not fit into {start.grid[0]}x{start.grid[1]}; "
            "choose smaller windows or a larger scale"
        )
    first, *others = start.blocks
    heads = first.all_heads(start.tokens)  # of every token by itself, whatever window it is seen in
    whole = first.ffn(start.tokens + first.merge(attend(*heads)))
    own = {1: whole}
    for number, block in enumerate(others, 2):
        whole = block(whole)
        if number in levels:
            own[number] = whole
    patches = tower.norm(whole[:, tower.prefix :]).unflatten(1, start.grid)
    return WindowFeatures(
        pooled=_unit(tower.pool(whole)),
        sides=tuple(sides),
        windows=tuple(_embed_windows(tower, start, heads, side) for side in sides),
        patches=_unit(patches),
        levels=torch.stack([tower.level(own[level], start.grid) for level in levels], dim=1)
        if levels
        else None,
    )


def _embed_windows(tower: Tower, start: Embedded, heads: tuple[Tensor, ...], side: int) -> Tensor:
    places = window_places(start.grid, side).to(start.tokens.device)
    prefix = torch.arange(tower.prefix, device=places.device).expand(len(places), -1)
    chosen, photos = torch.cat([prefix, places + tower.prefix], dim=1), len(start.tokens)
    found = []
    for part in chosen.split(max(WINDOW_BATCH // photos, 1)):
        tokens = start.tokens[:, part].flatten(0, 1)  # [b * part, tokens of a window, c]
        q, k, v = (each[:, :, part].movedim(2, 1).flatten(0, 1) for each in heads)
        tokens = start.blocks[0].ffn(tokens + start.blocks[0].merge(attend(q, k, v)))
        found.append(_unit(tower.pool(_through(tower, start.blocks[1:], tokens))).unflatten(0, (photos, -1)))
    rows, columns = (length - side + 1 for length in start.grid)
    return torch.cat(found, dim=1).unflatten(1, (rows, columns))


def _through(tower: Tower, blocks: Sequence[Block], tokens: Tensor) -> Tensor:
    """Tokens after the other blocks; of the last one only those that are pooled."""
    for block in blocks[: -1 if tower.pools_prefix else None]:
        tokens = block(tokens)
    return blocks[-1].after(tokens, tower.prefix) if blocks and tower.pools_prefix else tokens


def _unit(vectors: Tensor) -> Tensor:
    return F.normalize(vectors.float(), dim=-1)


def window_places(grid: tuple[int, int], side: int) -> Tensor:
    """Indices [windows, side * side] of the patches in each window, windows and patches row by row."""
    numbers = torch.arange(grid[0] * grid[1]).unflatten(0, grid)
    return numbers.unfold(0, side, 1).unfold(1, side, 1).flatten(2).flatten(0, 1)


def harmonic_map(scores: Tensor, side: int) -> Tensor:
    """Scores [k, rows, columns] of all windows -> [k, h, w]: harmonic mean of the windows over each patch.

    Scores are above 0; one that is 0 makes every patch under its window 0.
    """
    rows, columns = scores.shape[-2:]
    grid = (rows + side - 1, columns + side - 1)
    spread = (
        torch.stack([torch.ones_like(scores), 1 / scores]).flatten(2)[:, :, None].expand(-1, -1, side**2, -1)
    )
    count, inverse = F.fold(spread.flatten(0, 1), grid, side).unflatten(0, (2, -1))[:, :, 0]
    return count / inverse


def harmonic_mean(maps: Sequence[Tensor]) -> Tensor:
    """The harmonic mean of several maps [k, h, w] of one size, or of what expands to it."""
    return len(maps) / sum((1 / values for values in maps), start=torch.zeros(()))


@dataclass(frozen=True)
class WindowMemory:
    """Flawless photos, as WinCLIP+ keeps them: `windows` [n, d] of each of `sides`, `patches` [n, c]."""

    sides: tuple[int, ...]
    windows: tuple[Tensor, ...]
    patches: Tensor

    @classmethod
    def of(cls, references: WindowFeatures) -> WindowMemory:
        """Remember the features of a batch of flawless photos."""
        windows = tuple(found.flatten(0, -2) for found in references.windows)
        return cls(references.sides, windows, references.patches.flatten(0, -2))

    def distance(self, features: WindowFeatures) -> Tensor:
        """How unlike anything remembered each place is: [b, h, w] in [0, 1].

        Half the cosine distance to the nearest of the memory, for patches and for each size of window
        (harmonic mean over a patch), averaged (equation 4 of the paper).
        """
        if features.sides != self.sides:
            raise UsageError(
                f"the memory holds windows of {self.sides} patches, but {features.sides} were asked for; "
                "use the same windows for both"
            )
        maps = [_apart(features.patches, self.patches)]
        for side, windows, known in zip(self.sides, features.windows, self.windows, strict=True):
            maps.append(harmonic_map(_apart(windows, known), side))
        return torch.stack(maps).mean(dim=0)


def _apart(vectors: Tensor, known: Tensor) -> Tensor:
    """Half the cosine distance of unit vectors [b, h, w, d] to the nearest of `known` [n, d]: [b, h, w]."""
    return ((1 - (vectors @ known.T).amax(dim=-1)) / 2).clamp(min=0)
