"""References and consensus as users ask for them: in Python, by inspect and by eval, with a tiny model."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_clip import save_tiny_clip
from tiny_dataset import draw_category
from typer.testing import CliRunner

from clipsam import scoring
from clipsam.cli import app
from clipsam.companions import Companions, batch, references_from, references_of
from clipsam.datasets import open_dataset
from clipsam.errors import UsageError, WeightsError
from clipsam.evaluate import evaluate
from clipsam.images import read_photo
from clipsam.presets import PRESETS, ClipSpec, Preset
from clipsam.scoring import SegmenterRecipe
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import ConsensusSettings, HeatmapSettings, LayerSettings, ReferenceSettings


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    folder = save_tiny_clip(tmp_path_factory.mktemp("tiny"))
    return Preset(
        "tiny",
        "random weights",
        ClipSpec("tiny", folder=str(folder)),
        None,
        heatmap=HeatmapSettings(sizes=(56,)),
        layers=LayerSettings(size=112, depths=(), cells=(8,), scaling="spread"),
        reference_settings=ReferenceSettings(text_weight=0.1, smoothing=0.02),
        consensus_settings=ConsensusSettings(text_weight=0.1, smoothing=0.02, photos=6),
    )


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Preset) -> Path:
    """A dataset of one category, "bottle", with five good training photos; preset "tiny" is known."""
    monkeypatch.setitem(PRESETS, "tiny", tiny)
    scoring._loaded.cache_clear()
    draw_category(tmp_path / "data/bottle", 1)
    draw_category(tmp_path / "more", 2, photos=5)
    shutil.copytree(tmp_path / "more/test/good", tmp_path / "data/bottle/train/good")
    return tmp_path


def call(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, str(result.exception) + result.stderr


def test_the_map_is_the_weighted_mean_of_text_and_references(root: Path, tiny: Preset):
    photo = root / "data/bottle/test/hole/000.png"
    plain = AnomalySegmenter.from_preset(tiny, sam=False)
    both = AnomalySegmenter.from_preset(tiny, sam=False, references=root / "data/bottle/train/good")
    seen = both.memory.anomaly(read_photo(photo).pixels)
    result = both.segment(photo)
    expected = 0.1 * plain.segment(photo).coarse_map + 0.9 * seen
    np.testing.assert_allclose(result.coarse_map, expected, atol=1e-6)
    assert result.timings["references"] > 0
    assert both.manifest()["references"]["photos"] == 5
    assert "references" not in plain.manifest()


def test_a_batch_can_be_its_own_reference(root: Path, tiny: Preset):
    photos = sorted((root / "data/bottle/test").rglob("*.png"))
    segmenter = AnomalySegmenter.from_preset(tiny, sam=False)
    together = segmenter.segment_batch(photos, consensus=True)
    assert [result.path for result in together] == photos
    assert "consensus" in together[0].timings
    assert segmenter.memory is None
    alone = segmenter.segment_batch(photos[:2])
    assert "consensus" not in alone[0].timings
    assert not np.allclose(alone[0].anomaly_map, together[0].anomaly_map, atol=0.01)


@pytest.mark.parametrize(("how", "least"), [({"references": "3"}, 0.9), ({"consensus": True}, 0.9)])
def test_both_find_what_random_weights_cannot(root: Path, tiny: Preset, how: dict, least: float):
    data = open_dataset("folder", root / "data")
    plain = evaluate(SegmenterRecipe(tiny, sam=False), data).mean["coarse"]["pixel_auroc"]
    found = evaluate(SegmenterRecipe(tiny, sam=False, **how), data)
    assert found.mean["coarse"]["pixel_auroc"] > max(least, plain)
    method = found.categories["bottle"]["method"]
    assert method["references" if "references" in how else "consensus"]["files"] in (3, 6)


def test_eval_takes_both_options(root: Path):
    words = ("eval", "--dataset", "folder", "--root", root / "data", "--preset", "tiny", "--no-sam", "--json")
    words += ("--no-figures",)
    code, text, error = call(*words, "--out", root / "a", "--references", "2")
    assert code == 0, error
    assert json.loads(text)["categories"]["bottle"]["method"]["references"]["files"] == 2
    code, text, error = call(*words, "--out", root / "b", "--consensus")
    assert code == 0, error
    assert json.loads(text)["categories"]["bottle"]["method"]["consensus"]["photos"] == 6
    code, _, error = call(*words, "--out", root / "c", "--references", "6")
    assert code == 1
    assert "5 good training photos, but 6 references" in error
    code, _, error = call(*words, "--out", root / "c", "--references", "2", "--consensus")
    assert code == 1
    assert "choose one of them" in error


def test_inspect_keeps_references_and_takes_them_again(root: Path):
    good, kept = root / "data/bottle/train/good", root / "kept.safetensors"
    words = ("inspect", root / "data/bottle/test", "--preset", "tiny", "--no-sam", "--maps", "tiff")
    code, _, error = call(*words, "--out", root / "a", "--references", good, "--save-references", kept)
    assert code == 0, error
    code, _, error = call(*words, "--out", root / "b", "--references", kept)
    assert code == 0, error
    first, again = (json.loads((root / name / "run.json").read_text()) for name in "ab")
    assert first["references"]["hash"] == again["references"]["hash"]
    maps = [np.asarray(Image.open(next((root / name / "maps").rglob("000*.tif*")))) for name in "ab"]
    np.testing.assert_allclose(maps[0], maps[1], atol=0.01)


def test_inspect_compares_photos_with_each_other(root: Path):
    words = ("inspect", root / "data/bottle/test", "--preset", "tiny", "--no-sam", "--out", root / "run")
    code, _, error = call(*words, "--consensus")
    assert code == 0, error
    assert json.loads((root / "run/run.json").read_text())["consensus"]["voting"] == 6
    code, _, error = call(*words, "--consensus", "--references", root)
    assert code == 1
    assert "choose one of them" in error
    code, _, error = call(*words, "--save-references", root / "kept.safetensors")
    assert code == 1
    assert "give that too" in error


def test_references_are_named_by_folder_file_or_photos(root: Path):
    good = root / "data/bottle/train/good"
    assert len(references_from(good).paths) == 5
    assert references_from([good / "001.png"]).paths == (good / "001.png",)
    for nothing in (root / "none", root / "none.safetensors"):
        with pytest.raises(UsageError, match="expected"):
            references_from(nothing)


def test_references_of_a_category_are_spread_over_its_training_photos(root: Path):
    category = open_dataset("folder", root / "data").categories[0]
    assert [path.stem for path in references_of(category, "3").paths] == ["000", "002", "004"]
    assert [path.stem for path in references_of(category, "1").paths] == ["002"]
    assert len(references_of(category, str(root / "data")).paths) > 5  # its folder below
    with pytest.raises(UsageError, match="ask for 1 to 5"):
        references_of(category, "0")


def test_a_share_of_a_category_is_held_against_the_whole_of_it(root: Path, tiny: Preset):
    category = open_dataset("folder", root / "data").categories[0]
    paths = tuple(sample.image for sample in category.samples)
    share = replace(category, samples=category.samples[::3], batch=paths)
    recipe = SegmenterRecipe(tiny, consensus=True)
    assert scoring.companions_of(recipe, share, tiny) == scoring.companions_of(recipe, category, tiny)
    assert len(batch(paths, tiny).paths) == 6
    assert set(batch(paths, tiny).paths) < set(paths)


def test_a_batch_is_compared_as_its_photos_were_changed(root: Path, tiny: Preset):
    segmenter = AnomalySegmenter.from_preset(tiny, sam=False)
    companions = batch(sorted((root / "data/bottle/test/good").glob("*.png")), tiny)
    changed = companions.memory(segmenter.clip, tiny, None, lambda pixels: 255 - pixels)
    photo = 255 - read_photo(companions.paths[0]).pixels
    as_it_was = companions.memory(segmenter.clip, tiny, None)
    assert float(changed.scores(photo).mean()) < float(as_it_was.scores(photo).mean())


def test_an_unreadable_photo_of_a_batch_has_no_vote_but_a_reference_must_be_whole(root: Path, tiny: Preset):
    broken = root / "data/bottle/test/good/009.png"
    broken.write_bytes(b"broken")
    segmenter = AnomalySegmenter.from_preset(tiny, sam=False)
    paths = sorted(broken.parent.glob("*.png"))
    assert batch(paths, tiny).memory(segmenter.clip, tiny, None).photos == len(paths) - 1
    with pytest.raises(Exception, match="009"):
        Companions("references", tuple(paths)).memory(segmenter.clip, tiny, None)


def test_a_memory_of_another_model_is_refused(root: Path, tiny: Preset, tmp_path: Path):
    good, kept = root / "data/bottle/train/good", root / "kept.safetensors"
    from clipsam.reference_files import save_references

    save_references(AnomalySegmenter.from_preset(tiny, sam=False, references=good).memory, kept)
    other = replace(tiny, clip=ClipSpec("other", folder=str(save_tiny_clip(tmp_path / "other", seed=3))))
    with pytest.raises(WeightsError, match="made with other weights"):
        AnomalySegmenter.from_preset(other, sam=False, references=kept)
