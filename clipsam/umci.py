"""UMCI, the trained adapter of ClipSAM: patch tokens of several blocks ask the sentences, strip by strip and
scale by scale.

Input: levels of the frozen tower [b, s, h, w, c] and two text embeddings (normal, abnormal). Output: logits
of {normal, abnormal} per level. Source: Unified Multi-scale Cross-modal Interaction, arXiv 2401.12665, whose
authors released no code; what it leaves open is a named field of `UmciSettings`. Knows nothing of photos,
files and training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsam.errors import UsageError


@dataclass(frozen=True)
class UmciSettings:
    """The shape of UMCI. "Left open": not known from the paper, so the default is a choice made here."""

    blocks: tuple[int, ...] = ()
    """After which blocks tokens are taken, from 1. Empty: four evenly spaced ones (6, 12, 18, 24 of 24 in the
    paper), the last four of a tower with fewer than eight."""
    width: int = 128
    """Channels d inside a stage. Left open."""
    heads: int = 1
    """Heads of the attention to the sentences. Left open."""
    strip_kernel: int = 3
    """Of the 1-D convolution along rows and columns."""
    scales: tuple[int, ...] = (3, 9)
    """Kernels of the average pooling of the scale path, in patches, each with its own size as stride."""
    keep: bool = True
    """Whether what the sentences answer is added to what asked (else it takes its place). Left open."""
    hidden: int = 128
    """Hidden channels of the last MLP. Left open."""
    prior: bool = False
    """Whether training starts from the frozen text map: its logits are added to those of the stages, whose
    last layers begin at zero, and a stage of its own reads them, type by type. Left open."""
    tokens: bool = True
    """Whether tokens of the tower's blocks are read at all; without them the text map alone is. Left open."""

    def __post_init__(self) -> None:
        _expect(list(self.blocks) == sorted(set(self.blocks)), "blocks", self.blocks, "block numbers, rising")
        _expect(self.width > 0 and self.hidden > 0, "width", (self.width, self.hidden), "channels above 0")
        _expect(self.heads > 0 and self.width % self.heads == 0, "heads", self.heads, "a divisor of width")
        _expect(self.strip_kernel % 2 == 1, "strip_kernel", self.strip_kernel, "an odd number")
        _expect(all(scale > 1 for scale in self.scales), "scales", self.scales, "kernels above 1")
        _expect(self.tokens or self.prior, "tokens", self.tokens, "true, or prior = true")

    def levels(self, depth: int) -> tuple[int, ...]:
        """The blocks for a tower of that depth."""
        if not self.tokens:
            return ()
        if self.blocks:
            return self.blocks
        if depth < 8:
            return tuple(range(max(depth - 3, 1), depth + 1))
        return tuple((depth * quarter + 2) // 4 for quarter in (1, 2, 3, 4))


def _expect(fits: bool, name: str, value: object, expected: str) -> None:
    if not fits:
        raise UsageError(f"{name} = {value!r} makes no UMCI; expected {expected}")


class Umci(nn.Module):
    """One stage per level, and one for the text map where training starts from it.

    `channels` c of the tower's tokens, `dim` d of the text embeddings, `types` k of the text map.
    """

    def __init__(self, settings: UmciSettings, levels: int, channels: int, dim: int, types: int = 0) -> None:
        super().__init__()
        self.settings, self.channels, self.dim, self.types = settings, channels, dim, types
        self.stages = nn.ModuleList(Stage(settings, channels, dim) for _ in range(levels))
        self.words = WordStage(settings, types) if settings.prior else None
        if self.words is not None:
            for stage in (*self.stages, self.words):
                nn.init.zeros_(stage.mlp[-1].weight)
                nn.init.zeros_(stage.mlp[-1].bias)

    def forward(self, levels: Tensor | None, text: Tensor, words: Tensor | None = None) -> Tensor:
        """Levels [b, s, h, w, c] and text [b, 2, d] (normal, abnormal) -> logits [b, s, 2, h, w].

        With `settings.prior` also the logits of the text map [b, 1 + k, h, w], all types together first: then
        s + 2 stages come out, that map as it is last, so that the sum over stages starts from it.
        """
        inputs = () if levels is None else levels.unbind(dim=1)
        parts = zip(self.stages, inputs, strict=True)
        found = [stage(normalised(tokens), text) for stage, tokens in parts]
        if self.words is not None:
            assert words is not None  # whoever trained from the text map has it
            found += [self.words(words), self.words.start(words)]
        return torch.stack(found, dim=1)


def normalised(tokens: Tensor) -> Tensor:
    """Tokens [b, h, w, c] -> [b, c, h, w], each with mean 0 and variance 1 (left open by the paper).

    They come out of a block as they are, with a few channels far larger than the others.
    """
    return F.layer_norm(tokens, tokens.shape[-1:]).movedim(-1, 1)


def anomaly_logits(stages: Tensor) -> Tensor:
    """Logits of the stages [b, s, 2, h, w] -> [b, h, w]: summed over stages, abnormal against normal.

    Its sigmoid is the softmax over {normal, abnormal} of the sum, the map of the paper.
    """
    normal, abnormal = stages.sum(dim=1).unbind(dim=1)
    return abnormal - normal


class Stage(nn.Module):
    """One level: strip path and scale path side by side, joined to what they started from, then an MLP."""

    def __init__(self, settings: UmciSettings, channels: int, dim: int) -> None:
        super().__init__()
        width = settings.width
        self.reduce = nn.Conv2d(channels, width, 1)
        self.strips = StripPath(settings, dim)
        self.scales = ScalePath(settings, dim)
        self.join = nn.Conv2d(2 * width, width, 3, padding=1)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, settings.hidden, 1), nn.GELU(), nn.Conv2d(settings.hidden, 2, 1)
        )

    def forward(self, level: Tensor, text: Tensor) -> Tensor:
        """A level [b, c, h, w], its channels of the order of 1 -> logits [b, 2, h, w]."""
        start = self.reduce(level)
        paths = torch.cat([self.strips(start, text), self.scales(start, text)], dim=1)
        return self.mlp(self.join(paths) + start)


