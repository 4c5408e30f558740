"""Patch features x sentences -> the coarse map: how much each place of a photo looks damaged rather than
flawless.

Input: a photo [H, W, 3], a `ClipEncoder`, text targets. Output: `CoarseMap`, probabilities of one fixed
scale, never stretched per image. `coarse_map` is the whole way; the steps are pure functions. Knows nothing
of SAM or thresholds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from clipsam.settings import HeatmapSettings
from clipsam.tiles import Blend, cut
from clipsam.windows import WindowFeatures, harmonic_map, harmonic_mean

if TYPE_CHECKING:
    from clipsam.clip import ClipEncoder, PatchFeatures
    from clipsam.prompts import Sentences

__all__ = [
    "CoarseMap",
    "HeatmapSettings",
    "TextTargets",
    "coarse_map",
    "soft_maximum",
    "text_targets",
    "type_logits",
]

Features: TypeAlias = "PatchFeatures | WindowFeatures"  # what a tower gives of crops
TILE_BATCH = 4  # tiles per forward pass: bounds memory, and large tiles gain nothing from more


@dataclass(frozen=True)
class TextTargets:
    """What patches are compared with: unit vectors `normal` [d] and `abnormal` [k, d], one a defect type."""

    normal: Tensor
    abnormal: Tensor
    defects: tuple[str, ...]
    prompt_hash: str


@dataclass(frozen=True)
class CoarseMap:
    """CLIP's view of a photo, every value a probability.

    `anomaly` float32 [H, W] at the size of the photo; `types` float32 [k, gh, gw], one map per name in
    `defects`, on the patch grid of the largest scale (unsmoothed); `image_score` compares the tower's pooled
    embedding with the same sentences, None where every scale was tiled, or where nobody wanted it.
    `others_score` in [0, 1] is what the comparison with other photos says of the photo, None where its score
    is that of the map.
    """

    anomaly: NDArray[np.float32]
    types: NDArray[np.float32]
    defects: tuple[str, ...]
    image_score: float | None
    others_score: float | None = None

    @property
    def shares(self) -> NDArray[np.float32]:
        """Of which type each place is, if it is damaged at all: [k, gh, gw], adding up to 1 over the types.

        The odds of the types against "normal", shared out: what all types say of a place, such as that it
        stands out, cancels, so that of two defects the named one is the higher. In `types` it is the more
        striking.
        """
        odds = np.clip(self.types, 1e-6, 1 - 1e-6)
        odds = odds / (1 - odds)
        return np.asarray(odds / odds.sum(axis=0), np.float32)


def text_targets(encoder: ClipEncoder, sentences: Sentences) -> TextTargets:
    """Mean of the sentence embeddings of the normal state and of each defect type, then unit norm (WinCLIP,
    CVPR 2023).
    """
    groups = [sentences.normal, *sentences.abnormal.values()]
    embeddings = encoder.encode_sentences([sentence for group in groups for sentence in group])
    means = torch.stack([part.mean(dim=0) for part in embeddings.split([len(group) for group in groups])])
    normal, *abnormal = F.normalize(means, dim=-1)
    exact = json.dumps([sentences.normal, list(sentences.abnormal.items())])
    prompt_hash = hashlib.sha256(exact.encode()).hexdigest()
    return TextTargets(normal, torch.stack(abnormal), tuple(sentences.abnormal), prompt_hash)


def coarse_map(
    pixels: NDArray[np.uint8],
    encoder: ClipEncoder,
    targets: TextTargets,
    settings: HeatmapSettings | None = None,
    *,
    scored: bool = True,
    trained: Trained | None = None,
) -> CoarseMap:
    """The way of one photo [H, W, 3] (RGB) to its coarse map; `scored`: whether `image_score` is wanted, for
    which dense modes need one block more. `trained` says in place of the sentences what is abnormal.
    """
    settings = settings or HeatmapSettings()
    levels = trained.levels if trained else ()

    def look(crops: Tensor) -> tuple[Tensor, Tensor | None]:
        features = features_of(crops, encoder, settings, scored=scored, levels=levels)
        found, whole = compare(features, targets, settings)
        return torch.cat([found, trained.logits(features)[None]]) if trained else found, whole

    patch, types = encoder.patch_size, len(targets.defects)
    channels = types + 1 if trained else types
    scales = [see(pixels, size, patch, settings, channels, look) for size in settings.sizes]
    seen = mean_scales([scale.patches for scale in scales])
    logits = seen[:types]
    anomaly = (seen[-1] if trained else soft_maximum(logits, settings.sharpness)).sigmoid()
    wholes = [scale.whole for scale in scales if scale.whole is not None]
    score = (
        soft_maximum(torch.stack(wholes).mean(dim=0), settings.sharpness).sigmoid().item() if wholes else None
    )
    return CoarseMap(
        anomaly=enlarge(anomaly.numpy(), pixels.shape[:2], settings.smoothing),
        types=logits.sigmoid().numpy(),
        defects=targets.defects,
        image_score=score,
    )


@dataclass(frozen=True)
class Trained:
    """A trained network that reads what the sentences are compared with, and nothing of the photo beside.

    `levels`: the blocks whose tokens it wants too; `logits`: features of crops -> how abnormal each patch is,
    [b, h, w].
    """

    levels: tuple[int, ...]
    logits: Callable[[Features], Tensor]


Look = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Crops [b, 3, H, W] in [0, 1] -> logits of each patch [k, b, h, w], and of each crop as a whole [k, b] or
None.
"""


