"""How the last blocks of a tower attend when every patch must keep its own meaning (plain CLIP maps are often
inverted).

Input: a tower and pixels. Output: tokens of a dense path, beside those of the tower as it was trained. A mode
is one step: what its path becomes at one block. To add a mode, write its step from the pieces of
`towers.Opened` and put `@_mode` above. Knows nothing of norms and projections after the last block, nor of
text. Windows, which see parts of the photo alone, are in `windows.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipsam.errors import TowerError, UsageError
from clipsam.towers import Opened, Tower, attend

NEIGHBOURHOOD = 5.0  # sigma in patches of NACLIP's Gaussian, the authors' value
PROXY_SHIFT, PROXY_SCALE = 1.2, 3.0  # beta and gamma of ProxyCLIP, the authors' values


@dataclass(frozen=True)
class Scene:
    """What a step may know beside the tokens: `prefix` tokens come before the patches of `grid` (h, w).

    `proxy` [b, h*w, c] are unit vectors of a second encoder, one a patch; None where there is none.
    """

    prefix: int
    grid: tuple[int, int]
    proxy: Tensor | None = None


Step = Callable[[Tensor, Opened, Scene], Tensor]


@dataclass(frozen=True)
class AttentionMode:
    """A way to make features dense.

    `step(path, block, scene)` returns the dense path [b, n, c] after `block`, which is opened on the tokens
    [b, n, c] that go into it on the unchanged path. `blocks(depth)` says how many of the last blocks take
    part; `free` whether a user may choose another number; `proxy` whether a second encoder is needed. The
    dense path starts as the tokens that enter the first of them.
    """

    name: str
    summary: str
    source: str
    step: Step
    blocks: Callable[[int], int]
    free: bool
    proxy: bool


@dataclass(frozen=True)
class Dense:
    """Tokens after the last block: `dense` of the mode's path, `plain` of the tower as trained, both [b, n,
    c]. `layers`: the path after each block that was asked for; `levels` [b, s, h, w, c]: the tower's own
    patches after some. `plain` and `levels` are None where nobody wanted them.
    """

    dense: Tensor
    plain: Tensor | None
    grid: tuple[int, int]
    layers: tuple[Tensor, ...] = ()
    levels: Tensor | None = None


ATTENTION_MODES: dict[str, AttentionMode] = {}


def _last(depth: int) -> int:
    return 1


def _mode(
    name: str,
    summary: str,
    source: str,
    *,
    blocks: Callable[[int], int] = _last,
    free: bool = False,
    proxy: bool = False,
) -> Callable[[Step], Step]:
    def register(step: Step) -> Step:
        ATTENTION_MODES[name] = AttentionMode(name, summary, source, step, blocks, free, proxy)
        return step

    return register


@_mode("plain", "the tower as it was trained", "CLIP, arXiv 2103.00020", blocks=lambda depth: 0)
def _plain(path: Tensor, block: Opened, scene: Scene) -> Tensor:
    return path


@_mode("value", "every token attends to itself alone in the last block", "MaskCLIP, arXiv 2112.01071")
def _value(path: Tensor, block: Opened, scene: Scene) -> Tensor:
    """Values and output projection instead of attention; residual and MLP stay, as in the code of the
    authors.
    """
    return block.ffn(block.tokens + block.merge(block.heads("v")))


@_mode(
    "v-v",
    "values attend to values on a parallel path without MLPs",
    "CLIP Surgery, arXiv 2304.05653; AnomalyCLIP, arXiv 2310.18961",
    # six of twelve in CLIP Surgery, whatever the depth; a shallower tower keeps its first half
    blocks=lambda depth: min(6, (depth + 1) // 2),
    free=True,
)
def _value_value(path: Tensor, block: Opened, scene: Scene) -> Tensor:
    v = block.heads("v")
    return path + block.merge(attend(v, v, v))


@_mode("q-q", "queries attend to queries in the last block", "half of SCLIP, arXiv 2312.01597")
def _query_query(path: Tensor, block: Opened, scene: Scene) -> Tensor:
    q, v = block.heads("q"), block.heads("v")
    return block.ffn(block.tokens + block.merge(attend(q, q, v)))


@_mode("k-k", "keys attend to keys in the last block", "half of SCLIP, arXiv 2312.01597")
def _key_key(path: Tensor, block: Opened, scene: Scene) -> Tensor:
    k, v = block.heads("k"), block.heads("v")
    return block.ffn(block.tokens + block.merge(attend(k, k, v)))


@_mode("sclip", "q-q and k-k added up in the last block", "SCLIP, arXiv 2312.01597")
def _correlative(path: Tensor, block: Opened, scene: Scene) -> Tensor:
    """The two softmaxes are added and not averaged, as in the code of the authors."""
    q, k, v = (block.heads(part) for part in ("q", "k", "v"))
    return block.ffn(block.tokens + block.merge(attend(q, q, v) + attend(k, k, v)))


@_mode(
    "neighbour",
    "k-k with a Gaussian around each patch; no residual, no MLP",
    "NACLIP, arXiv 2404.08181",
)
def _neighbour(path: Tensor, block: Opened, scene: Scene) -> Tensor:
    k, v = block.heads("k"), block.heads("v")
    return block.merge(attend(k, k, v, _nearness(scene).to(k)))


@_mode("clear", "q-q; no residual, no MLP in the last block", "ClearCLIP, arXiv 2407.12442")
def _clear(path: Tensor, block: Opened, scene: Scene) -> Tensor:
    q, v = block.heads("q"), block.heads("v")
    return block.merge(attend(q, q, v))


@_mode(
    "proxy",
    "values weighted by the attention of a second encoder; no residual, no MLP",
    "ProxyCLIP, arXiv 2408.04883",
    proxy=True,
)
def _proxy(path: Tensor, block: Opened, scene: Scene) -> Tensor:
    """The prefix tokens, of which the second encoder knows nothing, stay as they are."""
    assert scene.proxy is not None  # `attend_densely` refuses the mode otherwise
    weights = _proxy_weights(scene.proxy)[:, None]
    patches = block.merge(weights.to(block.tokens) @ block.heads("v")[:, :, scene.prefix :])
    return torch.cat([block.tokens[:, : scene.prefix], patches], dim=1)


def _nearness(scene: Scene) -> Tensor:
    """exp(-distance² / 2σ²) of patches [n, n], 0 for pairs with a prefix token: NACLIP adds it to scores."""
    height, width = scene.grid
    rows, columns = (_gaussian(side) for side in (height, width))
    bias = torch.zeros(2 * (scene.prefix + height * width,))
    bias[scene.prefix :, scene.prefix :] = torch.kron(rows, columns)
    return bias


def _gaussian(side: int) -> Tensor:
    steps = torch.arange(side, dtype=torch.float32)
    return torch.exp(-((steps - steps[:, None]) ** 2) / (2 * NEIGHBOURHOOD**2))


def _proxy_weights(features: Tensor) -> Tensor:
    """Unit vectors [b, n, c] -> attention [b, n, n]: patches less alike than 1.2 times the mean see nothing
    of each other. Where the whole photo is that much alike, a patch still sees itself.
    """
    cosines = features @ features.mT
    mean = cosines.mean(dim=(1, 2), keepdim=True)  # of each photo: a batch must not change its members
    scores = PROXY_SCALE * (cosines - PROXY_SHIFT * mean)
    itself = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill((scores < 0) & ~itself, -torch.inf).softmax(dim=-1)


def find_mode(name: str) -> AttentionMode:
    """The mode of that name; `TowerError` lists the names that exist."""
    if name not in ATTENTION_MODES:
        raise TowerError(
            f"there is no attention mode {name!r}; expected one of: {', '.join(ATTENTION_MODES)}"
        )
    return ATTENTION_MODES[name]


def attend_densely(
    tower: Tower,
    pixels: Tensor,
    mode: AttentionMode,
    blocks: int | None = None,
    *,
    layers: Sequence[int] = (),
    levels: Sequence[int] = (),
    proxy: Tensor | None = None,
    plain: bool = True,
) -> Dense:
    """Run normalised pixels [b, 3, H, W] through the tower once, with the dense path of `mode` beside it.

    `blocks`: how many of the last blocks the dense path replaces; None takes the mode's own number. `layers`:
    blocks, counted from 1, after which the path is kept (before its first block it is the plain one);
    `levels`: those after which the patches of the tower as it was trained are, as `Tower.levels` gives them.
    `proxy`: unit vectors of the second encoder [b, h*w, c], for the mode that needs one. `plain`: whether the
    tower's own tokens after the last block are wanted; without them a dense mode saves that block.
    """
    first = tower.depth - _count(mode, tower.depth, blocks)
    if mode.proxy and proxy is None:
        raise TowerError(
            f"attention mode {mode.name!r} needs a second encoder beside this tower and there is none; "
            "name its weights, such as DINOv2's, or choose another mode"
        )
    if wrong := [layer for layer in (*layers, *levels) if not 1 <= layer <= tower.depth]:
        raise UsageError(
            f"there is no block {wrong[0]}; expected layers from 1 to {tower.depth}, the depth of this tower"
        )
    start = tower.embed(pixels)
    scene = Scene(tower.prefix, start.grid, proxy)
    tokens = path = start.tokens
    kept, own = {}, {}
    for number, module in enumerate(start.blocks, 1):
        block, dense = Opened(module, tokens), number > first
        done = dense and number == tower.depth and not plain and number not in levels
        tokens = tokens if done else block.passed()
        path = mode.step(path, block, scene) if dense else tokens
        if number in layers:
            kept[number] = path
        if number in levels:
            own[number] = tower.level(tokens, start.grid)
    return Dense(
        path,
        tokens if plain else None,
        start.grid,
        tuple(kept[layer] for layer in layers),
        torch.stack([own[level] for level in levels], dim=1) if levels else None,
    )


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
