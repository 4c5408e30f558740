"""SAM 3 asked by words; the oracle is a plain call of transformers' model, processor and post-processing."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_sam_backends import tiny_sam3_video
from tiny_clip import tiny_encoder
from tiny_sam import tiny
from transformers import CLIPTokenizer, Sam3ImageProcessor, Sam3Model, Sam3Processor

from clipsam.errors import WeightsError
from clipsam.presets import ClipSpec, Preset, SamSpec
from clipsam.prompts import load_prompts
from clipsam.sam3_map import Sam3TextMap
from clipsam.scoring import for_product
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import RegionSettings

DEFECTS = ("scratch", "oil stain", "hole")


def processor() -> Sam3Processor:
    """Letters as tokens."""
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=[])
    return Sam3Processor(Sam3ImageProcessor(size={"height": 64, "width": 64}), tokenizer)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM 3 as on the hub: detector and tracker in one file."""
    folder = tmp_path_factory.mktemp("sam3")
    tiny_sam3_video().save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


@cache
def photo() -> Any:
    blocks = np.random.default_rng(2).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    return blocks.repeat(8, axis=0).repeat(8, axis=1)


@torch.no_grad()
def plain(folder: Path, text: str) -> tuple[Any, float]:
    """Highest score times mask over all instances, from transformers' post-processing at all thresholds."""
    model, own = Sam3Model.from_pretrained(folder), Sam3Processor.from_pretrained(folder)
    output = model.eval()(**own(images=photo(), text=text, return_tensors="pt"))
    found = own.post_process_instance_segmentation(output, threshold=-1.0)[0]
    scores = found["scores"]
    masks = output.pred_masks[0].sigmoid()
    assert len(scores) == len(masks)
    return (scores[:, None, None] * masks).amax(dim=0).numpy(), float(scores.max())


def test_each_type_is_a_plain_call_with_its_name(published: Path) -> None:
    coarse = Sam3TextMap.from_spec(SamSpec("mine", folder=str(published))).coarse_map(photo(), DEFECTS)
    expected = [plain(published, defect) for defect in DEFECTS]
    assert coarse.defects == DEFECTS
    for grid, (answer, _) in zip(coarse.types, expected, strict=True):
        np.testing.assert_allclose(grid, answer, atol=1e-5)
    assert np.abs(coarse.types[0] - coarse.types[1]).max() > 1e-4  # the words matter
    assert coarse.image_score == pytest.approx(max(score for _, score in expected), abs=1e-6)
    assert (coarse.anomaly.shape, coarse.anomaly.dtype) == ((56, 88), np.float32)
    assert 0 <= coarse.anomaly.min() < coarse.anomaly.max() <= coarse.types.max() + 1e-6


def test_a_preset_that_names_sam3_takes_its_map_in_place_of_clips(published: Path, tmp_path: Path) -> None:
    text_map = Sam3TextMap.from_spec(SamSpec("sam3", folder=str(published)))
    preset = Preset("mine", "", ClipSpec("tiny"), None, regions=RegionSettings(high=1.0))
    prompts = load_prompts("industrial")
    clip = tiny_encoder(cache_dir=tmp_path)
    segmenter = AnomalySegmenter(preset, clip, None, prompts, "bottle", text_map=text_map)
    expected = text_map.coarse_map(photo(), segmenter.targets.defects).anomaly
    for one in (segmenter, for_product(segmenter, "cable")):
        np.testing.assert_array_equal(one.segment(photo()).coarse_map, expected)
    assert set(segmenter.manifest()["weights"]) == {clip.name, "sam3"}
    plain_clip = AnomalySegmenter(preset, clip, None, prompts, "bottle").segment(photo()).coarse_map
    assert np.abs(plain_clip - expected).max() > 0.01
    wanted = replace(preset, text_map=SamSpec("sam3", folder=str(published)))
    assert wanted.text_map in wanted.models


def test_other_models_have_no_text_map(tmp_path: Path) -> None:
    model, own = tiny("sam3_tracker")
    model.save_pretrained(tmp_path)
    own.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="model_type 'sam3_tracker'; expected one of: sam3, sam3_video"):
        Sam3TextMap.from_spec(SamSpec("mine", folder=str(tmp_path)))
