"""Every backend, from files in the hub's format to masks; the oracle is a plain call of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_sam import FAMILIES, plain_answers, shake, tiny, tracker_vision
from transformers import (
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3TrackerVideoConfig,
    Sam3VideoConfig,
    Sam3VideoModel,
)

from clipsam.errors import WeightsError
from clipsam.presets import SamSpec
from clipsam.regions import region_prompts
from clipsam.sam import SamRefiner
from clipsam.sam_backends import BACKENDS, backend_of
from clipsam.settings import SamSettings

BOX = SamSettings(kinds=("box",), min_agreement=0.0, swallow=1e9)


def photo() -> tuple[Any, Any, Any]:
    random = np.random.default_rng(5)
    pixels = random.integers(0, 256, (12, 18, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    ys, xs = np.mgrid[:96, :144]
    coarse = (0.1 + 0.8 * np.exp(-((ys - 40) ** 2 + (xs - 60) ** 2) / 300)).astype(np.float32)
    return pixels, coarse, region_prompts(coarse)


def plain(model: Any, processor: Any) -> tuple[Any, Any]:
    pixels, _, prompts = photo()
    return plain_answers(model, processor, pixels, None, None, list(prompts[0].box_xyxy))


def differ(refiner: SamRefiner, answers: Any) -> float:
    """How far the refiner's mask is from the nearest of three plain answers."""
    pixels, coarse, prompts = photo()
    (mask,) = refiner.refine(pixels, prompts, coarse, BOX)
    x0, y0, x1, y1 = mask.window
    return min(float(np.abs(answer[y0:y1, x0:x1] - mask.probability).max()) for answer in answers)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_loaded_as_its_own_class_and_answers_alike(family: str, tmp_path: Path) -> None:
    model, processor = tiny(family)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == family
    refiner = SamRefiner.from_spec(SamSpec("mine", folder=str(tmp_path)))
    assert refiner.backend is BACKENDS[family]
    assert differ(refiner, plain(model, processor)[0]) < 1e-4
    for other in set(FAMILIES) - {family}:
        assert differ(refiner, plain(*tiny(other))[0]) > 1e-2


def test_edgetam_as_published_is_a_video_model(tmp_path: Path) -> None:
    model, processor = tiny("edgetam")
    small = {"perceiver_resampler_hidden_size": 32, "perceiver_resampler_mlp_intermediate_size": 32}
    memory = {
        "memory_attention_hidden_size": 32,
        "memory_attention_num_layers": 1,
        "memory_attention_num_attention_heads": 1,
        "memory_attention_downsample_rate": 1,
        "memory_attention_mlp_hidden_size": 32,
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 32,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 32,
        "mask_downsampler_embed_dim": 32,
        "image_size": 64,
    }
    parts = {part: model.config.to_dict()[part] for part in ("prompt_encoder_config", "mask_decoder_config")}
    config = EdgeTamVideoConfig(vision_config=model.config.vision_config, **parts, **memory, **small)
    torch.manual_seed(3)
    video = EdgeTamVideoModel(config)
    shake(video)
    video.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "edgetam_video"
    refiner = SamRefiner.from_spec(SamSpec("mine", folder=str(tmp_path)))
    assert refiner.backend.model_class == "EdgeTamModel"
    weights = video.state_dict()
    assert all(
        torch.equal(tensor, weights[name])
        for name, tensor in refiner.model.state_dict().items()
        if "num_batches" not in name
    )


def tiny_sam3_video() -> Sam3VideoModel:
    """SAM 3 as published: detector and tracker in one file."""
    small = {"hidden_size": 32, "num_attention_heads": 2}
    layers = small | {"num_layers": 1, "intermediate_size": 32}
    detector = Sam3Config(
        vision_config=tracker_vision(64),
        text_config=small
        | {
            "model_type": "clip_text_model",
            "vocab_size": 600,
            "intermediate_size": 32,
            "projection_dim": 16,
            "num_hidden_layers": 1,
            "max_position_embeddings": 32,
        },
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config=layers | {"num_queries": 5},
        mask_decoder_config=small,
    )
    parts = tiny("sam3_tracker")[0].config.to_dict()
    tracker = Sam3TrackerVideoConfig(
        vision_config=tracker_vision(64),
        prompt_encoder_config=parts["prompt_encoder_config"],
        mask_decoder_config=parts["mask_decoder_config"],
        image_size=64,
        memory_attention_hidden_size=32,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_downsample_rate=1,
        memory_encoder_hidden_size=32,
        memory_encoder_output_channels=32,
        memory_fuser_embed_dim=32,
        memory_fuser_num_layers=1,
        memory_fuser_intermediate_dim=32,
        mask_downsampler_embed_dim=32,
    )
    torch.manual_seed(4)
    video = Sam3VideoModel(Sam3VideoConfig(detector_config=detector, tracker_config=tracker))
    shake(video)
    return video


def test_sam3_as_published_holds_the_tracker_beside_the_detector(tmp_path: Path) -> None:
    video = tiny_sam3_video()
    video.save_pretrained(tmp_path)
    tiny("sam3_tracker")[1].save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "sam3_video"
    refiner = SamRefiner.from_spec(SamSpec("mine", folder=str(tmp_path)))
    assert refiner.backend.model_class == "Sam3TrackerModel"
    published = video.state_dict()
    for name, tensor in refiner.model.state_dict().items():
        place = f"tracker_model.{name}"
        for own, theirs in (("backbone", "detector_model.vision_encoder.backbone"), ("neck", "tracker_neck")):
            if name.startswith(f"vision_encoder.{own}."):
                place = name.replace(f"vision_encoder.{own}", theirs)
        assert torch.equal(tensor, published[place]), name
    assert isinstance(tiny("sam3_tracker")[1].image_processor, Sam3ImageProcessor)


def test_a_model_whose_class_does_not_fit_its_config_is_refused() -> None:
    model = tiny("sam")[0]
    config = type("Config", (), {"model_type": "sam2"})()
    other = type("SamModel", (), {"config": config})()
    assert backend_of(model, "mine") is BACKENDS["sam"]
    with pytest.raises(WeightsError, match="SamModel with a config of 'sam2'; expected Sam2Model"):
        backend_of(other, "mine")
