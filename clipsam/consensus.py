"""Consensus: an unlabelled batch as its own reference; what few other photos have anything like is anomalous.

Input: photos, most of their pixels flawless. Output: a map [H, W] in [0, 1] for each. Mutual scoring after
MuSc (ICLR 2024, arXiv 2401.16753); how photos vote is in `voting.py`. Each photo is held against a fixed
number of others, so that time and memory per photo do not grow with the batch; `observe` does the same on a
stream.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsam.clip import ClipEncoder
from clipsam.errors import UsageError
from clipsam.heatmap import CoarseMap, enlarge
from clipsam.layers import encode_layers, encode_whole
from clipsam.memory import Grading, draw, join, log_odds
from clipsam.photoscores import highest_mean, rescored
from clipsam.references import Words, on_grid
from clipsam.settings import ConsensusSettings, LayerSettings
from clipsam.voting import Look, Voters

GRADED = 8  # photos of a batch whose scores say what is usual
RECENT = 64  # photos of a stream whose scores say what is usual
DRAWN = 512  # patches a photo, for that

Pixels = NDArray[np.uint8]


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
        words: Words | None = None,
    ) -> None:
        self.encoder, self.layers = encoder, layers or LayerSettings()
        self.settings = settings or ConsensusSettings()
        self.words = words if self.settings.excess_weight else None
        self._kept: dict[str, Look] = {}  # by hash of the photo
        self._voters: Voters | None = None  # made of these when it is needed
        self._known: dict[str, tuple[Tensor, Tensor | None]] = {}  # what they say of each other
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
        words: Words | None = None,
    ) -> Consensus:
        """The consensus of photos, read once, one at a time; of more than `settings.photos` a random choice.
        With `words` it knows what the text says of them, if the settings ask for it.

        Raises `UsageError` for less than two different photos.
        """
        consensus = cls(encoder, layers, settings, words)
        for pixels in photos:
            consensus._keep(_hash(pixels), consensus._look(pixels, voting=True))
        if len(consensus._kept) < 2:
            raise UsageError(
                f"a batch of {len(consensus._kept)} different photos has no consensus; expected at least two"
            )
        for key in list(consensus._kept)[:GRADED]:
            consensus._remember(consensus._score(key, consensus._kept[key])[0])
        return consensus

    @property
    def photos(self) -> int:
        """How many photos have a vote."""
        return len(self._kept)

    @property
    def scores_photos(self) -> bool:
        """Whether the score of a photo comes from here, not from its map."""
        return self.settings.photo_score == "distances" or bool(self.settings.rescored)

    def scores(self, pixels: Pixels) -> Tensor:
        """Mutual scores of the patches of a photo, [h, w]: distances, the larger the rarer."""
        return self._score(_hash(pixels), self._look(pixels))[0]

    def anomaly(self, pixels: Pixels) -> NDArray[np.float32]:
        """How unlike the other photos each pixel of a photo [H, W, 3] is: [H, W] in [0, 1]."""
        return self._map(self.scores(pixels), pixels)

    def join(self, coarse: CoarseMap, pixels: Pixels, inside: NDArray[np.bool_] | None = None) -> CoarseMap:
        """The coarse map of a photo joined with what the other photos say of it, and their score of the photo
        where the settings ask for it, made of the pixels `inside` [H, W].
        """
        key, look = _hash(pixels), self._look(pixels)
        scores, odds = self._score(key, look)
        usual = None
        if odds is not None:
            usual = enlarge(torch.sigmoid(odds).numpy(), pixels.shape[:2], self.settings.smoothing)
        own = self._map(scores, pixels)
        return replace(
            coarse,
            anomaly=join(coarse.anomaly, own, usual, self.settings),
            others_score=self._photo_score(key, scores, look, inside),
        )

    def observe(self, pixels: Pixels) -> NDArray[np.float32] | None:
        """The map of a stream's next photo, held against those before it; then it may get a vote itself.

        The photos with a vote are a uniform sample of all so far (Vitter's reservoir, 1985). None for the
        first two.
        """
        key, look, found = _hash(pixels), self._look(pixels, voting=True), None
        if len(self._kept) > 1:
            scores, _ = self._score(key, look)
            self._remember(scores)
            found = self._map(scores, pixels)
        self._keep(key, look)
        return found

    def manifest(self) -> dict[str, Any]:
        """What decides the map, for `run.json`."""
        digest = hashlib.sha256("".join(sorted(self._kept)).encode()).hexdigest()
        return {"voting": self.photos, "hash": digest, **asdict(self.settings), "layers": asdict(self.layers)}

    def _look(self, pixels: Pixels, voting: bool = False) -> Look:
        layers = [layer.half() for layer in encode_layers(pixels, self.encoder, self.layers)]
        texts = None
        if voting and self.words:
            texts = on_grid(log_odds(self.words.map(pixels)), (layers[0].shape[1], layers[0].shape[2]))
        whole = encode_whole(pixels, self.encoder, self.layers) if self.settings.rescored else None
        return Look(layers, texts, whole)

    def _keep(self, key: str, look: Look) -> None:
        """Let a photo into the reservoir, for another one if that is full."""
        if key in self._kept:
            return
        self._seen += 1
        room = self.settings.photos
        if room and len(self._kept) >= room:
            place = int(self._random.integers(self._seen))
            if place >= room:
                return
            del self._kept[list(self._kept)[place]]
        self._kept[key], self._voters = look, None
        self._known.clear()

    def _remember(self, scores: Tensor) -> None:
        self._usual.append(scores.flatten()[draw(scores.numel(), DRAWN, self.settings.seed)])

    def _score(self, key: str, look: Look) -> tuple[Tensor, Tensor | None]:
        if self._voters is None:
            self._voters = Voters.of(self._kept, self.settings, self.layers.scaling)
        if key in self._known:
            return self._known[key]
        found = self._voters.score(key, look.layers)
        if key in self._kept:
            self._known[key] = found
        return found

    def _photo_score(
        self, key: str, scores: Tensor, look: Look, inside: NDArray[np.bool_] | None
    ) -> float | None:
        if not self.scores_photos:
            return None
        own = self._height(scores, inside)
        others = [(name, kept) for name, kept in self._kept.items() if name != key]
        if look.whole is not None and others:
            heights = torch.stack([self._height(self._score(*other)[0], inside) for other in others])
            likeness = torch.stack([kept.whole for _, kept in others if kept.whole is not None])
            own = rescored(own, heights, likeness @ look.whole, self.settings.rescored)
        return float(self._grading()(own))

    def _height(self, scores: Tensor, inside: NDArray[np.bool_] | None) -> Tensor:
        """How rare a photo is by its mutual scores [h, w]: the highest of them, or the mean of several."""
        part = self.settings.highest if self.settings.photo_score == "distances" else 1 / scores.numel()
        return highest_mean(scores, part, inside)

    def _map(self, scores: Tensor, pixels: Pixels) -> NDArray[np.float32]:
        return enlarge(self._grading()(scores).numpy(), pixels.shape[:2], self.settings.smoothing)

    def _grading(self) -> Grading:
        return Grading.of(torch.cat(list(self._usual)), self.settings.tail, self.settings.steepness)


def _hash(pixels: Pixels) -> str:
    return hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).hexdigest()