@dataclass(frozen=True)
class Scale:
    """Logits of one scale: of every patch [k, h, w], and of the whole [k] where the photo was seen in one
    piece.
    """

    patches: Tensor
    whole: Tensor | None


def see(
    pixels: NDArray[np.uint8], size: int, patch: int, settings: HeatmapSettings, channels: int, look: Look
) -> Scale:
    """Resize the photo to one scale and look at it, tile by tile if it is large; `look` gives k = `channels`
    logits.
    """
    grid = patch_grid(pixels.shape[:2], size, patch, square=settings.square)
    resized = resize(pixels, (grid[0] * patch, grid[1] * patch))  # [3, h, w] uint8
    side = max(settings.tile // patch, 2)
    # A tile lacks the context of the photo. Twice its sides take the memory of one batch of tiles, and about
    # the time of the nine that would overlap there: only what is larger still is cut.
    tiles = cut(grid, side if max(grid) > 2 * side else max(grid), settings.overlap)
    blend, whole = Blend(channels, grid), None
    for i in range(0, len(tiles), TILE_BATCH):
        batch = tiles[i : i + TILE_BATCH]
        logits, wholes = look(
            torch.stack([_crop(resized, tile.window, patch) for tile in batch]).float() / 255
        )
        for tile, found in zip(batch, logits.unbind(dim=1), strict=True):
            blend.add(tile, found)
        if len(tiles) == 1 and wholes is not None:
            whole = wholes[:, 0].cpu()
    return Scale(blend.mean(), whole)


def features_of(
    crops: Tensor,
    encoder: ClipEncoder,
    settings: HeatmapSettings,
    *,
    scored: bool = True,
    levels: Sequence[int] = (),
) -> Features:
    """Crops [b, 3, H, W] in [0, 1] -> all that is read of them, by one pass of the tower: what sentences are
    compared with, of whole crops only if `scored`, and the tokens of `levels`.
    """
    if settings.attention == "windows":
        return encoder.encode_windows(crops, settings.windows, levels)
    return encoder.encode_pixels(
        crops,
        settings.attention,
        blocks=settings.attention_blocks,
        layers=settings.layers,
        levels=levels,
        pooled=scored,
    )


def compare(
    features: Features, targets: TextTargets, settings: HeatmapSettings
) -> tuple[Tensor, Tensor | None]:
    """Features of crops -> logits of every patch [k, b, h, w], and of each whole crop [k, b] where they have
    it.
    """
    if isinstance(features, WindowFeatures):
        return _compare_windows(features, targets, settings)
    return _compare_patches(features, targets, settings)


def _compare_patches(
    features: PatchFeatures, targets: TextTargets, settings: HeatmapSettings
) -> tuple[Tensor, Tensor | None]:
    """The same by each patch's own feature."""
    layers = [
        type_logits(patches, targets, settings.temperature)
        for patches in features.layers or (features.patches,)
    ]
    merge = torch.mean if settings.layer_merge == "mean" else torch.sum
    whole = None if features.pooled is None else type_logits(features.pooled, targets, settings.temperature)
    return merge(torch.stack(layers), dim=0), whole


def _compare_windows(
    features: WindowFeatures, targets: TextTargets, settings: HeatmapSettings
) -> tuple[Tensor, Tensor]:
    """The same by WinCLIP's windows: harmonic means of probabilities over windows, then over their sizes and
    the whole crop.
    """
    whole = type_logits(features.pooled, targets, settings.temperature)
    maps = [whole.sigmoid()[..., None, None]]
    for side, windows in zip(features.sides, features.windows, strict=True):
        found = type_logits(windows, targets, settings.temperature).sigmoid()
        maps.append(harmonic_map(found.flatten(0, 1), side).unflatten(0, found.shape[:2]))
    return harmonic_mean(maps).logit(eps=1e-6), whole


def _crop(picture: Tensor, window: tuple[slice, slice], patch: int) -> Tensor:
    rows, columns = (slice(side.start * patch, side.stop * patch) for side in window)
    return picture[:, rows, columns]


def patch_grid(shape: tuple[int, ...], size: int, patch: int, *, square: bool = False) -> tuple[int, int]:
    """Rows and columns of patches of a photo (H, W) whose longer side becomes `size` px (0: stays as it is).

    The aspect ratio is kept up to rounding to whole patches, at least one; `square`: the longer side twice.
    """
    shape = (max(shape),) * 2 if square else shape
    factor = size / max(shape) if size else 1.0
    height, width = (max(round(side * factor / patch), 1) for side in shape)
    return height, width


def resize(pixels: NDArray[np.uint8], shape: tuple[int, int]) -> Tensor:
    """[H, W, 3] -> uint8 tensor [3, h, w]; bicubic with antialiasing, as CLIP was trained."""
    picture = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]
    if picture.shape[-2:] == shape:
        return picture[0]
    return F.interpolate(picture, size=shape, mode="bicubic", antialias=True)[0]


