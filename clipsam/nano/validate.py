"""How good a CLIP-nano is on rendered pictures that training never saw: the only figures that selection may
use.

Input: a loaded encoder and settings of the coarse map. Output: named percentages. Half of the pictures come
from held-out families. No real photo is read.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from clipsam.clip import ClipEncoder
from clipsam.heatmap import CoarseMap, coarse_map, text_targets
from clipsam.metrics import PixelMetrics
from clipsam.nano.corpus.compose import Corpus, Sample
from clipsam.prompts import PromptEnsemble, load_prompts
from clipsam.settings import HeatmapSettings


def validate(
    encoder: ClipEncoder,
    settings: HeatmapSettings,
    count: int = 64,
    seed: int = 0,
    side: int = 288,
    prompts: str = "industrial",
) -> dict[str, float]:
    """Score `count` validation pictures of `side` px: pixel and image metrics, and how often types
    are told apart.

    `type_accuracy`: of two defects of different types in one picture, the share of the named type is higher
    on its own. All in percent.
    """
    ensemble = load_prompts(prompts)
    metrics = PixelMetrics()
    ranked: list[bool] = []
    for sample in Corpus(count, seed, "validation", height=side, width=side):
        coarse = seen(encoder, ensemble, sample, settings)
        metrics.update(coarse.anomaly, sample.mask, image_score=float(coarse.anomaly.max()))
        ranked += told_apart(coarse, sample)
    result = metrics.compute()
    names = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pro", "image_auroc")
    scores = {name: round(100 * float(result[name]), 1) for name in names}
    scores["threshold"] = round(float(result["pixel_threshold"]), 3)
    return scores | {"type_accuracy": round(100 * float(np.mean(ranked)), 1)}


def seen(
    encoder: ClipEncoder, ensemble: PromptEnsemble, sample: Sample, settings: HeatmapSettings
) -> CoarseMap:
    """Return the coarse map of a rendered picture, its product named."""
    return coarse_map(
        sample.image, encoder, text_targets(encoder, ensemble.sentences(sample.product)), settings
    )


def told_apart(coarse: CoarseMap, sample: Sample) -> list[bool]:
    """For neighbouring defects of different types: is each one's own share higher on it than on the other?"""
    shares, answers = coarse.shares, list[bool]()
    for first, second in pairwise(sample.instances):
        if first.defect == second.defect:
            continue
        for own, other in ((first, second), (second, first)):
            grid = shares[coarse.defects.index(own.defect)]
            here, there = (mean_on(grid, one.mask) for one in (own, other))
            answers.append(bool(here > there))
    return answers


def mean_on(grid: np.ndarray, mask: np.ndarray) -> float:
    """Mean of a patch grid over the patches that a mask touches, weighted by how many of its pixels they
    hold.
    """
    height, width = grid.shape
    rows, columns = np.nonzero(mask)
    return float(grid[rows * height // mask.shape[0], columns * width // mask.shape[1]].mean())
