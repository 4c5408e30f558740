from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from clipsam.regions import RegionPrompt, region_prompts
from clipsam.settings import SamSettings
from clipsam.strategies import looks, moved, patch_grid_prompts, strategy_prompts


def coarse_map() -> np.ndarray:
    """Normal at 0.3 on 60 x 100 px, with a 10 x 30 block at 0.9 and a 10 x 10 block at 0.7."""
    coarse = np.full((60, 100), 0.3, np.float32)
    coarse[10:20, 20:50] = 0.9
    coarse[40:50, 80:90] = 0.7
    return coarse


def test_ring_and_cascade_ask_as_found_and_mmr_without_negatives() -> None:
    coarse = coarse_map()
    prompts = region_prompts(coarse)
    assert len(prompts) == 2
    assert len(prompts[0].negatives) == 4
    for strategy in ("ring", "cascade"):
        assert strategy_prompts(coarse, prompts, SamSettings(strategy=strategy)) == prompts
    for asked, found in zip(
        strategy_prompts(coarse, prompts, SamSettings(strategy="mmr")), prompts, strict=True
    ):
        assert asked.negatives.shape == (0, 2)
        assert asked.positives is found.positives
        assert asked.box_xyxy == found.box_xyxy


def test_patch_grid_puts_points_on_patch_centres_and_boxes_around_components() -> None:
    settings = SamSettings(strategy="patch-grid", patch_grid=10, patch_margin=0.1, max_points=100)
    first, second = strategy_prompts(coarse_map(), (), settings)
    assert sorted(first.positives.tolist()) == [[25.0, 15.0], [35.0, 15.0], [45.0, 15.0]]
    assert first.box_xyxy == (20.0, 10.0, 50.0, 20.0)
    assert second.positives.tolist() == [[85.0, 45.0]]
    assert second.box_xyxy == (80.0, 40.0, 90.0, 50.0)
    assert len(first.negatives) == 60 - 4  # every normal patch of the 6 x 10
    assert (first.offset, first.component.shape, first.area_px) == ((20, 10), (10, 30), 300)
    assert (first.peak, first.base) == (pytest.approx(0.9), 0.6)


def test_the_margin_decides_which_patches_speak() -> None:
    settings = SamSettings(patch_grid=10, patch_margin=0.25, max_points=100)
    (only,) = patch_grid_prompts(coarse_map(), settings)
    assert only.peak == pytest.approx(0.9)
    assert len(only.negatives) == 0  # 0.3 is not 0.25 away from 0.5


def test_of_many_points_the_highest_and_the_nearest_are_kept() -> None:
    coarse = coarse_map()
    coarse[10:20, 30:40] = 0.95
    settings = SamSettings(patch_grid=10, max_points=2)
    first, _ = patch_grid_prompts(coarse, settings)
    assert first.positives[0].tolist() == [35.0, 15.0]
    assert len(first.positives) == len(first.negatives) == 2
    for x, y in first.negatives:
        assert 10 <= x <= 60
        assert 0 <= y <= 30


def test_a_grid_that_does_not_divide_the_photo() -> None:
    random = np.random.default_rng(0).random((53, 91)).astype(np.float32)
    prompts = patch_grid_prompts(random, SamSettings(patch_grid=9, patch_margin=0.02))
    assert prompts
    for prompt in prompts:
        (x, y), (height, width) = prompt.offset, prompt.component.shape
        assert 0 <= x < x + width <= 91
        assert 0 <= y < y + height <= 53
        for px, py in prompt.positives:
            assert prompt.component[int(py) - y, int(px) - x]


def prompt_at(box: tuple[float, float, float, float]) -> RegionPrompt:
    x, y = int(box[0]), int(box[1])
    component = np.ones((int(box[3]) - y, int(box[2]) - x), bool)
    negatives = np.array([[box[0] - 2, box[1] - 2], [399, 299]], np.float32)
    positives = np.array([[box[0] + 1, box[1] + 1]], np.float32)
    return RegionPrompt(box, positives, negatives, component.size, 0.9, 0.4, component, (x, y))


def test_tiny_regions_get_crops_of_their_own_inside_the_photo() -> None:
    prompts = [
        prompt_at((100, 100, 180, 140)),
        prompt_at((200, 150, 212, 160)),
        prompt_at((390, 290, 400, 300)),
    ]
    assert [look.regions for look in looks(prompts, (300, 400), 100, SamSettings())] == [(0, 1, 2)]
    whole, second, third = looks(prompts, (300, 400), 100, SamSettings(crop=4))  # a cell is 4 px
    assert (whole.window, whole.regions) == ((0, 0, 400, 300), (0,))
    assert (second.window, second.regions) == ((182, 131, 230, 179), (1,))
    assert (third.window, third.regions) == ((360, 260, 400, 300), (2,))
    assert [look.regions for look in looks(prompts[1:2], (300, 400), 100, SamSettings(crop=4))] == [(0,)]


def test_a_crop_is_as_many_times_as_wide_as_its_region_as_it_is_told() -> None:
    prompt = prompt_at((100, 100, 140, 120))
    for context in (1.5, 4.0):
        (look,) = looks([prompt], (300, 400), 100, SamSettings(crop=20, crop_context=context))
        x0, y0, x1, y1 = look.window
        assert (x1 - x0, y1 - y0) == (40 * context, 40 * context)


def test_a_prompt_moves_into_its_crop_and_leaves_far_points_behind() -> None:
    prompt = prompt_at((200, 150, 212, 160))
    inside = moved(prompt, (182, 131, 230, 179))
    assert inside.box_xyxy == (18, 19, 30, 29)
    assert inside.positives.tolist() == [[19, 20]]
    assert inside.negatives.tolist() == [[16, 17]]
    assert inside.offset == (18, 19)
    assert moved(prompt, (0, 0, 400, 300)) is prompt
    assert replace(inside, offset=prompt.offset).component is prompt.component
