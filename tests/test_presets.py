"""Presets: the four pairs, that they match open_clip's own table, and which one is the default."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest
import tiny_hub

from clipsam import presets
from clipsam.errors import UsageError, WeightsError
from clipsam.presets import PRESETS, RANKED, ClipSpec, SamSpec, choose_preset, get_preset


@pytest.fixture(autouse=True)
def nothing_cached(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("CLIPSAM_MODELS", raising=False)
    return tmp_path / "hub"


def put_pair(cache_dir, tmp_path, preset):
    """Files with the right names are what counts here; nothing is loaded."""
    clip, sam = tmp_path / "clip", tmp_path / "sam"
    for folder, names in (
        (clip, ["open_clip_model.safetensors"]),
        (sam, ["config.json", "preprocessor_config.json", "model.safetensors"]),
    ):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_text("{}")
    tiny_hub.put_into_cache(cache_dir, preset.clip.repo, clip)
    tiny_hub.put_into_cache(cache_dir, preset.sam.repo, sam)


def test_names_and_pairs():
    assert [preset.name for preset in RANKED] == ["nano", "small", "base", "large"]
    assert list(PRESETS)[:4] == ["nano", "small", "base", "large"]
    pairs = {name: (p.clip.name, p.sam.name) for name, p in PRESETS.items()}
    assert pairs["large"] == ("ViT-L-14-336.openai", "sam-vit-huge")
    assert pairs["base"] == ("ViT-B-16-plus-240.laion400m_e31", "sam-vit-base")
    assert pairs["small"] == ("ViT-B-16.openai", "sam2.1-hiera-tiny")
    assert len({spec.name for p in RANKED for spec in p.models}) == 8
    assert all(
        preset.prompts == "industrial" and 0 < preset.pixel_threshold < 1 for preset in PRESETS.values()
    )
    with pytest.raises(FrozenInstanceError):
        PRESETS["nano"].name = "other"


BUILT_IN = ["small", "base", "large", "laion", "datacomp", "siglip2", "mobileclip2"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_specs_agree_with_open_clip(name):
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    clip = PRESETS[name].clip
    config, entry = (
        open_clip.get_model_config(clip.architecture),
        get_pretrained_cfg(clip.architecture, clip.tag),
    )
    assert entry["hf_hub"].rstrip("/") == clip.repo
    activations = entry.get("quick_gelu", False), config.get("quick_gelu", False)
    assert activations == ((clip.quick_gelu or False),) * 2
    assert clip.own_tokenizer == ("hf_tokenizer_name" in config["text_cfg"])
    if name in ("small", "base", "large"):
        # What a tag is called and what its repository holds may differ; ours carry the repository's name.
        assert clip.repo.endswith(clip.tag)
    patch = config["vision_cfg"].get("patch_size", 16)  # towers of timm do not say it; these have 16
    assert all(size % patch == 0 for size in PRESETS[name].heatmap.sizes)


def test_sizes_are_those_of_the_architectures():
    import open_clip
    import torch

    for name in BUILT_IN:
        clip = PRESETS[name].clip
        config = open_clip.get_model_config(clip.architecture)
        kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
        with torch.device("meta"):
            model = kind(**config)
        size = 4 * sum(parameter.numel() for parameter in model.parameters())
        assert abs(size - clip.size) < 0.01 * size


def test_unknown_preset():
    with pytest.raises(UsageError, match=r"no preset 'huge'; choose one of: nano, small, base, large"):
        get_preset("huge")


def test_default_is_nano_when_nothing_else_is_here():
    choice = choose_preset()
    assert choice.preset is PRESETS["nano"]
    assert "nano" in choice.reason
    assert "no larger pair" in choice.reason


def test_default_is_the_best_complete_pair(nothing_cached, tmp_path):
    put_pair(nothing_cached, tmp_path, PRESETS["small"])
    assert choose_preset().preset is PRESETS["small"]
    put_pair(nothing_cached, tmp_path, PRESETS["base"])
    choice = choose_preset()
    assert choice.preset is PRESETS["base"]
    assert choice.reason == "preset base, the best pair on this machine (hub cache)"
    for path in nothing_cached.glob("models--facebook--sam-vit-base/snapshots/*/model.safetensors"):
        path.unlink()
    assert choose_preset().preset is PRESETS["small"]


def test_asking_wins_over_what_is_here(nothing_cached, tmp_path):
    put_pair(nothing_cached, tmp_path, PRESETS["small"])
    choice = choose_preset("large")
    assert choice.preset is PRESETS["large"]
    assert "as asked for" in choice.reason


def test_a_models_directory_that_does_not_exist_is_said(tmp_path):
    with pytest.raises(WeightsError, match="no directory"):
        choose_preset(None, tmp_path / "nowhere")


def test_models_of_a_preset_without_sam():
    preset = replace(PRESETS["base"], sam=None)
    assert preset.models == (preset.clip,)
    assert (ClipSpec.kind, SamSpec.kind) == ("clip", "sam")
    assert presets.EMBEDDED.name == "weights"


def test_import_is_light():
    code = (
        "import sys, clipsam.presets, clipsam.locations; "
        "print([m for m in ('torch', 'open_clip', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