def type_logits(patches: Tensor, targets: TextTargets, temperature: float) -> Tensor:
    """Unit vectors [..., d] -> logits [k, ...] of "shows defect k" against "normal".

    (s_k - s_normal) / temperature with cosines s: its sigmoid is the softmax over {normal, type k}.
    """
    directions = (targets.abnormal - targets.normal).to(patches.device)
    return (patches @ directions.T / temperature).movedim(-1, 0)


def soft_maximum(logits: Tensor, sharpness: float) -> Tensor:
    """[k, ...] -> [...]: log-mean-exp over the types, log(mean(exp(sharpness * l))) / sharpness.

    Between mean (sharpness -> 0) and maximum (-> infinity), at most log(k) / sharpness below the maximum;
    with k equal logits, or one, it is that logit, so that the number of types does not shift the scale.
    """
    return (torch.logsumexp(logits * sharpness, dim=0) - math.log(len(logits))) / sharpness


def mean_scales(logits: list[Tensor]) -> Tensor:
    """Mean of the logits [k, h, w] of several scales on the finest of their grids, each scale one vote
    (log-odds add up).
    """
    if len(logits) == 1:
        return logits[0]
    finest = max((scale.shape[-2:] for scale in logits), key=math.prod)
    fitted = [F.interpolate(scale[None], finest, mode="bilinear", antialias=False)[0] for scale in logits]
    return torch.stack(fitted).mean(dim=0)


def enlarge(grid: NDArray[np.float32], shape: tuple[int, ...], smoothing: float) -> NDArray[np.float32]:
    """Map [h, w] on the patch grid -> [H, W] at the size of the photo: bilinear, then Gaussian, clipped to
    [0, 1].

    `smoothing` is sigma as a fraction of the longer side. Both steps are linear and separable, so that
    together they are one small matrix per axis: exact at full resolution for the price of two matrix
    products.
    """
    sigma = smoothing * max(shape)
    rows, columns = (_axis(cells, side, sigma) for cells, side in zip(grid.shape, shape, strict=True))
    values = np.asarray(rows @ grid @ columns.T, np.float32)
    return np.clip(values, np.float32(0), np.float32(1), out=values)


@lru_cache(maxsize=8)
def _axis(cells: int, side: int, sigma: float) -> NDArray[np.float32]:
    """Matrix [side, cells] that interpolates linearly between cell centres, then blurs with `sigma` px."""
    matrix = F.interpolate(torch.eye(cells)[None], size=side, mode="linear")[0].T.numpy()
    if sigma > 0:
        matrix = gaussian_filter1d(matrix, sigma, axis=0, mode="nearest")
    return np.asarray(matrix, dtype=np.float32)
