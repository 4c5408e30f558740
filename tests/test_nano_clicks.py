from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from clipsam.nano.clicks import LOW, SamBatch, SamBatches, framed, prompt_for, targets_of, zoomed
from clipsam.nano.corpus.compose import render
from clipsam.nano.models import SAM_SIZE


@cache
def batch() -> SamBatch:
    return SamBatches(3, length=2, batch=2, prompts=3)[0]


def disc(height: int = 90, width: int = 120, radius: int = 12) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - 40) ** 2 + (columns - 70) ** 2 <= radius**2


def test_a_batch_has_what_it_says():
    found = batch()
    assert found.pixels.shape == (2, SAM_SIZE, SAM_SIZE, 3)
    assert found.pixels.dtype == torch.uint8
    assert found.masks.shape == (2, 3, LOW, LOW)
    assert 0 <= found.masks.min() <= found.masks.max() <= 1 + 1e-5
    assert (found.masks.amax(dim=(2, 3)) > 0).all()
    assert found.points.shape == (2, 3, 5, 2)
    assert found.labels.shape == (2, 3, 5)
    assert set(found.labels.unique().tolist()) <= {-1, 0, 1}
    assert found.boxes.shape == (2, 3, 4)


def test_a_number_always_gives_the_same_batch():
    again, other = SamBatches(3, length=9, batch=2, prompts=3)[0], SamBatches(3, 2, 2, 3)[1]
    for name in ("pixels", "masks", "points", "labels", "boxes"):
        assert torch.equal(getattr(again, name), getattr(batch(), name))
    assert not torch.equal(other.pixels, batch().pixels)


def test_positive_clicks_fall_on_their_mask_in_the_frame_of_the_masks():
    found = batch()
    cells = (found.points * LOW / SAM_SIZE).long().clamp(0, LOW - 1)
    for picture in range(2):
        for prompt in range(3):
            for click in (found.labels[picture, prompt] == 1).nonzero().flatten():
                column, row = cells[picture, prompt, click].tolist()
                near = found.masks[
                    picture, prompt, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2
                ]
                assert near.max() > 0


@pytest.mark.parametrize("seed", range(20))
def test_clicks_and_box_of_a_disc(seed):
    mask = disc()
    points, labels, box = prompt_for(mask, np.random.default_rng(seed))
    assert points.shape == (5, 2)
    assert 1 <= (labels == 1).sum() <= 3
    assert (labels == 0).sum() <= 2
    for (column, row), label in zip(points.astype(int), labels, strict=True):
        if label >= 0:
            assert mask[row, column] == (label == 1)
            assert np.hypot(row - 40, column - 70) < 12 + 13  # negatives come from a ring, not from afar
    assert points[labels == -1].sum() == 0
    assert np.abs(box - np.array([58, 28, 83, 53])).max() < 15
    assert box[0] < box[2]
    assert box[1] < box[3]


def test_a_mask_of_one_pixel_and_one_of_the_whole_picture_can_be_asked_for():
    dot = np.zeros((20, 30), bool)
    dot[0, 29] = True
    for mask in (dot, np.ones((20, 30), bool)):
        for seed in range(8):
            points, labels, box = prompt_for(mask, np.random.default_rng(seed))
            assert np.isfinite(points).all()
            assert np.isfinite(box).all()
            assert (labels == 1).any()
            if mask.all():
                assert not (labels == 0).any()


@pytest.mark.parametrize(("height", "width"), [(90, 120), (120, 90), (100, 100), (17, 320)])
def test_frame_is_filled_from_the_top_left(height, width):
    image = np.full((height, width, 3), 200, np.uint8)
    pixels, masks = framed(image, [np.ones((height, width), bool)], SAM_SIZE / max(height, width))
    rows, columns = (round(side * SAM_SIZE / max(height, width)) for side in (height, width))
    assert (pixels[:rows, :columns] == 200).all()
    assert (pixels[rows:] == 127).all()
    assert (pixels[:, columns:] == 127).all()
    assert float(masks[0].sum()) == pytest.approx(rows * columns * (LOW / SAM_SIZE) ** 2, rel=0.15)
    assert float(masks[0, 0, 0]) == pytest.approx(1)


def test_targets_name_defects_twice_and_no_empty_mask():
    rng = np.random.default_rng(0)
    for seed in range(6):
        sample = render(seed, 96, 96, p_normal=0.0)
        masks = targets_of(sample, rng)
        assert all(mask.any() for mask in masks)
        for one in sample.instances:
            assert sum(mask is one.mask for mask in masks) == 2


@pytest.mark.parametrize("seed", range(12))
def test_a_zoomed_crop_holds_its_target_and_shows_it_larger(seed):
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(0, 256, (90, 120, 3), dtype=np.uint8), disc(radius=8)
    far = np.zeros_like(mask)
    far[80:, :4] = True
    crop, (kept, *others) = zoomed(image, [mask], rng)
    assert not others
    assert crop.shape[:2] == kept.shape
    assert max(kept.shape) <= 6 * 17 + 1
    assert kept.sum() > 0.9 * mask.sum()
    assert kept.mean() > mask.mean()
    rows, columns = np.nonzero(kept)
    expected = image[mask] if kept.sum() == mask.sum() else crop[rows, columns]
    np.testing.assert_array_equal(crop[rows, columns], expected)


def test_what_a_crop_cuts_is_no_target_in_it():
    image, small, wide = np.zeros((90, 120, 3), np.uint8), disc(radius=6), np.ones((90, 120), bool)
    for seed in range(30):
        _, kept = zoomed(image, [small, wide], np.random.default_rng(seed))
        assert all(mask.sum() in (small.sum(), wide.sum()) or mask.sum() > 0.9 * small.sum() for mask in kept)
        assert kept
