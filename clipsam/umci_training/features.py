"""Features of the frozen tower, computed once and kept on disk, memory-mapped: the tower runs once, not in
every epoch.

Input: an encoder and pictures. Output: `Features`: levels, text maps and masks of each picture at each scale.
What does not fit within the limit is encoded again whenever it is asked for, with the same result. A cache
that was interrupted goes on. Knows nothing of UMCI and of losses.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipsam.clip import ClipEncoder
from clipsam.errors import UsageError
from clipsam.heatmap import patch_grid, resize
from clipsam.umci_training.pictures import Picture, Pictures

FORMAT = 2
NOTED_EVERY = 16  # pictures after which the cache notes how far it is


class Words(Protocol):
    """The text map of pictures, where UMCI starts from it. `channels`: 1 + k; `identity`: all that decides
    what it is.
    """

    channels: int
    identity: dict[str, Any]

    def __call__(self, pixels: Tensor, product: str) -> Tensor:
        """Pixels [1, 3, H, W] in [0, 1] -> logits [1, 1 + k, h, w], as `clipsam.adapter.word_logits`."""
        ...


@dataclass(frozen=True)
class Seen:
    """What the frozen tower makes of one picture at one scale, float16: `levels` [s, h, w, c], each token
    with mean 0 and variance 1; `words` [1 + k, h, w]; None is what is not asked for.
    """

    levels: Tensor | None
    words: Tensor | None


class Features:
    """`Seen` and shares of defect uint8 [m, n] of every picture, by number and scale.

    `sizes` are the longer sides in px; `square` stretches photos, else they keep their aspect. `levels` are
    blocks, perhaps none; `words` gives text maps, or None. `limit` is what both may take on disk, in bytes,
    older caches in `folder` included: those go first.
    """

    def __init__(
        self,
        encoder: ClipEncoder,
        pictures: Pictures,
        *,
        levels: tuple[int, ...],
        sizes: tuple[int, ...],
        stride: int,
        limit: int,
        folder: Path,
        words: Words | None = None,
        square: bool = True,
    ) -> None:
        if not all(sizes):
            raise UsageError(
                f"sizes = {sizes}: 0 keeps each photo's own size; expected sizes in px to train at"
            )
        self.encoder, self.pictures, self.levels, self.words = encoder, pictures, levels, words
        self.sizes = {size: max(round(size / encoder.patch_size), 1) for size in sizes}
        self.stride, self.square = stride, square
        identity = {
            "format": FORMAT, "weights": encoder.weights_hash, "dtype": str(encoder.dtype), "levels": levels,
            "sizes": sizes, "stride": stride, "pictures": pictures.identity, "square": square,
            "words": words and words.identity,
        }  # fmt: skip
        self.folder = folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        channels = len(levels) * encoder.tower.width + (words.channels if words else 0)
        each = sum(2 * channels * grid**2 for grid in self.sizes.values())
        self.kept = min(len(pictures), limit // each)
        self._make_room(each * self.kept, limit)
        self.products: list[str] = []
        self._arrays: dict[tuple[str, int], NDArray[Any]] = {}
        for size, grid in self.sizes.items():
            self._open(size, "shapes", np.uint16, len(pictures), (2,))
            self._open(size, "masks", np.uint8, len(pictures), (self._cells(grid),) * 2)
            if levels:
                shape = (len(levels), grid, grid, encoder.tower.width)
                self._open(size, "levels", np.float16, self.kept, shape)
            if words:
                self._open(size, "words", np.float16, self.kept, (words.channels, grid, grid))

    def fill(self, on_picture: Callable[[int], None] = lambda done: None) -> None:
        """Compute what is not there yet; `on_picture` is told how many pictures are done."""
        state = self.folder / "state.json"
        if state.is_file():
            self.products = json.loads(state.read_text("utf-8"))
        for index in range(len(self.products), len(self.pictures)):
            picture = self.pictures[index]
            for size in self.sizes:
                self._keep(index, size, picture)
            self.products.append(picture.product)
            if (index + 1) % NOTED_EVERY == 0 or index + 1 == len(self.pictures):
                self._note(state)
            on_picture(index + 1)

    def seen(self, index: int, size: int) -> Seen:
        """What the tower makes of this picture at this scale, from the disk or anew."""
        if index >= self.kept:
            return self._encode(self.pictures[index], size)
        h, w = self.shape_of(index, size)
        levels, words = self._arrays.get(("levels", size)), self._arrays.get(("words", size))
        return Seen(
            None if levels is None else torch.from_numpy(np.array(levels[index, :, :h, :w])),
            None if words is None else torch.from_numpy(np.array(words[index, :, :h, :w])),
        )

    def shape_of(self, index: int, size: int) -> tuple[int, int]:
        """Rows and columns of patches of this picture."""
        h, w = self._arrays["shapes", size][index].tolist()
        return h, w

    def shares_of(self, index: int, size: int) -> Tensor:
        """Float32 [m, n], the sides in px / stride: how much of each cell is defective."""
        m, n = map(self._cells, self.shape_of(index, size))
        return torch.from_numpy(self._arrays["masks", size][index, :m, :n].astype(np.float32) / 255)

    def _keep(self, index: int, size: int, picture: Picture) -> None:
        h, w = self._grid(picture, size)
        m, n = self._cells(h), self._cells(w)
        self._arrays["shapes", size][index] = h, w
        self._arrays["masks", size][index, :m, :n] = _shares(picture, (m, n))
        if index < self.kept:
            seen = self._encode(picture, size)
            if seen.levels is not None:
                self._arrays["levels", size][index, :, :h, :w] = seen.levels.numpy()
            if seen.words is not None:
                self._arrays["words", size][index, :, :h, :w] = seen.words.numpy()

    def _grid(self, picture: Picture, size: int) -> tuple[int, int]:
        return patch_grid(picture.pixels.shape[:2], size, self.encoder.patch_size, square=self.square)

    def _encode(self, picture: Picture, size: int) -> Seen:
        h, w = (side * self.encoder.patch_size for side in self._grid(picture, size))
        pixels = resize(picture.pixels, (h, w))[None].float() / 255
        levels = words = None
        if self.levels:
            tokens = self.encoder.encode_levels(pixels, self.levels)[0]
            levels = F.layer_norm(tokens, tokens.shape[-1:]).half().cpu()
        if self.words:
            words = self.words(pixels, picture.product)[0].half().cpu()
        return Seen(levels, words)

    def _cells(self, grid: int) -> int:
        return max(round(grid * self.encoder.patch_size / self.stride), 1)

    def _open(self, size: int, name: str, dtype: Any, count: int, shape: tuple[int, ...]) -> None:
        self._arrays[name, size] = self._array(f"{name}-{size}", dtype, count, shape)

    def _array(self, name: str, dtype: Any, count: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """The memory-mapped array [count, *shape] of that name, made where it is not there."""
        path, whole = self.folder / f"{name}.npy", (count, *shape)
        if not count:
            return np.empty(whole, dtype)
        if path.is_file():
            found = np.load(path, mmap_mode="r+")
            if found.shape == whole:
                return found
        (self.folder / "state.json").unlink(missing_ok=True)  # what was noted was of other arrays
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=whole)

    def _note(self, state: Path) -> None:
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        fresh = state.with_suffix(".part")
        fresh.write_text(json.dumps(self.products), encoding="utf-8")
        os.replace(fresh, state)

    def _make_room(self, wanted: int, limit: int) -> None:
        """Remove older caches until this one fits beside the rest, and see that the disk has the room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        os.utime(self.folder)
        others = sorted(self.folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        others = [path for path in others if path.is_dir() and path != self.folder]
        while others and wanted + sum(map(_bytes, others)) > limit:
            shutil.rmtree(others.pop(0))
        free = shutil.disk_usage(self.folder).free + _bytes(self.folder)
        if wanted > free:
            raise UsageError(
                f"the features need {wanted / 1e9:.1f} GB in {self.folder.parent}, where {free / 1e9:.1f} GB "
                "are free; set a smaller cache_gb, or $CLIPSAM_CACHE to a larger disk"
            )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _shares(picture: Picture, cells: tuple[int, int]) -> NDArray[np.uint8]:
    """How much of each cell [m, n] of the resized picture is defective, 255 for all of it.

    The fullest cell of a small defect is counted as full, so that no defective picture becomes a good one.
    """
    mask = torch.from_numpy(picture.mask.astype(np.float32))[None, None]
    shares = F.interpolate(mask, cells, mode="area")[0, 0]
    if 0 < shares.max() < 1:
        shares = torch.where(shares == shares.max(), 1.0, shares)
    return (shares * 255).round().to(torch.uint8).numpy()
