"""`clipsam bench` on tiny models: its figures agree with each other, and its bare pass is open_clip's own."""

from __future__ import annotations

import json
from dataclasses import replace
from statistics import median

import numpy as np
import pytest
import torch
from tiny_clip import MEAN, STD, tiny_encoder
from tiny_sam import tiny_refiner
from typer.testing import CliRunner

from clipsam import presets
from clipsam.bare import bare_pass, bare_passes
from clipsam.bench import Bench, bench, bench_segmenter
from clipsam.cli import app
from clipsam.errors import UsageError, WeightsError
from clipsam.presets import ClipSpec, SamSpec
from clipsam.prompts import load_prompts
from clipsam.random_weights import random_clip, random_sam
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import HeatmapSettings, RegionSettings, SamSettings

MISSING = replace(
    presets.PRESETS["base"],
    clip=ClipSpec("nowhere-clip", folder="nowhere/clip", architecture="ViT-S-32-alt"),
    sam=SamSpec("nowhere-sam", folder="nowhere/sam"),
    heatmap=HeatmapSettings(sizes=(224, 64)),
)


FEW = """
title = "Two sentences: text towers are slow, and not what is measured"
normal_states = ["{}"]
templates = ["the {}"]
[provenance]
source = "this test"
licence = "CC0"
tuned_on = "nothing"
[[defect]]
name = "scratch"
states = ["scratched {}"]
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """One on which the base preset's weights are missing, and no cache is warm."""
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path))
    (tmp_path / "few.toml").write_text(FEW)
    monkeypatch.setitem(presets.PRESETS, "base", replace(MISSING, prompts=str(tmp_path / "few.toml")))
    nano = replace(presets.PRESETS["nano"], prompts=str(tmp_path / "few.toml"))
    monkeypatch.setitem(presets.PRESETS, "nano", nano)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def tiny(tmp_path, sam: bool) -> AnomalySegmenter:
    preset = replace(presets.PRESETS["nano"], heatmap=HeatmapSettings(sizes=(32, 64)))
    encoder = tiny_encoder(cache_dir=tmp_path)
    return AnomalySegmenter(preset, encoder, tiny_refiner() if sam else None, load_prompts("winclip"), "part")


def consistent(found: Bench) -> None:
    assert found.overhead == median(ours / bare for ours, bare in found.rounds)
    assert found.segment == median(ours for ours, _ in found.rounds)
    assert found.photos_per_second == pytest.approx(1e3 / found.segment)
    assert min(found.stages.values()) >= 0
    assert found.threads == torch.get_num_threads()


@pytest.mark.parametrize("sam", [True, False])
def test_stages_add_up_and_the_overhead_is_the_ratio(tmp_path, pixels, sam):
    found = bench(tiny(tmp_path, sam), pixels, rounds=1)
    consistent(found)
    assert sum(found.stages.values()) == pytest.approx(found.segment)
    assert found.bare_clip + found.bare_sam == pytest.approx(found.rounds[0][1])
    assert found.overhead_once == pytest.approx(found.segment / (found.bare_clip + found.bare_sam_once))
    assert found.processor_overhead == found.processor_rounds[0][0] / found.processor_rounds[0][1] > 0
    assert found.passes == ((1, 3, 24, 32), (1, 3, 48, 64))
    assert (found.size, found.sam, found.random_weights) == ((48, 64), sam, ())
    # With SAM it is asked, however quiet the map; without, it costs nothing and is not counted.
    assert (found.regions > 0) == (found.bare_sam > 0) == (found.bare_sam_once > 0) == sam
    assert sum(found.questions) == 3 * found.regions  # by points, box, both
    assert found.embeddings == sam
    assert (found.stages["sam"] > 0.1) == sam
    assert len(bench(tiny(tmp_path, sam), pixels, rounds=3).rounds) == 3


def test_no_rounds_are_refused(tmp_path, pixels):
    with pytest.raises(UsageError, match="at least 1"):
        bench(tiny(tmp_path, False), pixels, rounds=0)


