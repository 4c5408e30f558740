"""References: a few flawless photos as a memory of patches; what is far from all of them is anomalous.

Input: 1 to some hundred photos of good parts and a `ClipEncoder`; then any photo. Output: a map [H, W] in
[0, 1], on one scale for all photos. After PatchCore (arXiv 2106.08265), WinCLIP+ (arXiv 2303.14814) and
APRIL-GAN (arXiv 2305.17382). Knows nothing of text and SAM; `reference_files.py` keeps memories as files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipsam.clip import ClipEncoder
from clipsam.errors import UsageError
from clipsam.heatmap import CoarseMap, enlarge
from clipsam.layers import encode_layers, local_mean
from clipsam.memory import (
    Grading,
    Scaling,
    cover,
    draw,
    join,
    log_odds,
    nearest,
    nearest_few,
    side_by_side,
)
from clipsam.photoscores import highest_mean
from clipsam.settings import LayerSettings, ReferenceSettings

POOL = 8  # patches that the cover is chosen from, per patch that is kept: bounds memory
QUERIES = 4096  # patches that are held against the other photos to learn what is normal
PLACE = 1.0  # weight of places where photos agree in them: a photo's side counts like the usual spread
AGREEMENT = 1.25  # they agree where demanding it makes their own patches look at most so much rarer

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Words:
    """What sentences say of a photo: `map` gives its text map [H, W] in [0, 1]; `hash` of all that decides
    it.
    """

    map: Callable[[Pixels], NDArray[np.float32]]
    hash: str


@dataclass(frozen=True, eq=False)
class ReferenceMemory:
    """What good photos look like.

    `views` are sets of remembered patches [n, d], each matched by itself, distances averaged: one set of all
    layers side by side, or one a layer. `position` is the weight of a patch's place, 0 where it does not
    count. `texts` [n] are the log odds that the text map gives the remembered patches, where they are
    needed; `words` is the hash of those sentences.
    """

    stage: ClassVar[str] = "references"

    encoder: ClipEncoder
    layers: LayerSettings
    settings: ReferenceSettings
    views: tuple[Tensor, ...]
    scaling: Scaling
    grading: Grading
    position: float
    photos: int
    photos_hash: str
    texts: Tensor | None = None
    words: str = ""

    @classmethod
    def build(
        cls,
        photos: Sequence[Pixels],
        encoder: ClipEncoder,
        layers: LayerSettings | None = None,
        settings: ReferenceSettings | None = None,
        words: Words | None = None,
    ) -> ReferenceMemory:
        """Remember flawless photos [H, W, 3] (RGB), and with `words` what the text says of them, if the
        settings ask for it. Raises `UsageError` where there are none.
        """
        layers, settings = layers or LayerSettings(), settings or ReferenceSettings()
        words = words if settings.excess_weight else None
        if not photos:
            raise UsageError("there are no reference photos; expected at least one photo of a flawless part")
        patches = _collect(photos, encoder, layers, settings, words=words)
        scaling = Scaling.of(patches.layers) if layers.scaling == "spread" else Scaling()
        # One photo has no other to be held against; mirrored, it shows the same part in other places.
        probes = (
            patches if len(photos) > 1 else _collect(_mirrored(photos[0]), encoder, layers, settings, first=1)
        )
        position = settings.position
        if position is None:
            position = _agreed_position(patches, scaling, settings) if len(photos) > 1 else 0.0
        views = _views(patches, scaling, position, settings)
        kept = cover(torch.cat(views, dim=1), settings.memory, settings.seed)
        views, owners = [view[kept] for view in views], patches.photo[kept]
        drawn = draw(len(probes.photo), QUERIES, settings.seed)
        queries = [view[drawn] for view in _views(probes, scaling, position, settings)]
        normal = _distances(queries, views, settings, (probes.photo[drawn], owners))
        return cls(
            encoder,
            layers,
            settings,
            tuple(views),
            scaling,
            Grading.of(normal[normal.isfinite()], settings.tail, settings.steepness),
            position,
            photos=len(photos),
            photos_hash=hash_photos(photos),
            texts=None if patches.texts is None else patches.texts[kept],
            words=words.hash if words else "",
        )

    @property
    def scores_photos(self) -> bool:
        """Whether the score of a photo comes from here, not from its map."""
        return self.settings.photo_score == "distances"

    def anomaly(self, pixels: Pixels) -> NDArray[np.float32]:
        """How unlike the references each pixel of a photo [H, W, 3] is: [H, W] in [0, 1]."""
        return self._map(self._distances(*self._look(pixels)), pixels.shape[:2])

    def join(self, coarse: CoarseMap, pixels: Pixels, inside: NDArray[np.bool_] | None = None) -> CoarseMap:
        """The coarse map of a photo joined with what the references say of it, and their score of the photo
        where the settings ask for it, made of the pixels `inside` [H, W].
        """
        grid, views = self._look(pixels)
        usual = self._usual(grid, views, pixels.shape[:2]) if self.texts is not None else None
        distances = self._distances(grid, views)
        own = self._map(distances, pixels.shape[:2])
        return replace(
            coarse,
            anomaly=join(coarse.anomaly, own, usual, self.settings),
            others_score=self._photo_score(distances, inside),
        )

    def _look(self, pixels: Pixels) -> tuple[tuple[int, int], list[Tensor]]:
        patches = _collect([pixels], self.encoder, self.layers, self.settings, whole=True)
        return patches.grid, _views(patches, self.scaling, self.position, self.settings)

    def _distances(self, grid: tuple[int, int], views: list[Tensor]) -> Tensor:
        return _distances(views, self.views, self.settings).unflatten(0, grid)

    def _graded(self, distances: Tensor) -> Tensor:
        return self.grading(distances) if self.settings.score == "calibrated" else distances.clamp(max=1)

    def _map(self, distances: Tensor, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return enlarge(self._graded(distances).numpy(), shape, self.settings.smoothing)

    def _photo_score(self, distances: Tensor, inside: NDArray[np.bool_] | None) -> float | None:
        if not self.scores_photos:
            return None
        return float(self._graded(highest_mean(distances, self.settings.highest, inside)))

    def _usual(
        self, grid: tuple[int, int], views: list[Tensor], shape: tuple[int, ...]
    ) -> NDArray[np.float32]:
        """What the text says of the remembered patches that are most like each pixel's: [H, W] in [0, 1]."""
        assert self.texts is not None
        found = [
            nearest_few(query, view, self.settings.likes)
            for query, view in zip(views, self.views, strict=True)
        ]
        odds = torch.stack([self.texts[few].mean(dim=1) for few in found]).mean(dim=0)
        return enlarge(torch.sigmoid(odds).unflatten(0, grid).numpy(), shape, self.settings.smoothing)

    def manifest(self) -> dict[str, Any]:
        """What decides the map, for `run.json`."""
        return {
            "photos": self.photos,
            "hash": self.photos_hash,
            **asdict(self.settings),
            "layers": asdict(self.layers),
        }


