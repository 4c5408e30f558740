"""Ablations change one part each; comparisons put means side by side and can be resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_evaluate import DarkSegmenter
from tiny_dataset import darkness, draw_category

from clipsam import scoring
from clipsam.comparison import AXES, Variation, ablations, compare, perturbed
from clipsam.datasets import open_dataset
from clipsam.errors import UsageError
from clipsam.evaluate import evaluate
from clipsam.presets import NANO
from clipsam.scoring import SegmenterRecipe
from clipsam.settings import SELECTIONS, STRATEGIES


def test_each_variation_changes_one_part() -> None:
    recipe = SegmenterRecipe("nano")
    found = {variation.name: variation.method for variation in ablations(recipe, list(AXES))}
    assert len(found) == sum(len(values) for values in AXES.values())
    assert found["prompts=winclip"] == SegmenterRecipe("nano", prompts="winclip")
    assert found["attention=value"].preset.heatmap.attention == "value"
    assert found["attention=value"].preset.sam_settings == NANO.sam_settings
    assert found["sam=none"].sam is False
    assert found["sam=box+points"].preset.sam_settings.kinds == ("box+points",)
    assert found["sam=points,box,box+points"].preset.sam_settings.kinds == ("points", "box", "box+points")
    for strategy in STRATEGIES:
        assert found[f"strategy={strategy}"].preset.sam_settings.strategy == strategy
    for selection in SELECTIONS:
        assert found[f"selection={selection}"].preset.sam_settings.selection == selection
    assert found["crop=16"].preset.sam_settings.crop == 16
    assert found["edges=0.02"].preset.sam_settings.edges == 0.02
    assert found["weighting=agreement"].preset.fusion.weighting == "agreement"
    assert found["edge-weight=0.6"].preset.fusion.edge_weight == 0.6
    assert found["edge-guide=0.03"].preset.fusion.edge_guide == 0.03
    assert found["fusion=0.25"].preset.fusion.weight == 0.25
    assert found["fusion=0.25"].preset.heatmap == NANO.heatmap


def test_own_values() -> None:
    names = [variation.name for variation in ablations(SegmenterRecipe("nano"), ["fusion=0.3; 0.6"])]
    assert names == ["fusion=0.3", "fusion=0.6"]
    with pytest.raises(UsageError, match="expected one of prompts"):
        ablations(SegmenterRecipe("nano"), ["colour"])
    with pytest.raises(UsageError, match="expected numbers"):
        ablations(SegmenterRecipe("nano"), ["fusion=much"])
    with pytest.raises(UsageError, match="crop=wide': expected whole numbers, such as crop=8;16"):
        ablations(SegmenterRecipe("nano"), ["crop=wide"])


def test_drops_stand_beside_the_base(tmp_path: Path) -> None:
    draw_category(tmp_path / "lid")
    data, out = open_dataset("folder", tmp_path / "lid"), tmp_path / "out"
    base = evaluate(darkness, data, out=out)
    comparison = compare(perturbed(darkness, ["noise=60", "brightness"]), data, base=base, out=out)
    assert list(comparison.means) == ["as it is", "noise=60", "brightness=1.3"]
    assert comparison.means["as it is"] == base.mean["map"]
    drop = comparison.means["noise=60"]["pro"] - base.mean["map"]["pro"]
    assert drop < 0
    assert f"({100 * drop:+.1f})" in comparison.to_text()
    assert json.loads((out / "comparison.json").read_text()) == comparison.means
    assert (out / "variations/noise=60/metrics.json").exists()

    def never(pixels):
        raise AssertionError("it was finished")

    again = [Variation(v.name, never, v.perturbation) for v in perturbed(darkness, ["noise=60"])]
    resumed = compare(again, data, out=out, name="darkness")
    assert resumed.means["noise=60"] == comparison.means["noise=60"]


def test_what_is_the_base_already_is_not_scored_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_category(tmp_path / "lid")
    data = open_dataset("folder", tmp_path / "lid")
    recipe = SegmenterRecipe("nano", sam=False)
    monkeypatch.setattr(
        scoring.SegmenterRecipe,
        "build",
        lambda recipe: DarkSegmenter(sam=None, prompts=recipe.prompts or "industrial"),
    )
    monkeypatch.setattr(DarkSegmenter, "manifest", lambda self: {"prompts": self.prompts})
    scoring._loaded.cache_clear()
    base = evaluate(recipe, data)
    comparison = compare(
        ablations(recipe, ["prompts=industrial;winclip"]), data, base=base, out=tmp_path / "out"
    )
    assert comparison.means["prompts=industrial"] == comparison.means["as it is"]
    assert [path.name for path in (tmp_path / "out/variations").iterdir()] == ["prompts=winclip"]
