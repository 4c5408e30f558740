"""A small batch of synthetic parts for `clipsam demo`: some flawless, some with clear, planted defects.

Input: how many, a seed, a size in px; output: rendered samples with their true masks. It does not inspect
them.
"""

from __future__ import annotations

import numpy as np

from clipsam.nano.corpus.compose import Sample, render
from clipsam.nano.corpus.families import TRAIN_OBJECTS, TRAIN_SURFACES

DEMO_DEFECTS = (
    "scratch",
    "crack",
    "hole",
    "broken",
    "stain",
    "contamination",
    "dent",
    "cut",
    "corrosion",
    "glue",
)
_TRIES = 12


def demo_parts(n: int = 12, seed: int = 0, size: int = 384) -> list[Sample]:
    """`n` samples of `size` x `size` px, the same for the same arguments: every third one is flawless, the
    others have one clearly visible defect of one of DEMO_DEFECTS each.
    """
    rng = np.random.default_rng(seed)
    names = (*TRAIN_OBJECTS, *TRAIN_SURFACES)
    order = rng.permutation(len(names))
    samples = []
    for index in range(n):
        family = names[int(order[index % len(order)])]
        if index % 3 == 2:
            samples.append(render(int(rng.integers(1 << 40)), size, size, families=(family,), p_normal=1.0))
        else:
            samples.append(_with_defect(rng, family, DEMO_DEFECTS[index % len(DEMO_DEFECTS)], size))
    return samples


def _with_defect(rng: np.random.Generator, family: str, defect: str, size: int) -> Sample:
    """The clearest of a few tries: a defect of a fair size that stands out from what surrounds it."""
    tries = [
        render(
            int(rng.integers(1 << 40)),
            size,
            size,
            families=(family,),
            defects=(defect,),
            p_normal=0,
            max_defects=1,
        )
        for _ in range(_TRIES)
    ]
    return max(tries, key=_clarity)


def _clarity(sample: Sample) -> float:
    mask = sample.mask
    share = float(mask.mean())
    if not 0.002 < share < 0.12:
        return 0.0
    x0, y0, x1, y1 = sample.instances[0].box_xyxy
    pad = 8
    window = slice(max(0, y0 - pad), y1 + pad), slice(max(0, x0 - pad), x1 + pad)
    inside, pixels = mask[window], sample.image[window].astype(np.float32)
    around = pixels[~inside]
    return float(np.abs(pixels[inside].mean(axis=0) - around.mean(axis=0)).max() / (20 + around.std()))
