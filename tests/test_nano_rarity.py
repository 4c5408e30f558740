from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import clipsam.nano.rarity
from clipsam.nano.rarity import (
    BANDWIDTHS,
    CELL,
    FEATURES,
    STATISTICS,
    log_window,
    rarity,
    standardised,
    statistics,
)  # fmt: skip
from clipsam.nano.tower import LearnedRarity

ROWS, COLUMNS = 6, 8


def texture(seed: int = 0) -> torch.Tensor:
    """A pattern that repeats with every patch, [1, 3, H, W], normalised pixels."""
    cell = torch.rand(1, 3, CELL, CELL, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return cell.repeat(1, 1, ROWS, COLUMNS)


def with_odd_patch(row: int, column: int) -> torch.Tensor:
    pixels = texture()
    pixels[..., row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL] *= 0.2
    return pixels


def rareness(pixels: torch.Tensor) -> torch.Tensor:
    """Minus log densities [h, w, 3]: the last features."""
    return rarity(pixels)[0, ..., -len(BANDWIDTHS) :]


def test_shape_and_range():
    features = rarity(torch.randn(2, 3, ROWS * CELL, COLUMNS * CELL))
    assert features.shape == (2, ROWS, COLUMNS, FEATURES)
    assert features.isfinite().all()
    assert features.abs().max() <= 8


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (5, 7)])
def test_odd_patch_in_a_repeated_texture_is_the_rarest(row, column):
    rare = rareness(with_odd_patch(row, column))
    for band in rare.unbind(-1):
        assert int(band.argmax()) == row * COLUMNS + column


def test_two_equal_odd_patches_are_less_rare_than_one():
    one = with_odd_patch(2, 2)
    two = one.clone()
    two[..., 4 * CELL : 5 * CELL, 4 * CELL : 5 * CELL] *= 0.2
    assert (rareness(two)[2, 2] < rareness(one)[2, 2]).all()


@pytest.mark.parametrize("value", [-2.0, 0.0, 1.3])
def test_flat_photos_have_no_rare_patch(value):
    features = rarity(torch.full((1, 3, ROWS * CELL, COLUMNS * CELL), value))
    assert torch.allclose(features, torch.zeros(()), atol=1e-3)


def test_faint_noise_on_a_flat_photo_stays_small():
    noise = 0.004 * torch.randn(1, 3, ROWS * CELL, COLUMNS * CELL, generator=torch.Generator().manual_seed(0))
    assert rarity(noise)[..., :STATISTICS].abs().max() < 1


def test_brightness_does_not_matter():
    pixels = with_odd_patch(1, 2)
    assert torch.allclose(rarity(pixels), rarity(pixels + 0.5), atol=0.02)


def test_photos_of_a_batch_do_not_see_each_other():
    pair = torch.cat([with_odd_patch(1, 2), torch.randn(1, 3, ROWS * CELL, COLUMNS * CELL)])
    assert torch.allclose(rarity(pair)[:1], rarity(pair[:1]), atol=1e-3)


def test_statistics_of_a_step_by_hand():
    pixels = torch.zeros(1, 3, 4, 4)
    pixels[..., 2:] = 1.0
    found = statistics(pixels, 4)[0, :, 0, 0]
    mean, spread = [0.5] * 3, [0.5] * 3
    steps = [4 / 16, 0, 1, 0]  # one of four columns steps to the right; none downwards
    assert torch.allclose(found, torch.tensor([*mean, *spread, *steps, 1.0, 0.0]), atol=1e-6)
    assert len(found) == STATISTICS


@pytest.mark.parametrize("cell", [5, 8])
def test_statistics_are_those_of_torchs_pooling_and_leave_out_what_is_over(cell):
    pixels = torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(0))
    grey = pixels.mean(dim=1, keepdim=True)
    right, down = grey.diff(dim=3).abs(), grey.diff(dim=2).abs()
    right, down = F.pad(right, (0, 1)), F.pad(down, (0, 0, 0, 1))
    mean = F.avg_pool2d(pixels, cell)
    spread = (F.avg_pool2d(pixels.square(), cell) - mean.square()).clamp(min=1e-6).sqrt()
    steps = torch.cat([right, down], 1)
    expected = [mean, spread, F.avg_pool2d(steps, cell), F.max_pool2d(steps, cell), F.max_pool2d(grey, cell)]
    found = statistics(pixels, cell)
    torch.testing.assert_close(found[:, :-1], torch.cat(expected, 1), atol=2e-6, rtol=0)
    torch.testing.assert_close(found[:, -1:], -F.max_pool2d(-grey, cell))


def test_a_window_is_the_log_of_the_sum_of_its_kernels():
    points = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    distance = torch.cdist(points, points).square()
    expected = torch.logsumexp(-distance.double() / (2 * 0.15**2), dim=-1)
    torch.testing.assert_close(log_window(distance, 0.15).double(), expected, atol=1e-6, rtol=1e-5)


def test_standardised_has_no_mean_and_at_most_unit_spread():
    found = standardised(torch.randn(2, 5, 9, 9, generator=torch.Generator().manual_seed(0)) * 10 + 3)
    assert torch.allclose(found.mean(dim=(2, 3)), torch.zeros(()), atol=1e-5)
    assert ((found.std(dim=(2, 3)) > 0.95) & (found.std(dim=(2, 3)) < 1.02)).all()


def test_nothing_is_learned_here():
    pixels = torch.randn(1, 3, 32, 32, requires_grad=True)
    assert not rarity(pixels).requires_grad


def test_patches_of_large_photos_are_compared_part_by_part(monkeypatch):
    pixels = torch.randn(2, 3, 6 * CELL, 8 * CELL, generator=torch.Generator().manual_seed(1))
    learned, cells = LearnedRarity(5), torch.randn(2, 5, 6, 8, generator=torch.Generator().manual_seed(2))
    expected = rarity(pixels), learned(cells)
    monkeypatch.setattr(clipsam.nano.rarity, "PART", 20)  # at most 400 pairs at once: 8 of the 48 patches
    sizes, cdist = [], torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda a, b: sizes.append(a.shape[1]) or cdist(a, b))
    torch.testing.assert_close(rarity(pixels), expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(learned(cells), expected[1], atol=1e-4, rtol=1e-4)
    assert sizes == [8] * 6