def hash_photos(photos: Sequence[Pixels]) -> str:
    """SHA-256 (hex) of the pixels of photos, in any order."""
    digests = sorted(hashlib.sha256(str(p.shape).encode() + p.tobytes()).hexdigest() for p in photos)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Patches:
    """Patches of some photos: features [n, c] a layer, place [n, 2] (y and x in [0, 1]), number of the
    photo [n]; `grid` of the last one; log odds of the text map [n] where there are words.
    """

    layers: list[Tensor]
    places: Tensor
    photo: Tensor
    grid: tuple[int, int]
    texts: Tensor | None


def _collect(
    photos: Sequence[Pixels],
    encoder: ClipEncoder,
    layer_settings: LayerSettings,
    settings: ReferenceSettings,
    *,
    first: int = 0,
    whole: bool = False,
    words: Words | None = None,
) -> _Patches:
    """Patches of photos, turned too where that is set; of each what the pool has room for, or the `whole`."""
    room = POOL * settings.memory // (len(photos) * (4 if settings.turns else 1)) + 1
    layers, places, owners, texts = [], [], [], []
    for number, pixels in enumerate(photos):
        for turn in range(4 if settings.turns and not whole else 1):
            turned = np.rot90(pixels, turn)
            found = encode_layers(turned, encoder, layer_settings)
            grid = (found[0].shape[1], found[0].shape[2])
            kept = draw(grid[0] * grid[1], grid[0] * grid[1] if whole else room, settings.seed + number)
            pooled = [local_mean(layer, settings.pooling) for layer in found]
            layers.append([layer.flatten(1).T[kept] for layer in pooled])
            places.append(_places(grid)[kept])
            owners.append(torch.full((len(kept),), first + number))
            if words is not None:
                texts.append(on_grid(log_odds(words.map(turned)), grid)[kept])
    joined = [torch.cat(parts) for parts in zip(*layers, strict=True)]
    said = torch.cat(texts) if texts else None
    return _Patches(joined, torch.cat(places), torch.cat(owners), grid, said)


def on_grid(full: NDArray[np.float32], grid: tuple[int, int]) -> Tensor:
    """A map [H, W] averaged over the cells of a grid, row by row: [h*w]."""
    whole = torch.from_numpy(np.ascontiguousarray(full))[None, None]
    return F.adaptive_avg_pool2d(whole, grid).flatten()


def _views(patches: _Patches, scaling: Scaling, position: float, settings: ReferenceSettings) -> list[Tensor]:
    layers = scaling(patches.layers)
    views = [side_by_side(layers)] if settings.joint else layers
    return [torch.cat([view, patches.places * position], dim=1) for view in views] if position else views


def _distances(
    queries: Sequence[Tensor],
    memory: Sequence[Tensor],
    settings: ReferenceSettings,
    apart: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Distances [n] to the memory, the mean over views; for score "cosine" (1 - cosine) / 2."""
    found = torch.stack([nearest(query, view, apart) for query, view in zip(queries, memory, strict=True)])
    return (found.square() / 4 if settings.score == "cosine" else found).mean(dim=0)


def _agreed_position(patches: _Patches, scaling: Scaling, settings: ReferenceSettings) -> float:
    """`PLACE` where the photos show the part in one place, else 0.

    Patches are held against the other photos, once anywhere and once with places: where parts are aligned,
    their like lies in the same place, and the distances hardly grow.
    """
    drawn = draw(len(patches.photo), QUERIES, settings.seed)
    sizes = []
    for position in (0.0, PLACE):
        views = [view[drawn] for view in _views(patches, scaling, position, settings)]
        apart = (patches.photo[drawn], patches.photo[drawn])
        distances = _distances(views, views, settings, apart)
        sizes.append(float(distances[distances.isfinite()].square().mean().sqrt()))
    return PLACE if sizes[1] <= AGREEMENT * sizes[0] else 0.0


def _mirrored(pixels: Pixels) -> list[Pixels]:
    return [pixels[:, ::-1], pixels[::-1]]


def _places(grid: tuple[int, int]) -> Tensor:
    """Centres of the patches, (y, x) in [0, 1], row by row: [h*w, 2]."""
    sides = [(torch.arange(side) + 0.5) / side for side in grid]
    return torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1).flatten(0, 1)
