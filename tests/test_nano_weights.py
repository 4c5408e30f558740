"""The shipped pair: small, whole, loaded like any other, and driven by words, on rendered pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from clipsam.nano.corpus.compose import Corpus, render
from clipsam.nano.models import WEIGHTS
from clipsam.packs import verify_pack
from clipsam.segmenter import AnomalySegmenter

PAIRS = [("hole", "discolouration", 0.7), ("discolouration", "crack", 0.6), ("discolouration", "thread", 0.6)]
"""Two types, and the least share of pairs of pictures that their named maps must rank right (chance: 0.5)."""


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> AnomalySegmenter:
    patch = pytest.MonkeyPatch()
    patch.setenv("CLIPSAM_CACHE", str(tmp_path_factory.mktemp("cache")))
    segmenter = AnomalySegmenter.from_preset("nano", product="part", device="cpu")
    patch.undo()
    return segmenter


def test_both_models_fit_into_25_megabytes():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 25e6


def test_every_file_is_the_one_that_was_recorded():
    checks = verify_pack(WEIGHTS)
    assert {Path(check.file).suffix for check in checks} >= {".safetensors", ".json"}
    assert not [check for check in checks if check.differs]


def test_rendered_defects_that_training_never_saw_stand_out(nano):
    inside, whole = [], []
    for sample in Corpus(12, 5, "validation", height=256, width=256, p_normal=0):
        if sample.instances and sample.mask.mean() < 0.2:
            anomaly = nano.segment(sample.image).coarse_map
            inside.append(anomaly[sample.mask].mean())
            whole.append(anomaly[~sample.mask].mean())
    assert len(inside) >= 6
    assert np.mean(np.greater(inside, whole)) >= 0.8


@pytest.mark.parametrize(("one", "other", "least"), PAIRS)
def test_a_prompt_answers_to_its_own_kind_of_defect(nano, one, other, least):
    """The margin between two named maps ranks pictures of the one above pictures of the other."""
    margins, is_one = [], []
    for number in range(24):
        kind = (one, other)[number % 2]
        sample = render(10**9 + number, 256, 256, defects=(kind,), p_normal=0, max_defects=1)
        if sample.instances:
            margins.append(margin(nano, sample.image, sample.mask, one, other))
            is_one.append(kind == one)
    assert roc_auc_score(is_one, margins) >= least


def margin(nano: AnomalySegmenter, image: np.ndarray, mask: np.ndarray, one: str, other: str) -> float:
    """Mean difference of the log odds of two types' maps on the patches of a defect."""
    from clipsam.heatmap import coarse_map

    seen = coarse_map(image, nano.clip, nano.targets, nano.preset.heatmap)
    logits = np.log(seen.types) - np.log1p(-seen.types)
    height, width = logits.shape[1:]
    rows, columns = np.nonzero(mask)
    here = logits[:, rows * height // mask.shape[0], columns * width // mask.shape[1]].mean(axis=1)
    return float(here[seen.defects.index(one)] - here[seen.defects.index(other)])


def test_half_the_digits_give_the_same_map():
    """In bfloat16, which is faster on many processors."""
    photo = render(3, 256, 256, p_normal=0.0).image
    maps = [
        AnomalySegmenter.from_preset("nano", product="part", sam=False, dtype=dtype).segment(photo).coarse_map
        for dtype in ("float32", "bfloat16")
    ]
    assert np.abs(maps[0] - maps[1]).max() < 0.03
