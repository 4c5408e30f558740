"""The gate before SAM, measured: what is quiet is never embedded, and both ways give the same maps."""

from __future__ import annotations

import importlib.util
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
    module = importlib.util.module_from_spec(spec)
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
    assert (found["flagged"], found["identical"]) == (2, 10)
    assert found["embeddings"] == {"gated": 2, "always": 10}
    assert found["times_faster"] == pytest.approx(found["seconds"]["always"] / found["seconds"]["gated"])
    assert found["manifest"]["regions"]["high"] > found["manifest"]["regions"]["low"] * 0.99
    everything = bench.measure(segmenter, photos[:3], clean=0.0)
    assert (everything["flagged"], everything["embeddings"]) == (3, {"gated": 3, "always": 3})
