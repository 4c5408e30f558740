"""How the last blocks of a tower attend when every patch must keep its own meaning (plain CLIP maps are often
inverted).

Input: a tower and pixels. Output: tokens of a dense path, beside those of the tower as it was trained. A mode
is one step: what its path becomes at one block. To add a mode, write its step from the pieces of
`towers.Block` and put `@_mode` above. Knows nothing of norms and projections after the last block, nor of
text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from clipsam.errors import TowerError, UsageError
from clipsam.towers import Block, Tower, attend

Step = Callable[[Tensor, Tensor, Block], Tensor]


@dataclass(frozen=True)
class AttentionMode:
    """A way to make features dense.

    `step(path, tokens, block)` returns the dense path [b, n, c] after `block`; `tokens` [b, n, c] go into
    that block on the unchanged path. `blocks(depth)` says how many of the last blocks take part; `free`
    whether a user may choose another number. The dense path starts as the tokens that enter the first of
    them.
    """

    name: str
    summary: str
    source: str
    step: Step
    blocks: Callable[[int], int]
    free: bool


@dataclass(frozen=True)
class Dense:
    """Tokens after the last block: `dense` of the mode's path, `plain` of the tower as trained, both [b, n,
    c].
    """

    dense: Tensor
    plain: Tensor
    grid: tuple[int, int]


ATTENTION_MODES: dict[str, AttentionMode] = {}


def _mode(
    name: str, summary: str, source: str, *, blocks: Callable[[int], int], free: bool = False
) -> Callable[[Step], Step]:
    def register(step: Step) -> Step:
        ATTENTION_MODES[name] = AttentionMode(name, summary, source, step, blocks, free)
        return step

    return register


@_mode("plain", "the tower as it was trained", "CLIP, arXiv 2103.00020", blocks=lambda depth: 0)
def _plain(path: Tensor, tokens: Tensor, block: Block) -> Tensor:
    return path


@_mode(
    "value",
    "every token attends to itself alone in the last block",
    "MaskCLIP, arXiv 2112.01071",
    blocks=lambda depth: 1,
)
def _value(path: Tensor, tokens: Tensor, block: Block) -> Tensor:
    """Values and output projection instead of attention; residual and MLP stay, as in the code of the
    authors.
    """
    return block.ffn(tokens + block.merge(block.heads(tokens, "v")))


@_mode(
    "v-v",
    "values attend to values on a parallel path without MLPs",
    "CLIP Surgery, arXiv 2304.05653",
    # six of twelve in CLIP Surgery, whatever the depth; a shallower tower keeps its first half
    blocks=lambda depth: min(6, (depth + 1) // 2),
    free=True,
)
def _value_value(path: Tensor, tokens: Tensor, block: Block) -> Tensor:
    v = block.heads(tokens, "v")
    return path + block.merge(attend(v, v, v))


def find_mode(name: str) -> AttentionMode:
    """The mode of that name; `TowerError` lists the names that exist."""
    if name not in ATTENTION_MODES:
        raise TowerError(
            f"there is no attention mode {name!r}; expected one of: {', '.join(ATTENTION_MODES)}"
        )
    return ATTENTION_MODES[name]


def attend_densely(tower: Tower, pixels: Tensor, mode: AttentionMode, blocks: int | None = None) -> Dense:
    """Run normalised pixels [b, 3, H, W] through the tower once, with the dense path of `mode` beside it.

    `blocks`: how many of the last blocks the dense path replaces; None takes the mode's own number.
    """
    first = tower.depth - _count(mode, tower.depth, blocks)
    start = tower.embed(pixels)
    tokens = start.tokens
    for block in start.blocks[:first]:
        tokens = block(tokens)
    path = tokens
    for block in start.blocks[first:]:
        path, tokens = mode.step(path, tokens, block), block(tokens)
    return Dense(path, tokens, start.grid)


def _count(mode: AttentionMode, depth: int, blocks: int | None) -> int:
    if blocks is None:
        return mode.blocks(depth)
    if not mode.free:
        raise UsageError(
            f"attention mode {mode.name!r} has no choice of blocks, but {blocks} were asked for; "
            "leave the number of blocks out, or choose 'v-v'"
        )
    if not 1 <= blocks <= depth:
        raise UsageError(
            f"{blocks} attention blocks were asked for; expected 1 to {depth}, the depth of this tower"
        )
    return blocks
