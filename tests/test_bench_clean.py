"""The gate before SAM, measured: what is quiet is never embedded, and both ways give the same maps."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from tiny_clip import tiny_encoder
from tiny_sam import tiny_refiner

from clipsam import presets
from clipsam.prompts import load_prompts
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import HeatmapSettings


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[1] / "eval" / "bench_clean.py"
    spec = importlib.util.spec_from_file_location("bench_clean", path)
    assert spec
    assert spec.loader
    module = sys.modules["bench_clean"] = importlib.util.module_from_spec(spec)  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_only_the_loudest_photos_cost_an_embedding_and_no_map_changes(
    bench: ModuleType, tmp_path: Path
) -> None:
    preset = replace(presets.PRESETS["nano"], heatmap=HeatmapSettings(sizes=(32,)))
    segmenter = AnomalySegmenter(
        preset, tiny_encoder(cache_dir=tmp_path), tiny_refiner(), load_prompts("winclip"), "part"
    )
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (32, 40, 3), dtype=np.uint8) for _ in range(10)]
    found = bench.measure(segmenter, photos, clean=0.8)
    assert (found["flagged"], found["compared"], found["identical"]) == (2, 10, 10)
    assert found["embeddings"] == {"gated": 2, "always": 10}
    seconds = found["seconds_per_photo"]
    assert found["times_faster"] == pytest.approx(seconds["always"] / seconds["gated"])
    assert 1 < found["at_most"] < 1 / 0.2
    assert found["manifest"]["regions"]["high"] > found["manifest"]["regions"]["low"] * 0.99
    everything = bench.measure(segmenter, photos[:3], clean=0.0)
    assert (everything["flagged"], everything["embeddings"]) == (3, {"gated": 3, "always": 3})
    some = bench.measure(segmenter, photos, clean=0.8, always=3)
    assert (some["flagged"], some["compared"], some["identical"]) == (2, 3, 3)
    assert some["embeddings"] == {"gated": 2, "always": 3}


def test_maps_that_differ_are_counted(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preset = replace(presets.PRESETS["nano"], heatmap=HeatmapSettings(sizes=(32,)))
    segmenter = AnomalySegmenter(
        preset, tiny_encoder(cache_dir=tmp_path), tiny_refiner(), load_prompts("winclip"), "part"
    )
    coarse = bench.SamOnEveryPhoto._coarse_map

    def off(self, pixels):
        found = coarse(self, pixels)
        return replace(found, anomaly=found.anomaly * np.float32(0.5))

    monkeypatch.setattr(bench.SamOnEveryPhoto, "_coarse_map", off)
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (32, 40, 3), dtype=np.uint8) for _ in range(10)]
    found = bench.measure(segmenter, photos, clean=0.8, always=3)
    assert (found["compared"], found["identical"]) == (3, 0)
