"""Pictures with masks to train UMCI on: rendered ones, or the photos of a dataset.

Input: a number and a seed, or a `Dataset`. Output: `Pictures`, indexed, always the same for the same input,
in mixed order, with an identity that changes when they do. Knows nothing of features.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipsam.dataset_check import check_dataset, read_mask, refuse_faults
from clipsam.datasets import Category, Dataset, Sample
from clipsam.errors import UsageError
from clipsam.images import read_photo
from clipsam.nano.corpus.compose import Corpus
from clipsam.nano.corpus.compose import Sample as Rendered


@dataclass(frozen=True)
class Picture:
    """`pixels` uint8 [H, W, 3] (RGB), `mask` bool [H, W], and the product in words."""

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    product: str


class Pictures(Protocol):
    """What is trained on. `identity`: all that decides what the pictures are, as JSON."""

    @property
    def identity(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Picture: ...


class RenderedPictures:
    """Pictures of the project's own corpus, each defective one followed by the same photo without defects."""

    def __init__(self, count: int, seed: int, side: int) -> None:
        self.count = count
        self.identity = {"kind": "rendered", "pictures": count, "seed": seed, "side": side}
        corpus = Corpus(-(-count // 2), seed, height=side, width=side, hold_out=False, p_normal=0.05)
        self._sample = lru_cache(maxsize=1)(corpus.__getitem__)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Picture:
        sample: Rendered = self._sample(index // 2)
        if index % 2:
            return Picture(sample.flawless, np.zeros_like(sample.mask), sample.product)
        return Picture(sample.image, sample.mask, sample.product)


class DatasetPictures:
    """The test photos of a dataset, as the field trains on one dataset to be tested on another."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        refuse_faults(check_dataset(dataset))
        found = [(category, sample) for category in dataset.categories for sample in category.samples]
        if not any(sample.is_defective for _, sample in found):
            raise UsageError(
                f"{dataset.root} has no defective photo; expected photos with masks to train on."
            )
        order = np.random.default_rng(seed).permutation(len(found))
        self._found: list[tuple[Category, Sample]] = [found[i] for i in order]
        self.identity = {
            "kind": dataset.kind,
            "name": dataset.name,
            "categories": [category.name for category in dataset.categories],
            "products": [category.product for category in dataset.categories],
            "pictures": len(found),
            "seed": seed,
            "files": _digest([sample for _, sample in found]),
        }

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, index: int) -> Picture:
        category, sample = self._found[index]
        pixels = read_photo(sample.image).pixels
        if sample.is_defective and sample.mask is not None:
            return Picture(pixels, read_mask(sample.mask), category.product)
        return Picture(pixels, np.zeros(pixels.shape[:2], bool), category.product)


def _digest(samples: list[Sample]) -> str:
    """Changes when a photo or a mask is added, removed, renamed or written anew with another size."""
    paths = [path for sample in samples for path in (sample.image, sample.mask) if path is not None]
    lines = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in paths]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
