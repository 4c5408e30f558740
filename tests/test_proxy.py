"""The second encoder against plain calls of transformers; its weights; its way through a segmenter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_clip import save_tiny_clip
from tiny_dino import KINDS, MEAN, STD, save_tiny_dino, tiny_dino, tiny_proxy

from clipsam.errors import WeightsError
from clipsam.presets import DINOV2_BASE, PRESETS, ClipSpec, Preset, ProxySpec
from clipsam.proxy import ProxyEncoder
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import HeatmapSettings


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_transformers_own_patches(kind: str) -> None:
    proxy, side = tiny_proxy(kind), KINDS[kind][2]["patch_size"]
    pixels = torch.rand(2, 3, 3 * side, 4 * side)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.no_grad():
        tokens = tiny_dino(kind)(pixel_values=(pixels - mean) / std).last_hidden_state
    expected = F.normalize(tokens[:, -12:], dim=-1)  # patches come last, row by row
    torch.testing.assert_close(proxy.features(pixels, (3, 4)), expected)


def test_any_picture_gets_the_grid_that_is_asked_for() -> None:
    proxy = tiny_proxy()
    large = torch.rand(1, 3, 5, 6).repeat_interleave(16, 2).repeat_interleave(16, 3)
    small = F.interpolate(large, (35, 42), mode="bicubic", antialias=True).clamp(0, 1)
    assert proxy.features(large, (5, 6)).shape == (1, 30, 16)
    torch.testing.assert_close(proxy.features(large, (5, 6)), proxy.features(small, (5, 6)))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_folder(kind: str, tmp_path: Path) -> None:
    spec = ProxySpec("tiny-dino", folder=str(save_tiny_dino(tmp_path / "dino", kind, seed=3)))
    loaded = ProxyEncoder.from_spec(spec)
    pixels = torch.rand(1, 3, 32, 40)
    torch.testing.assert_close(
        loaded.features(pixels, (4, 5)), tiny_proxy(kind, seed=3).features(pixels, (4, 5))
    )
    assert loaded.name == "tiny-dino"
    assert len(loaded.weights_hash) == 64


def test_other_families_and_missing_weights_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_dino(tmp_path / "dino")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}))
    with pytest.raises(WeightsError, match="'bert'; expected one of: dinov2, dinov2_with_registers, dinov3"):
        ProxyEncoder.from_spec(ProxySpec("tiny-dino", folder=str(folder)))
    with pytest.raises(WeightsError, match="not on this machine"):
        ProxyEncoder.from_spec(ProxySpec("tiny-dino", folder=str(tmp_path / "none")))


def test_a_preset_loads_its_proxy_where_its_attention_needs_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path))
    stored = Preset(
        "tiny",
        "random weights",
        clip=ClipSpec("tiny-clip", folder=str(save_tiny_clip(tmp_path / "clip"))),
        sam=None,
        proxy=ProxySpec("tiny-dino", folder=str(save_tiny_dino(tmp_path / "dino"))),
        heatmap=HeatmapSettings(attention="clear", sizes=(64,)),
    )
    asked = replace(stored, heatmap=replace(stored.heatmap, attention="proxy"))
    without, with_proxy = (AnomalySegmenter.from_preset(each, device="cpu") for each in (stored, asked))
    assert [spec.name for spec in stored.models] == list(without.manifest()["weights"]) == ["tiny-clip"]
    assert [spec.name for spec in asked.models] == list(with_proxy.manifest()["weights"])
    assert "tiny-dino" in with_proxy.manifest()["weights"]
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    maps = [segmenter.segment(photo).anomaly_map for segmenter in (without, with_proxy)]
    assert np.abs(maps[0] - maps[1]).max() > 1e-4


def test_shipped_presets_need_no_proxy() -> None:
    assert all("dinov2-base" not in [s.name for s in preset.models] for preset in PRESETS.values())


def test_missing_weights_of_the_hub_say_how_to_get_them(tmp_path: Path, monkeypatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("CLIPSAM_MODELS", raising=False)
    with pytest.raises(WeightsError, match="hf download facebook/dinov2-base"):
        ProxyEncoder.from_spec(DINOV2_BASE)
    save_tiny_dino(tmp_path / "pack" / "dinov2-base")
    assert ProxyEncoder.from_spec(DINOV2_BASE, models_dir=tmp_path / "pack").patch_size == 7
