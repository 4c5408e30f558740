"""References: what is far from good photos scores high, on a bounded scale; memories kept as files."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_clip import tiny_encoder

from clipsam.errors import UsageError, WeightsError
from clipsam.heatmap import CoarseMap
from clipsam.layers import encode_layers
from clipsam.memory import log_odds
from clipsam.reference_files import load_references, save_references
from clipsam.references import ReferenceMemory, Words, hash_photos
from clipsam.settings import LayerSettings, ReferenceSettings

LAYERS = LayerSettings(size=64, depths=(0.5,), cells=(8,), scaling="spread")
SETTINGS = ReferenceSettings(smoothing=0)


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder("native")


def good(count: int, seed: int = 0) -> list[np.ndarray]:
    """A bright disc on dark ground, with noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:64, :64]
    found = []
    disc = 60 + 120 * ((rows - 32) ** 2 + (columns - 32) ** 2 < 200)
    for _ in range(count):
        noisy = disc[..., None] + rng.normal(0, 6, (64, 64, 3))
        found.append(np.clip(noisy, 0, 255).astype(np.uint8))
    return found


def damaged(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels.copy()
    pixels[24:32, 24:32] = (20, 200, 20)
    return pixels


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("score", ["calibrated", "cosine"])
@pytest.mark.parametrize("joint", [True, False])
def test_a_defect_scores_highest_and_good_parts_low(encoder, count, score, joint):
    settings = replace(SETTINGS, score=score, joint=joint)
    memory = ReferenceMemory.build(good(count), encoder, LAYERS, settings)
    fine, bad = (memory.anomaly(photo) for photo in (good(1, seed=9)[0], damaged(good(1, seed=9)[0])))
    assert fine.shape == bad.shape == (64, 64)
    assert fine.dtype == np.float32
    assert 0 <= fine.min() <= bad.max() <= 1
    assert bad[24:32, 24:32].mean() > 2 * np.median(bad)
    assert bad.max() > fine.max()
    if score == "calibrated":
        assert np.mean(fine < 0.5) > 0.9
        assert bad[24:32, 24:32].mean() > 0.5


def test_a_memory_of_all_patches_gives_plain_nearest_distances(encoder):
    photos, photo = good(3), damaged(good(1, seed=5)[0])
    layers = LayerSettings(size=64, depths=(0.5, 1.0))
    settings = replace(SETTINGS, score="cosine", joint=False, pooling=1, position=0.0)
    found = ReferenceMemory.build(photos, encoder, layers, settings).anomaly(photo)
    expected = torch.zeros(64)
    for number in range(2):
        unit = [encode_layers(p, encoder, layers)[number].flatten(1).T for p in (*photos, photo)]
        *known, queries = [features / features.norm(dim=1, keepdim=True) for features in unit]
        expected += (1 - (queries @ torch.cat(known).T).amax(dim=1)) / 4  # WinCLIP+: (1 - cosine) / 2
    grid = found[4::8, 4::8] + found[3::8, 3::8] + found[4::8, 3::8] + found[3::8, 4::8]
    assert np.corrcoef(grid.ravel() / 4, expected.numpy())[0, 1] > 0.95
    assert found.max() <= expected.max() + 1e-5


def test_a_cover_of_few_patches_still_finds_the_defect(encoder):
    memory = ReferenceMemory.build(good(5), encoder, LAYERS, replace(SETTINGS, memory=80))
    assert len(memory.views[0]) == 80
    anomaly = memory.anomaly(damaged(good(1, seed=9)[0]))
    assert anomaly[24:32, 24:32].mean() > np.quantile(anomaly, 0.95)


def test_place_counts_only_where_photos_agree_in_it(encoder):
    aligned = ReferenceMemory.build(good(4), encoder, LAYERS, SETTINGS)
    pattern = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    rolled = [np.roll(pattern, (8 * shift, 24 * shift), axis=(0, 1)) for shift in range(4)]
    anywhere = ReferenceMemory.build(rolled, encoder, replace(LAYERS, depths=()), SETTINGS)
    assert aligned.position > 0
    assert anywhere.position == 0
    moved = np.roll(good(1, seed=9)[0], 20, axis=1)  # a good disc in the wrong place
    without = ReferenceMemory.build(good(4), encoder, LAYERS, replace(SETTINGS, position=0.0))
    assert aligned.anomaly(moved).max() > without.anomaly(moved).max()


def test_turned_references_know_turned_parts(encoder):
    half = good(1)[0].copy()
    half[:, :32] = 230
    turned = np.rot90(half)
    plain = ReferenceMemory.build([half], encoder, LAYERS, replace(SETTINGS, position=0.0))
    turning = ReferenceMemory.build([half], encoder, LAYERS, replace(SETTINGS, position=0.0, turns=True))
    assert len(turning.views[0]) == 4 * len(plain.views[0])
    assert turning.anomaly(turned).mean() < plain.anomaly(turned).mean()


def test_a_memory_kept_as_a_file_gives_the_same_map(encoder, tmp_path):
    memory = ReferenceMemory.build(good(3), encoder, LAYERS, SETTINGS)
    path = save_references(memory, tmp_path / "good.safetensors")
    again = load_references(path, encoder, LAYERS, SETTINGS)
    photo = damaged(good(1, seed=9)[0])
    np.testing.assert_allclose(again.anomaly(photo), memory.anomaly(photo), atol=5e-3)
    assert again.manifest() == memory.manifest()
    assert [file.name for file in tmp_path.iterdir()] == ["good.safetensors"]


def test_a_file_of_another_model_or_of_other_settings_is_refused(encoder, tmp_path):
    memory = ReferenceMemory.build(good(2), encoder, LAYERS, SETTINGS)
    path = save_references(memory, tmp_path / "good.safetensors")
    with pytest.raises(WeightsError, match="made with other weights"):
        load_references(path, tiny_encoder("native", seed=1), LAYERS, SETTINGS)
    with pytest.raises(UsageError, match="another cells, turns;"):
        load_references(path, encoder, replace(LAYERS, cells=(16,)), replace(SETTINGS, turns=True))


def test_a_file_that_keeps_no_references_is_refused(encoder, tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match="holds no references"):
        load_references(path, encoder)
    path.write_bytes(b"broken")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_references(path, encoder)
    memory = ReferenceMemory.build(good(1), encoder, LAYERS, SETTINGS)
    with pytest.raises(UsageError, match="rename it"):
        save_references(memory, tmp_path / "good.npz")


def test_the_score_of_a_photo_can_come_from_the_highest_distances(encoder):
    settings = replace(SETTINGS, photo_score="distances", highest=0.05)
    memory = ReferenceMemory.build(good(4), encoder, LAYERS, settings)
    fine, bad = good(1, seed=9)[0], damaged(good(1, seed=9)[0])
    found = {}
    for name, photo in (("fine", fine), ("bad", bad)):
        _, views = memory._look(photo)
        distances = torch.cdist(views[0], memory.views[0]).amin(dim=1)
        highest = distances.sort().values[-round(0.05 * len(distances)) :].mean()
        found[name] = memory.join(coarse(photo), photo).others_score
        assert found[name] == pytest.approx(float(memory.grading(highest)), abs=1e-4)
    assert found["bad"] > 0.9 > found["fine"]
    away = np.ones((64, 64), bool)
    away[16:40, 16:40] = False  # the region of interest leaves the defect out
    assert memory.join(coarse(bad), bad, away).others_score < found["bad"]
    plain = ReferenceMemory.build(good(4), encoder, LAYERS, SETTINGS)
    assert plain.join(coarse(bad), bad).others_score is None


def test_no_photos_and_wrong_settings_are_refused(encoder):
    with pytest.raises(UsageError, match="no reference photos"):
        ReferenceMemory.build([], encoder, LAYERS, SETTINGS)
    for wrong in (
        {"photo_score": "most"},
        {"highest": 0.0},
        {"memory": 0},
        {"position": -1.0},
        {"score": "raw"},
        {"pooling": 2},
        {"tail": 0.0},
    ):
        with pytest.raises(UsageError, match="expected"):
            ReferenceSettings(**wrong)


def test_the_hash_of_photos_is_that_of_their_pixels():
    photos = good(3)
    assert hash_photos(photos) == hash_photos(photos[::-1]) != hash_photos(photos[:2])


ODDS = replace(SETTINGS, mixing="odds", text_weight=0.0, excess_weight=1.0)


def glint(pixels: np.ndarray) -> np.ndarray:
    """Text maps that suspect the disc of every part, and bright green more."""
    found = np.full(pixels.shape[:2], 0.1, np.float32)
    found[pixels.mean(axis=2) > 120] = 0.6
    found[(pixels[..., 1] > 150) & (pixels[..., 0] < 50)] = 0.99
    return found


def coarse(photo: np.ndarray) -> CoarseMap:
    return CoarseMap(glint(photo), glint(photo)[None], ("any",), None)


def test_what_the_text_says_of_every_good_part_does_not_count(encoder):
    photo = damaged(good(1, seed=9)[0])
    memory = ReferenceMemory.build(good(4), encoder, LAYERS, ODDS, Words(glint, "words"))
    plain = ReferenceMemory.build(good(4), encoder, LAYERS, replace(ODDS, excess_weight=0.0))
    with_text, without = memory.join(coarse(photo), photo).anomaly, plain.join(coarse(photo), photo).anomaly
    np.testing.assert_allclose(without, memory.anomaly(photo), atol=1e-3)
    gained = log_odds(with_text) - log_odds(without)
    assert np.median(gained[25:31, 25:31]) > 2
    assert abs(np.median(gained[34:42, 34:42])) < 0.5  # the text suspects this disc, but every other as much
    assert log_odds(glint(photo))[34:42, 34:42].min() > log_odds(glint(photo)).min() + 2


def test_a_kept_memory_knows_what_the_text_says_and_of_which_product(encoder, tmp_path):
    photo = damaged(good(1, seed=9)[0])
    memory = ReferenceMemory.build(good(3), encoder, LAYERS, ODDS, Words(glint, "of a disc"))
    path = save_references(memory, tmp_path / "good.safetensors")
    again = load_references(path, encoder, LAYERS, ODDS, Words(glint, "of a disc"))
    np.testing.assert_allclose(
        again.join(coarse(photo), photo).anomaly, memory.join(coarse(photo), photo).anomaly, atol=2e-2
    )
    with pytest.raises(UsageError, match="made for another product or"):
        load_references(path, encoder, LAYERS, ODDS, Words(glint, "of a ring"))
