"""The architectures of the big presets run through `segment`; random weights prove it for any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
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


@pytest.mark.slow  # two passes of ViT-L
@pytest.mark.parametrize("architecture", ["ViT-B-16-plus-240", "ViT-L-14-336-quickgelu"])
def test_v_v_features_equal_a_direct_computation(architecture, tmp_path):
    encoder = ClipEncoder.random(architecture, cache_dir=tmp_path)
    pixels = torch.rand(1, 3, *encoder.image_size, generator=torch.Generator().manual_seed(1))
    ours = encoder.encode_pixels(pixels, "v-v", blocks=6).patches[0]
    with torch.no_grad():
        direct = direct_v_v(encoder.model.visual, pixels, last=6)
    torch.testing.assert_close(ours.flatten(0, 1), direct, atol=1e-4, rtol=0)


def direct_v_v(visual, pixels: torch.Tensor, last: int) -> torch.Tensor:
    """Dense features [n, d] at the native size, head by head through open_clip's own blocks."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    patches = visual.conv1((pixels - mean) / std)[0].flatten(1).T
    x = visual.ln_pre(torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding)
    dense = x
    for number, block in enumerate(visual.transformer.resblocks):
        if number >= len(visual.transformer.resblocks) - last:
            weight, bias = block.attn.in_proj_weight.chunk(3)[2], block.attn.in_proj_bias.chunk(3)[2]
            values = F.linear(block.ln_1(x), weight, bias)
            heads = values.chunk(block.attn.num_heads, dim=-1)
            attended = [torch.softmax(v @ v.T / v.shape[-1] ** 0.5, dim=-1) @ v for v in heads]
            dense = dense + block.attn.out_proj(torch.cat(attended, dim=-1))
        x = block(x[None])[0]
        if number < len(visual.transformer.resblocks) - last:
            dense = x
    return F.normalize(visual.ln_post(dense[1:]) @ visual.proj, dim=-1)
