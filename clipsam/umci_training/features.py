"""Features of the frozen tower, computed once and kept on disk, memory-mapped: the tower runs once, not in
every epoch.

Input: an encoder and pictures. Output: `Features`: levels and masks of each picture at each scale. What does
not fit within the limit is encoded again whenever it is asked for, with the same result. A cache that was
interrupted goes on. Knows nothing of UMCI and of losses.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from clipsam.clip import ClipEncoder
from clipsam.errors import UsageError
from clipsam.heatmap import resize
from clipsam.umci_training.pictures import Picture, Pictures

FORMAT = 1
NOTED_EVERY = 16  # pictures after which the cache notes how far it is


class Features:
    """Levels float16 [s, h, w, c] and shares of defect uint8 [m, m] of every picture, by number and scale.

    Photos become squares, as in the field's trainings; `sizes` are their sides in px. `limit` is what levels
    may take on disk, in bytes, older caches in `folder` included: those go first.
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
    ) -> None:
        if not all(sizes):
            raise UsageError(
                f"sizes = {sizes}: 0 keeps each photo's own size; expected sizes in px to train at squares"
            )
        self.encoder, self.pictures, self.levels = encoder, pictures, levels
        self.sizes = {size: max(round(size / encoder.patch_size), 1) for size in sizes}
        self.stride = stride
        identity = {
            "format": FORMAT, "weights": encoder.weights_hash, "dtype": str(encoder.dtype), "levels": levels,
            "sizes": sizes, "stride": stride, "pictures": pictures.identity,
        }  # fmt: skip
        self.folder = folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        each = sum(2 * len(levels) * grid**2 * encoder.tower.width for grid in self.sizes.values())
        self.kept = min(len(pictures), limit // each)
        self._make_room(each * self.kept, limit)
        self.products: list[str] = []
        self._levels = {
            size: self._array(f"levels-{size}", np.float16, self.kept, self._shape(grid))
            for size, grid in self.sizes.items()
        }
        self._masks = {
            size: self._array(f"masks-{size}", np.uint8, len(pictures), (self._cells(grid),) * 2)
            for size, grid in self.sizes.items()
        }

    def fill(self, on_picture: Callable[[int], None] = lambda done: None) -> None:
        """Compute what is not there yet; `on_picture` is told how many pictures are done."""
        state = self.folder / "state.json"
        if state.is_file():
            self.products = json.loads(state.read_text("utf-8"))
        for index in range(len(self.products), len(self.pictures)):
            picture = self.pictures[index]
            for size, grid in self.sizes.items():
                self._masks[size][index] = _shares(picture, self._cells(grid))
                if index < self.kept:
                    self._levels[size][index] = self._encode(picture, grid)
            self.products.append(picture.product)
            if (index + 1) % NOTED_EVERY == 0 or index + 1 == len(self.pictures):
                self._note(state)
            on_picture(index + 1)

    def levels_of(self, index: int, size: int) -> Tensor:
        """Float16 [s, h, w, c], each token with mean 0 and variance 1."""
        if index < self.kept:
            return torch.from_numpy(np.array(self._levels[size][index]))
        return torch.from_numpy(self._encode(self.pictures[index], self.sizes[size]))

    def shares_of(self, index: int, size: int) -> Tensor:
        """Float32 [m, m], m = side / stride: how much of each cell is defective."""
        return torch.from_numpy(self._masks[size][index].astype(np.float32) / 255)

    def _encode(self, picture: Picture, grid: int) -> NDArray[np.float16]:
        side = grid * self.encoder.patch_size
        pixels = resize(picture.pixels, (side, side))[None].float() / 255
        tokens = self.encoder.encode_levels(pixels, self.levels)[0]
        return F.layer_norm(tokens, tokens.shape[-1:]).half().cpu().numpy()

    def _shape(self, grid: int) -> tuple[int, ...]:
        return len(self.levels), grid, grid, self.encoder.tower.width

    def _cells(self, grid: int) -> int:
        return max(round(grid * self.encoder.patch_size / self.stride), 1)

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
        for array in (*self._levels.values(), *self._masks.values()):
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


def _shares(picture: Picture, cells: int) -> NDArray[np.uint8]:
    """How much of each cell [m, m] of the squared picture is defective, 255 for all of it.

    The fullest cell of a small defect is counted as full, so that no defective picture becomes a good one.
    """
    mask = torch.from_numpy(picture.mask.astype(np.float32))[None, None]
    shares = F.interpolate(mask, (cells, cells), mode="area")[0, 0]
    if 0 < shares.max() < 1:
        shares = torch.where(shares == shares.max(), 1.0, shares)
    return (shares * 255).round().to(torch.uint8).numpy()
