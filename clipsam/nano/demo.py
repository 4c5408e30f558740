"""A small batch of synthetic parts for `clipsam demo`: some flawless, some with clear, planted defects.

Input: how many, a seed, a size in px; output: rendered samples with their true masks. It does not inspect
them.
"""

from __future__ import annotations

import numpy as np

from clipsam.nano.corpus.compose import Sample, render
from clipsam.nano.corpus.defects import conspicuity

DEMO_PARTS: tuple[tuple[str, str | None], ...] = (
    ("bottle", "broken"),
    ("leather", "cut"),
    ("tablet", None),
    ("metal_plate", "scratch"),
    ("wood", "stain"),
    ("leather", None),
    ("cookie", "broken"),
    ("brushed", "corrosion"),
    ("bottle", None),
    ("tablet", "crack"),
    ("gear", "contamination"),
    ("metal_plate", None),
    ("tiles", "crack"),
    ("capsule", "hole"),
    ("wood", None),
)
"""Family of part and planted defect (None: flawless), in the order of the batch, which then begins anew."""

_TRIES = 5


def demo_parts(n: int = 12, seed: int = 0, size: int = 384) -> list[Sample]:
    """`n` samples of `size` x `size` px as DEMO_PARTS lists them, the same for the same arguments.

    A damaged part has one defect, the clearest of a few tries.
    """
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(n):
        family, defect = DEMO_PARTS[index % len(DEMO_PARTS)]
        seeds = [int(s) for s in rng.integers(1 << 40, size=_TRIES)]
        if defect is None:
            samples.append(render(seeds[0], size, size, families=(family,), p_normal=1.0))
        else:
            tries = (_damaged(s, family, defect, size) for s in seeds)
            samples.append(max(tries, key=_clarity))
    return samples


def _damaged(seed: int, family: str, defect: str, size: int) -> Sample:
    return render(seed, size, size, families=(family,), defects=(defect,), p_normal=0, max_defects=1)


def _clarity(sample: Sample) -> float:
    """How well the defect stands out from what surrounds it; 0 for specks and for what covers the part."""
    mask = sample.mask
    if not 0.002 < float(mask.mean()) < 0.12:
        return 0.0
    pixels = sample.image.astype(np.float32) / np.float32(255)
    x0, y0, x1, y1 = sample.instances[0].box_xyxy
    window = slice(max(0, y0 - 8), y1 + 8), slice(max(0, x0 - 8), x1 + 8)
    around = np.median(pixels[window][~mask[window]], axis=0)
    return conspicuity(np.broadcast_to(around, pixels.shape), pixels, mask)
