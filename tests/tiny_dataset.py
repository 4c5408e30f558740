"""A small dataset in MVTec's layout, drawn on the spot: grey photos with dark scratches and holes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage


def draw_category(folder: Path, seed: int = 0, photos: int = 3, size: tuple[int, int] = (40, 56)) -> Path:
    """`photos` good ones and as many of each defect; `size` is height and width."""
    rng = np.random.default_rng(seed)
    for defect in ("good", "scratch", "hole"):
        for number in range(photos):
            mask = np.zeros(size, bool)
            if defect == "scratch":
                row = rng.integers(4, size[0] - 4)
                mask[row : row + 2, 6 : 6 + rng.integers(8, 30)] = True
            elif defect == "hole":
                y, x = rng.integers(6, size[0] - 10), rng.integers(6, size[1] - 10)
                mask[y : y + 5, x : x + 6] = True
            noise = ndimage.gaussian_filter(rng.normal(size=size), 1.5) * 60
            grey = np.clip(170 + noise - 60 * mask, 0, 255).astype(np.uint8)
            _save(np.repeat(grey[:, :, None], 3, axis=2), folder / f"test/{defect}/{number:03}.png")
            if defect != "good":
                _save(mask.astype(np.uint8) * 255, folder / f"ground_truth/{defect}/{number:03}_mask.png")
    return folder


def darkness(pixels: np.ndarray) -> np.ndarray:
    """A method for these photos: dark is anomalous. Map [H, W] in [0, 1]."""
    return 1 - pixels.mean(axis=2).astype(np.float32) / 255


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
