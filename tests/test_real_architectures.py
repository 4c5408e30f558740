"""The architectures of the big presets run through `segment`; random weights prove it for any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sam import shake
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

from clipsam.clip import ClipEncoder
from clipsam.presets import PRESETS
from clipsam.prompts import load_prompts
from clipsam.sam import SamRefiner
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import RegionSettings


@pytest.fixture(scope="module")
def sam_vit_base() -> SamRefiner:
    torch.manual_seed(0)
    model = SamModel(SamConfig())
    shake(model)
    return SamRefiner(model, SamProcessor(SamImageProcessor()), name="sam-vit-base (random)")


@pytest.mark.slow  # ViT-L and SAM ViT-B take about a minute on two cores
@pytest.mark.parametrize(
    ("preset", "architecture"),
    [("base", "ViT-B-16-plus-240"), ("large", "ViT-L-14-336-quickgelu")],
)
def test_the_papers_architectures_segment_a_non_square_photo(preset, architecture, sam_vit_base, tmp_path):
    encoder = ClipEncoder.random(architecture, cache_dir=tmp_path)
    # With random weights the map is near one half everywhere; low thresholds make SAM work all the same.
    settings = replace(
        PRESETS[preset], regions=RegionSettings(low=0.3, high=0.4, max_area=1.0, max_regions=2)
    )
    prompts = load_prompts("winclip")
    segmenter = AnomalySegmenter(settings, encoder, sam_vit_base, prompts, "bottle")
    photo = np.random.default_rng(0).integers(0, 256, (150, 230, 3), dtype=np.uint8)

    result = segmenter.segment(photo)

    assert result.anomaly_map.shape == result.coarse_map.shape == (150, 230)
    assert result.anomaly_map.dtype == np.float32
    assert 0 <= result.anomaly_map.min() <= result.anomaly_map.max() <= 1
    assert result.timings["sam"] > 0.1  # SAM was asked
    again = segmenter.segment(photo)
    np.testing.assert_array_equal(again.anomaly_map, result.anomaly_map)
