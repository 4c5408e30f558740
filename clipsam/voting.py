"""Voting: what the photos of a batch that have a vote say of each patch of a photo.

Input: features of those photos, then of any photo. Output: mutual scores [h, w] after MuSc (ICLR 2024, arXiv
2401.16753): features over several neighbourhoods, every patch against its nearest in each other photo, the
mean over the photos that agree best. A choice of patches is searched by sketches, all of them in full.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from clipsam.layers import local_mean
from clipsam.memory import Scaling, cover, draw, nearest_one, side_by_side
from clipsam.settings import ConsensusSettings
from clipsam.sketch import Sketches, filled

DRAWN = 512  # patches a photo that say how channels spread

Vote = tuple[Tensor, Tensor | None]
"""For every patch the mean distance [n] to its like in the photos that count, and what the text says of
those [n].
"""


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of a photo: layers [c, h, w], float16; where they are needed, log odds of its text map
    [h*w] and the embedding of the `whole` [d].
    """

    layers: list[Tensor]
    texts: Tensor | None = None
    whole: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Voters:
    """Photos made ready to be compared with: by hash, one set of patches [m, d] for every view, float16, and
    what the text says of these patches, log odds `odds` [photos, m].

    A view is a layer (or all, side by side) averaged over one size of neighbourhood; each is matched by
    itself, or with `together` all are.
    """

    views: dict[str, list[Tensor]]
    scaling: Scaling
    settings: ConsensusSettings
    odds: Tensor | None = None
    sketches: tuple[Sketches, ...] = ()  # one for what is matched together

    @classmethod
    def of(cls, photos: dict[str, Look], settings: ConsensusSettings, how: str) -> Voters:
        """Photos by hash, their layers scaled as `LayerSettings.scaling` says."""
        scaling = Scaling()
        if how == "spread":
            samples = [[_sample(layer, settings.seed) for layer in look.layers] for look in photos.values()]
            scaling = Scaling.of([torch.cat(layer) for layer in zip(*samples, strict=True)])
        voters = cls({}, scaling, settings)
        texts = []
        for key, look in photos.items():
            views, said = voters.view(look.layers), look.texts
            if 0 < settings.patches < len(views[0]):
                kept = cover(torch.cat(views, dim=1), settings.patches, settings.seed)
                views, said = [view[kept] for view in views], None if said is None else said[kept]
            voters.views[key] = [view.half() for view in views]
            texts += [] if said is None else [said]
        longest = max((len(views[0]) for views in voters.views.values()), default=0)
        odds = torch.stack([filled(said, longest) for said in texts]) if texts else None
        return replace(voters, odds=odds, sketches=voters._sketched())

    def view(self, layers: Sequence[Tensor]) -> list[Tensor]:
        """Layers [c, h, w] -> the patches [h*w, c] of every view, float32."""
        found = []
        for side in self.settings.neighbourhoods:
            averaged = [local_mean(layer.float(), side).flatten(1).T for layer in layers]
            scaled = self.scaling(averaged)
            found += [side_by_side(scaled)] if self.settings.joint else scaled
        return found

    def score(self, key: str, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """The mutual scores [h, w] of a photo, the mean over views; `key` itself has no vote. With texts,
        also the log odds that the text gives the like patches of the voters that count, [h, w].
        """
        search = self._by_sketches if self.sketches else self._in_full
        distances, said = zip(*search(key, self.view(layers)), strict=True)
        grid = layers[0].shape[1:]
        scores = torch.stack(distances).mean(dim=0).unflatten(0, grid)
        return scores, None if self.odds is None else torch.stack(said).mean(dim=0).unflatten(0, grid)

    def _in_full(self, key: str, queries: Sequence[Tensor]) -> Iterator[Vote]:
        others = [number for number, name in enumerate(self.views) if name != key]
        photos = list(self.views.values())
        for view, query in enumerate(queries):
            pairs = [nearest_one(query, photos[number][view].float()) for number in others]
            distances, places = (torch.stack(parts, dim=1) for parts in zip(*pairs, strict=True))
            closest = lowest_part(distances, self.settings.lowest)
            said = self._said(torch.tensor(others)[closest], places.gather(1, closest))
            yield distances.gather(1, closest).mean(dim=1), said

    def _by_sketches(self, key: str, queries: Sequence[Tensor]) -> Iterator[Vote]:
        for group, sketches in zip(self._groups(len(queries)), self.sketches, strict=True):
            distances, places = sketches.nearest(queries[group])
            others = len(self.views)
            if key in self.views:
                distances[:, list(self.views).index(key)] = float("inf")
                others -= 1
            closest = lowest_part(distances, self.settings.lowest, others)
            places = places.gather(1, closest)
            said = self._said(closest, places)
            for exact in sketches.distances(queries[group], closest, places):
                yield exact.mean(dim=1), said

    def _said(self, photos: Tensor, places: Tensor) -> Tensor | None:
        """Mean log odds [n] of patches [n, c] of photos [n, c]."""
        return None if self.odds is None else self.odds[photos, places].mean(dim=1)

    def _sketched(self) -> tuple[Sketches, ...]:
        settings = self.settings
        if not (settings.patches and settings.sketch and self.views):
            return ()
        photos = list(self.views.values())
        return tuple(
            Sketches.of([views[group] for views in photos], settings.sketch, settings.seed)
            for group in self._groups(len(photos[0]))
        )

    def _groups(self, views: int) -> list[slice]:
        """Views that are matched together."""
        return [slice(0, views)] if self.settings.together else [slice(n, n + 1) for n in range(views)]


def interval_mean(votes: Tensor, lowest: float) -> Tensor:
    """Votes [n, photos] -> [n]: mean of the lowest part `lowest` of each row, of one at least (MuSc)."""
    return votes.gather(1, lowest_part(votes, lowest)).mean(dim=1)


def lowest_part(votes: Tensor, part: float, photos: int | None = None) -> Tensor:
    """Indices [n, c] of the lowest `part` of each row of votes [n, photos], of one at least; of fewer
    `photos` where some have none.
    """
    count = max(int((photos or votes.shape[1]) * part), 1)
    return votes.topk(count, dim=1, largest=False).indices


def _sample(layer: Tensor, seed: int) -> Tensor:
    patches = layer.flatten(1).T
    return patches[draw(len(patches), DRAWN, seed)].float()