class WordStage(nn.Module):
    """The stage of the text map: what it says at a place, along its row and column, around it at several
    scales, and in the photo as a whole. Sentences have spoken already, so there is nothing left to ask.
    """

    def __init__(self, settings: UmciSettings, types: int) -> None:
        super().__init__()
        self.kernels = [scale | 1 for scale in settings.scales]  # centred, so odd
        channels, hidden = types + 7 + len(self.kernels), settings.hidden
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, hidden, 1), nn.GELU(),
            nn.Conv2d(hidden, 2, 1),
        )  # fmt: skip
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, words: Tensor) -> Tensor:
        """Logits [b, 1 + k, h, w], all types together first -> logits [b, 2, h, w]."""
        return self.mlp(self.described(words))

    def start(self, words: Tensor) -> Tensor:
        """The text map itself as logits of {normal, abnormal} [b, 2, h, w], its steepness learned, from 1."""
        return F.pad(words[:, :1] * self.gain.exp(), (0, 0, 0, 0, 1, 0))

    def described(self, words: Tensor) -> Tensor:
        """[b, 1 + k, h, w] -> [b, k + 7 + scales, h, w], of the order of 1."""
        whole = words[:, :1]
        centred = whole - whole.mean(dim=(2, 3), keepdim=True)
        spread = centred.square().mean(dim=(2, 3), keepdim=True).sqrt() + 0.1
        near = [F.max_pool2d(whole, 3, 1, 1), -F.max_pool2d(-whole, 3, 1, 1)]
        around = [F.avg_pool2d(whole, side, 1, side // 2, count_include_pad=False) for side in self.kernels]
        strips = [whole.mean(dim=axis, keepdim=True).expand_as(whole) for axis in (2, 3)]
        highest = whole.amax(dim=(2, 3), keepdim=True).expand_as(whole)
        return torch.cat(
            [words / 4, centred / spread / 2, *(x / 4 for x in (highest, *near, *around, *strips))], 1
        )


class StripPath(nn.Module):
    """Rows and columns: each pooled to one strip, a 1-D convolution, attention to the text, spread out
    again.
    """

    def __init__(self, settings: UmciSettings, dim: int) -> None:
        super().__init__()
        width, kernel = settings.width, settings.strip_kernel
        self.along = nn.ModuleList(nn.Conv1d(width, width, kernel, padding=kernel // 2) for _ in range(2))
        self.ask = nn.ModuleList(TextAttention(settings, dim) for _ in range(2))
        self.mix = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, patches: Tensor, text: Tensor) -> Tensor:
        rows, columns = (
            ask(along(patches.mean(dim=axis)), text)
            for along, ask, axis in zip(self.along, self.ask, (3, 2), strict=True)
        )
        return self.mix(rows[:, :, :, None] + columns[:, :, None, :])


class ScalePath(nn.Module):
    """Several scales: pooled by each kernel, and as they are; attention to the text, enlarged, summed."""

    def __init__(self, settings: UmciSettings, dim: int) -> None:
        super().__init__()
        self.kernels = (1, *settings.scales)
        self.ask = nn.ModuleList(TextAttention(settings, dim) for _ in self.kernels)
        self.mix = nn.Conv2d(settings.width, settings.width, 3, padding=1)

    def forward(self, patches: Tensor, text: Tensor) -> Tensor:
        total = torch.zeros_like(patches)
        for kernel, ask in zip(self.kernels, self.ask, strict=True):
            pooled = _pool(patches, kernel)
            answer = ask(pooled.flatten(2), text).unflatten(2, pooled.shape[-2:])
            total = total + _enlarge(answer, kernel, patches.shape[-2:])
        return self.mix(total)


def _pool(patches: Tensor, kernel: int) -> Tensor:
    """Mean of each kernel x kernel square; squares that the border cuts are averaged over what is there."""
    if kernel == 1:
        return patches
    return F.avg_pool2d(patches, kernel, kernel, ceil_mode=True, count_include_pad=False)


def _enlarge(squares: Tensor, kernel: int, shape: tuple[int, ...]) -> Tensor:
    """Bilinear, each square back over its own patches; what hangs over the border is cut off."""
    if kernel == 1:
        return squares
    whole = F.interpolate(squares, scale_factor=kernel, mode="bilinear")
    return whole[..., : shape[0], : shape[1]]


class TextAttention(nn.Module):
    """Scaled dot-product attention of places [b, width, n] to the two sentences' embeddings [b, 2, d]."""

    def __init__(self, settings: UmciSettings, dim: int) -> None:
        super().__init__()
        self.heads, self.keep = settings.heads, settings.keep
        self.query = nn.Linear(settings.width, settings.width)
        self.key = nn.Linear(dim, settings.width)
        self.value = nn.Linear(dim, settings.width)

    def forward(self, places: Tensor, text: Tensor) -> Tensor:
        asked = self.query(places.transpose(1, 2))
        q, k, v = (
            each.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for each in (asked, self.key(text), self.value(text))
        )
        weights = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1)
        answer = (weights @ v).transpose(1, 2).flatten(2).transpose(1, 2)
        return places + answer if self.keep else answer
