"""Losses of both trainings on cases small enough for a hand computation."""

from __future__ import annotations

import math

import pytest
import torch

from clipsam.nano.clip_loss import balanced, contrastive, dense_losses, dice, naming, type_logits
from clipsam.nano.train_sam import mask_loss

LN2 = math.log(2)


def test_type_logits_are_scaled_differences_of_cosines():
    patches = torch.tensor([[[[1.0, 0.0], [0.6, 0.8]]]])  # [1, 1, 2, 2]
    normal, abnormal = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    logits = type_logits(patches, normal, abnormal, torch.tensor(10.0))
    assert torch.allclose(logits, torch.tensor([[[[-10.0, 2.0]], [[0.0, 0.0]]]]), atol=1e-5)


def test_balanced_of_an_undecided_map():
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    assert float(balanced(torch.zeros(1, 2, 2), target)) == pytest.approx(1.5 * LN2)
    assert float(balanced(torch.zeros(1, 2, 2), target, positive=2)) == pytest.approx(3 * LN2)
    assert float(balanced(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))) == pytest.approx(LN2)


def test_balanced_counts_a_defect_as_one_however_large():
    logits = torch.zeros(2, 8, 8)
    target = torch.zeros(2, 8, 8)
    target[0, 0, 0] = 1
    target[1, :4] = 1
    small = balanced(logits.masked_fill(target > 0, -3.0)[:1], target[:1])
    large = balanced(logits.masked_fill(target > 0, -3.0)[1:], target[1:])
    assert float(small) == pytest.approx(float(large))


def test_balanced_ignores_cells_that_a_mask_covers_in_part():
    target = torch.tensor([[[1.0, 0.1], [0.2, 0.0]]])
    logits = torch.tensor([[[1.0, 5.0], [-5.0, 2.0]]])
    other = torch.tensor([[[1.0, -9.0], [9.0, 2.0]]])
    assert torch.equal(balanced(logits, target), balanced(other, target))


def test_balanced_of_types_averages_over_present_defects_only():
    target = torch.zeros(1, 3, 2, 2)
    target[0, 1] = 1
    logits = torch.full((1, 3, 2, 2), -40.0)
    logits[0, 1] = 0
    # One defect, undecided: ln 2, halved. The two empty maps are right, and the third has no clean cell.
    assert float(balanced(logits, target)) == pytest.approx(0.5 * LN2, abs=1e-6)


def test_dice_by_hand():
    target = torch.tensor([[[1.0, 1.0, 1.0, 0.0]]])
    assert float(dice(target, target)) == pytest.approx(0)
    assert float(dice(torch.zeros_like(target), target)) == pytest.approx(1 - 1 / 4)
    assert float(dice(torch.full_like(target, 0.5), target)) == pytest.approx(1 - (2 * 1.5 + 1) / (2 + 3 + 1))


def test_dice_leaves_flawless_pictures_out():
    target = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    wrong_on_the_first = torch.ones(2, 2, 2)
    assert float(dice(wrong_on_the_first, target)) == 0
    assert float(dice(wrong_on_the_first, torch.zeros(2, 2, 2))) == 0


def test_dense_losses_vanish_for_a_right_answer_only():
    targets = torch.zeros(2, 3, 16, 16)
    targets[0, 0, 4:8, 4:8] = 1
    targets[0, 2] = targets[0, 0]  # the generic type
    right = torch.where(targets > 0, 40.0, -40.0)
    losses = dense_losses(right, targets, generic=2, sharpness=4.0)
    assert set(losses) == {"types", "names", "any", "overlap", "picture"}
    assert all(float(value) < 1e-3 for value in losses.values())
    wrong = dense_losses(-right, targets, generic=2, sharpness=4.0)
    assert all(float(value) > 0.1 for value in wrong.values())


def test_dense_losses_tell_types_apart():
    targets = torch.zeros(1, 3, 16, 16)
    targets[0, 0, 4:8, 4:8] = 1
    targets[0, 2] = targets[0, 0]
    swapped = torch.where(targets[:, [1, 0, 2]] > 0, 40.0, -40.0)
    losses = dense_losses(swapped, targets, generic=2, sharpness=4.0)
    assert float(losses["types"]) > 1
    assert float(losses["names"]) > 1
    assert float(losses["any"]) < 1e-3


def test_naming_counts_each_defect_once_however_large():
    target = torch.zeros(1, 2, 8, 8)
    target[0, 0, :4], target[0, 1, 7, 7] = 1, 1
    logits = torch.zeros(1, 2, 8, 8)
    assert float(naming(logits, target)) == pytest.approx(LN2)
    logits[0, 1, 7, 7] = 40.0  # the small one is named right, the large one undecided
    assert float(naming(logits, target)) == pytest.approx(LN2 / 2)
    both = torch.ones(1, 2, 8, 8)
    assert float(naming(logits, both)) == 0  # where two overlap, neither is asked for


def test_contrastive_of_undecided_and_of_right_pairs():
    same = torch.ones(4, 2) / math.sqrt(2)
    assert float(contrastive(same, same, torch.tensor(10.0))) == pytest.approx(math.log(4))
    apart = torch.eye(4)
    assert float(contrastive(apart, apart, torch.tensor(50.0))) < 1e-6
    assert float(contrastive(apart, apart.flip(0), torch.tensor(50.0))) == pytest.approx(50, rel=1e-4)


def test_mask_loss_by_hand():
    masks = torch.tensor([[[[1.0, 0.0]]]])
    logits = torch.zeros(1, 1, 3, 1, 2)
    logits[0, 0, 1] = torch.tensor([[40.0, -40.0]])
    undecided = 20 * 0.25 * LN2 + 1 / 3  # focal + Dice of a probability of one half everywhere
    scores = torch.tensor([[[0.0, 1.0, 0.0]]])
    loss, quality, best = mask_loss(logits, scores, masks)
    assert float(loss) == pytest.approx(0.1 * 2 * undecided / 3, rel=1e-5)
    assert float(quality) == 1
    assert torch.equal(best, logits[:, :, 1])


def test_mask_loss_learns_the_iou_of_each_answer():
    masks = torch.tensor([[[[1.0, 0.0]]]])
    logits = torch.zeros(1, 1, 3, 1, 2)
    logits[0, 0, 1] = torch.tensor([[40.0, -40.0]])
    right, _, _ = mask_loss(logits, torch.tensor([[[0.0, 1.0, 0.0]]]), masks)
    wrong, _, _ = mask_loss(logits, torch.tensor([[[0.0, 0.4, 0.3]]]), masks)
    assert float(wrong - right) == pytest.approx((0.6**2 + 0.3**2) / 3, rel=1e-4)


def test_mask_loss_chooses_for_each_target():
    masks = torch.zeros(1, 2, 1, 2)
    masks[0, 0, 0, 0] = masks[0, 1, 0, 1] = 1
    logits = torch.full((1, 2, 3, 1, 2), 0.0)
    logits[0, 0, 2] = torch.tensor([[9.0, -9.0]])
    logits[0, 1, 0] = torch.tensor([[-9.0, 9.0]])
    _, quality, best = mask_loss(logits, torch.zeros(1, 2, 3), masks)
    assert float(quality) == 1
    assert torch.equal(best[0, 0], logits[0, 0, 2])
    assert torch.equal(best[0, 1], logits[0, 1, 0])
