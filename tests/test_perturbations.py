"""Each perturbation does what its name says, always alike, and moves the mask only where pixels move."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from tiny_dataset import darkness, draw_category

from clipsam.datasets import open_dataset
from clipsam.errors import UsageError
from clipsam.evaluate import evaluate
from clipsam.perturbations import PERTURBATIONS, Perturbation


@pytest.fixture
def photo() -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random((60, 90, 3)), (4, 4, 0))
    return (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)


# A blur in proportion to the photo is none on one of 90 px.
@pytest.mark.parametrize("name", [name for name in PERTURBATIONS if name != "blur"] + ["blur=0.02"])
def test_changes_the_photo_always_alike(photo: np.ndarray, name: str) -> None:
    before = photo.copy()
    changed, _ = Perturbation.parse(name).apply(photo, None)
    again, _ = Perturbation.parse(name).apply(photo, None)
    assert changed.shape == photo.shape
    assert changed.dtype == np.uint8
    assert np.array_equal(changed, again)
    assert np.array_equal(photo, before)
    assert np.abs(changed.astype(int) - photo).mean() > 0.5


def test_rotation_turns_photo_and_mask_together(photo: np.ndarray) -> None:
    mask = np.zeros((60, 90), bool)
    mask[20:40, 35:60] = True
    photo[mask] = (255, 0, 0)
    turned, turned_mask = Perturbation("rotation", 25).apply(photo, mask)
    red = (turned[:, :, 0] > 200) & (turned[:, :, 1] < 55)
    assert turned_mask is not None
    assert (red ^ turned_mask).sum() < 0.1 * turned_mask.sum()
    assert abs(int(turned_mask.sum()) - int(mask.sum())) < 0.03 * mask.sum()
    half, half_mask = Perturbation("rotation", 180).apply(photo, mask)
    assert np.array_equal(half, photo[::-1, ::-1])
    assert np.array_equal(half_mask, mask[::-1, ::-1])


def test_no_angle_leaves_blank_corners() -> None:
    white = np.full((30, 70, 3), 255, np.uint8)
    for angle in (5, 45, 90, -135):
        assert Perturbation("rotation", angle).apply(white, None)[0].min() == 255


def test_colours_go_where_they_should() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 0] = 200
    green, _ = Perturbation("hue", 1 / 3).apply(red, None)
    assert green[0, 0, 1] > 190
    assert green[0, 0, 0] < 10
    grey, mask = Perturbation("saturation", 0).apply(red, np.eye(8, dtype=bool))
    assert np.ptp(grey[0, 0]) == 0
    assert np.array_equal(mask, np.eye(8, dtype=bool))
    assert Perturbation("brightness", 0.5).apply(red, None)[0][0, 0, 0] == 100
    noise = Perturbation("noise", 10).apply(np.full((200, 200, 3), 128, np.uint8), None)[0]
    assert noise.std() == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fog", "expected one of rotation"),
        ("hue=x", "expected a part of the colour circle after"),
        ("jpeg=0", "from 1 to 95"),
    ],
)
def test_wrong_names_and_strengths(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Perturbation.parse(text)


def test_evaluation_of_changed_photos(tmp_path: Path) -> None:
    root = draw_category(tmp_path / "lid")
    data = open_dataset("folder", root)
    clean = evaluate(darkness, data)
    half = evaluate(darkness, data, perturbation=Perturbation("rotation", 180))
    assert half.scoring["perturbation"] == "rotation=180"
    assert half.mean == clean.mean  # every pixel is where its mask is
    noisy = evaluate(darkness, data, perturbation=Perturbation("noise", 60))
    assert noisy.mean["map"]["pixel_ap"] < clean.mean["map"]["pixel_ap"]


def test_defects_turned_out_of_view_are_left_out(tmp_path: Path) -> None:
    root = draw_category(tmp_path / "lid", size=(40, 80))
    mask = np.zeros((40, 80), np.uint8)
    mask[:3, :3] = 255
    Image.fromarray(mask).save(root / "ground_truth/hole/000_mask.png")
    result = evaluate(darkness, open_dataset("folder", root), perturbation=Perturbation("rotation", 45))
    assert result.categories["lid"]["photos"] == 8
    assert result.categories["lid"]["samples"] == 9