@pytest.mark.parametrize("tower", ["native", "siglip"])
def test_the_bare_pass_is_encode_image_and_goes_on_at_other_sizes(tmp_path, tower):
    encoder = tiny_encoder(tower, cache_dir=tmp_path)
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    with torch.inference_mode():
        plain = encoder.model.encode_image((pixels - mean) / std)
        torch.testing.assert_close(bare_pass(encoder, (pixels - mean) / std), plain)
        large = torch.nn.functional.interpolate(pixels, size=(64, 48))
        found = torch.nn.functional.normalize(bare_pass(encoder, (large - mean) / std), dim=-1)
    torch.testing.assert_close(found, encoder.encode_pixels(large, "plain").pooled, atol=1e-5, rtol=0)


def test_the_bare_passes_are_those_that_segment_makes(tmp_path, pixels):
    """With every region on a crop of its own: SAM's network is given the very same numbers, as often."""
    segmenter = tiny(tmp_path, sam=True)
    peaks = RegionSettings(low=0.0, high=0.0, max_regions=2, max_area=1.0)
    preset = replace(segmenter.preset, regions=peaks, sam_settings=SamSettings(crop=10_000, crop_context=1.5))
    segmenter = AnomalySegmenter(preset, segmenter.clip, segmenter.sam, segmenter.prompts, "part")
    seen: list[list[torch.Tensor]] = [[], []]
    model = segmenter.sam.model

    def note(_module, _args, named):
        given = named.get("pixel_values", named.get("input_boxes"))
        seen[-1].append(given if given is not None else named["input_points"])

    def note_picture(_module, args):
        seen[-1].append(args[0])

    clip, sam = bare_passes(segmenter, pixels)
    hooks = [
        model.register_forward_pre_hook(note, with_kwargs=True),
        model.vision_encoder.register_forward_pre_hook(note_picture),
    ]
    seen.clear()
    for way in (lambda: segmenter.segment(pixels), lambda: (sam.embed(), sam.decode())):
        seen.append([])
        with torch.inference_mode():
            way()
    for hook in hooks:
        hook.remove()
    plain, bare = (sorted(calls, key=lambda call: call.ndim) for calls in seen)
    assert [tuple(call.shape) for call in plain] == [tuple(call.shape) for call in bare]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(plain, bare, strict=True))
    assert len(sam.pictures) + len(sam.questions) == len(bare) >= 4
    assert [tuple(crop.shape) for crop in clip.crops] == [(1, 3, 24, 32), (1, 3, 48, 64)]


def test_random_weights_only_where_real_ones_are_missing():
    with pytest.raises(WeightsError, match="nowhere-clip"):
        bench_segmenter("base", sam=False)
    segmenter, drawn = bench_segmenter("base", sam=False, random_weights=True)
    assert (drawn, segmenter.sam) == (("nowhere-clip",), None)
    assert segmenter.clip.name == "ViT-S-32-alt (random, seed 0)"
    with pytest.raises(UsageError, match="nowhere-sam cannot be drawn"):
        bench_segmenter("base", random_weights=True)
    segmenter, drawn = bench_segmenter("nano", sam=False, random_weights=True)
    assert (drawn, segmenter.clip.name) == ((), "nano-clip")


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(UsageError, match="tipsv2-l14 cannot be drawn"):
        random_clip(presets.TIPS.clip)
    with pytest.raises(UsageError, match="webli cannot be drawn"):
        random_clip(presets.SIGLIP2.clip)


def test_a_drawn_sam_has_the_architecture_of_its_name():
    refiner = random_sam(presets.SMALL.sam)
    assert refiner.name == "sam2.1-hiera-tiny (random, seed 0)"
    weights = sum(weight.numel() for weight in refiner.model.vision_encoder.parameters())
    assert weights == pytest.approx(27e6, rel=0.03)  # Hiera tiny and its neck, as published


def test_the_command_prints_json_and_a_table():
    words = ["bench", "--preset", "base", "--random-weights", "--no-sam", "--size", "64", "--rounds", "2"]
    done = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert "nowhere-clip is not on this machine" in done.stderr
    assert found["random_weights"] == ["nowhere-clip"]
    assert found["overhead"] == pytest.approx(median(ours / bare for ours, bare in found["rounds"]))
    assert (found["size"], found["sam"], len(found["rounds"])) == ([64, 64], False, 2)
    assert found["passes"] == [[1, 3, 224, 224], [1, 3, 64, 64]]
    assert list(found["manifest"]["weights"]) == ["ViT-S-32-alt (random, seed 0)"]
    shown = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert "overhead" in shown
    assert "photos per second" in shown
    assert "bare SAM" not in shown
