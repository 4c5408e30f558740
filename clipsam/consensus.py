"""Consensus: an unlabelled batch as its own reference; what few other photos have anything like is anomalous.

Input: photos, most of their pixels flawless. Output: a map [H, W] in [0, 1] for each. Mutual scoring after
MuSc (ICLR 2024, arXiv 2401.16753): features over several neighbourhoods, every patch against its nearest in
each other photo, the mean over the photos that agree best. Each photo is held against a fixed number of
others, so that time and memory per photo do not grow with the batch; `observe` does the same on a stream.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsam.clip import ClipEncoder
from clipsam.errors import UsageError
from clipsam.heatmap import enlarge
from clipsam.layers import encode_layers, local_mean
from clipsam.memory import Grading, Scaling, cover, draw, nearest, side_by_side
from clipsam.settings import ConsensusSettings, LayerSettings

GRADED = 8  # photos of a batch whose scores say what is usual
RECENT = 64  # photos of a stream whose scores say what is usual
DRAWN = 512  # patches a photo, for that and for the spread of channels

Pixels = NDArray[np.uint8]


def interval_mean(votes: Tensor, lowest: float) -> Tensor:
    """Votes [n, photos] -> [n]: mean of the lowest part `lowest` of each row, of one at least (MuSc)."""
    count = max(int(votes.shape[1] * lowest), 1)
    return votes.topk(count, dim=1, largest=False).values.mean(dim=1)


class Consensus:
    """Photos that others are held against: all of a small batch, a choice of a large one.

    A photo is known by its pixels and never votes on itself. `of` takes a batch; without it, `observe` scores
    a stream against what it has shown so far. Not for several threads at a time.
    """

    stage: ClassVar[str] = "consensus"

    def __init__(
        self,
        encoder: ClipEncoder,
        layers: LayerSettings | None = None,
        settings: ConsensusSettings | None = None,
    ) -> None:
        self.encoder, self.layers = encoder, layers or LayerSettings()
        self.settings = settings or ConsensusSettings()
        self._kept: dict[str, list[Tensor]] = {}  # layers [c, h, w], float16, by hash of the photo
        self._voters: _Voters | None = None  # made of these when it is needed
        self._usual: deque[Tensor] = deque(maxlen=RECENT)
        self._random = np.random.default_rng(self.settings.seed)
        self._seen = 0

    @classmethod
    def of(
        cls,
        photos: Iterable[Pixels],
        encoder: ClipEncoder,
        layers: LayerSettings | None = None,
        settings: ConsensusSettings | None = None,
    ) -> Consensus:
        """The consensus of photos, read once, one at a time; of more than `settings.photos` a random choice.

        Raises `UsageError` for less than two different photos.
        """
        consensus = cls(encoder, layers, settings)
        for pixels in photos:
            consensus._keep(_hash(pixels), consensus._look(pixels))
        if len(consensus._kept) < 2:
            raise UsageError(
                f"a batch of {len(consensus._kept)} different photos has no consensus; expected at least two"
            )
        for key in list(consensus._kept)[:GRADED]:
            consensus._remember(consensus._score(key, consensus._kept[key]))
        return consensus

    @property
    def photos(self) -> int:
        """How many photos have a vote."""
        return len(self._kept)

    @property
    def text_weight(self) -> float:
        """Share of the text map in the sum of both."""
        return self.settings.text_weight

    def scores(self, pixels: Pixels) -> Tensor:
        """Mutual scores of the patches of a photo, [h, w]: distances, the larger the rarer."""
        return self._score(_hash(pixels), self._look(pixels))

    def anomaly(self, pixels: Pixels) -> NDArray[np.float32]:
        """How unlike the other photos each pixel of a photo [H, W, 3] is: [H, W] in [0, 1]."""
        return self._map(self.scores(pixels), pixels)

    def observe(self, pixels: Pixels) -> NDArray[np.float32] | None:
        """The map of a stream's next photo, held against those before it; then it may get a vote itself.

        The photos with a vote are a uniform sample of all so far (Vitter's reservoir, 1985). None for the
        first two.
        """
        key, layers, found = _hash(pixels), self._look(pixels), None
        if len(self._kept) > 1:
            scores = self._score(key, layers)
            self._remember(scores)
            found = self._map(scores, pixels)
        self._keep(key, layers)
        return found

    def manifest(self) -> dict[str, Any]:
        """What decides the map, for `run.json`."""
        digest = hashlib.sha256("".join(sorted(self._kept)).encode()).hexdigest()
        return {"voting": self.photos, "hash": digest, **asdict(self.settings), "layers": asdict(self.layers)}

    def _look(self, pixels: Pixels) -> list[Tensor]:
        return [layer.half() for layer in encode_layers(pixels, self.encoder, self.layers)]

    def _keep(self, key: str, layers: list[Tensor]) -> None:
        """Let a photo into the reservoir, for another one if that is full."""
        if key in self._kept:
            return
        self._seen += 1
        room = self.settings.photos
        if room is not None and len(self._kept) >= room:
            place = int(self._random.integers(self._seen))
            if place >= room:
                return
            del self._kept[list(self._kept)[place]]
        self._kept[key], self._voters = layers, None

    def _remember(self, scores: Tensor) -> None:
        self._usual.append(scores.flatten()[draw(scores.numel(), DRAWN, self.settings.seed)])

    def _score(self, key: str, layers: list[Tensor]) -> Tensor:
        if self._voters is None:
            self._voters = _Voters.of(self._kept, self.settings, self.layers.scaling)
        return self._voters.score(key, layers)

    def _map(self, scores: Tensor, pixels: Pixels) -> NDArray[np.float32]:
        settings = self.settings
        grading = Grading.of(torch.cat(list(self._usual)), settings.tail, settings.steepness)
        return enlarge(grading(scores).numpy(), pixels.shape[:2], settings.smoothing)


@dataclass(frozen=True, eq=False)
class _Voters:
    """Photos made ready to be compared with: by hash, one set of patches [m, d] for every view, float16.

    A view is a layer (or all, side by side) averaged over one size of neighbourhood; each is matched by
    itself.
    """

    views: dict[str, list[Tensor]]
    scaling: Scaling
    settings: ConsensusSettings

    @classmethod
    def of(cls, photos: dict[str, list[Tensor]], settings: ConsensusSettings, how: str) -> _Voters:
        scaling = Scaling()
        if how == "spread":
            samples = [[_sample(layer, settings.seed) for layer in layers] for layers in photos.values()]
            scaling = Scaling.of([torch.cat(layer) for layer in zip(*samples, strict=True)])
        voters = cls({}, scaling, settings)
        for key, layers in photos.items():
            views = voters.view(layers)
            count = settings.patches or len(views[0])
            if count < len(views[0]):
                kept = cover(torch.cat(views, dim=1), count, settings.seed)
                views = [view[kept] for view in views]
            voters.views[key] = [view.half() for view in views]
        return voters

    def view(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """Layers [c, h, w] -> the patches [h*w, c] of every view, float32."""
        found = []
        for side in self.settings.neighbourhoods:
            averaged = [local_mean(layer.float(), side).flatten(1).T for layer in layers]
            scaled = self.scaling(averaged)
            found += [side_by_side(scaled)] if self.settings.joint else scaled
        return found

    def score(self, key: str, layers: Sequence[Tensor]) -> Tensor:
        """The mutual scores [h, w] of a photo, the mean over views; `key` itself has no vote."""
        others = [views for name, views in self.views.items() if name != key]
        found = []
        for number, queries in enumerate(self.view(layers)):
            votes = [nearest(queries, views[number].float()) for views in others]
            found.append(interval_mean(torch.stack(votes, dim=1), self.settings.lowest))
        return torch.stack(found).mean(dim=0).unflatten(0, layers[0].shape[1:])


def _sample(layer: Tensor, seed: int) -> Tensor:
    patches = layer.flatten(1).T
    return patches[draw(len(patches), DRAWN, seed)].float()


def _hash(pixels: Pixels) -> str:
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
