from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from clipsam.nano import batches
from clipsam.nano.batches import NEAR, STRIDE, TYPES, ClipBatches, close_ups, collate, pair, recoloured
from clipsam.nano.corpus.compose import Instance, Sample, box_of, render
from clipsam.nano.corpus.defects import DEFECTS


@cache
def data(seed: int = 5) -> ClipBatches:
    return ClipBatches(seed, length=4, batch=2, sizes=[(96, 128), (128, 96), (256, 256)])


@cache
def first() -> object:
    return data()[0]


@cache
def damaged() -> Sample:
    """A rendered part with at least one defect."""
    samples = (render(seed, 96, 128, p_normal=0.0) for seed in range(20))
    return next(sample for sample in samples if sample.instances)


def test_a_batch_has_what_it_says():
    batch = first()
    count, height, width, _ = batch.pixels.shape
    assert batch.pixels.dtype == torch.uint8
    assert (height, width) in data().sizes
    assert batch.targets.shape == (count, len(TYPES), height // STRIDE, width // STRIDE)
    assert 0 <= batch.targets.min() <= batch.targets.max() <= 1
    assert (len(batch.normal), len(batch.abnormal), len(batch.captions)) == (2 * count, 2 * len(TYPES), count)
    assert batch.near.shape[1:] == (NEAR, NEAR, 3)
    assert batch.near.dtype == torch.uint8
    assert batch.near_targets.shape == (len(batch.near), len(TYPES), NEAR // STRIDE, NEAR // STRIDE)
    assert all(sentence.strip() for sentence in [*batch.normal, *batch.abnormal, *batch.captions])


def test_about_the_same_number_of_pixels_whatever_the_size():
    small = ClipBatches(0, 1, batch=2, sizes=[(64, 64)])[0]
    assert len(small.pixels) == 2 * 256 * 256 // (64 * 64)


def test_each_group_of_samples_comes_twice_one_round_of_sizes_apart():
    rounds = len(data().sizes)
    early, late = ClipBatches(5, 9, 2, data().sizes)[0], ClipBatches(5, 9, 2, data().sizes)[rounds]
    half = len(early.pixels) // 2
    levels = [picture.float().std(dim=(0, 1, 2)) for picture in (early.pixels[half:], late.pixels[:half])]
    assert early.pixels.shape == late.pixels.shape
    assert torch.equal(early.targets[half:].sum(dim=(1, 2, 3)), late.targets[:half].sum(dim=(1, 2, 3)))
    assert not torch.equal(levels[0], levels[1])


def test_tones_are_often_left_alone_and_twins_get_the_same():
    photo = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    changed = [recoloured(np.random.default_rng(seed)) for seed in range(40)]
    assert 5 < sum(np.array_equal(change(photo), photo) for change in changed) < 30
    assert all(np.array_equal(change(photo), change(photo.copy())) for change in changed)
    assert all(change(photo).shape == photo.shape and change(photo).dtype == np.uint8 for change in changed)


def test_a_number_always_gives_the_same_batch():
    again = ClipBatches(5, length=9, batch=2, sizes=data().sizes)[0]  # a longer training begins alike
    assert torch.equal(again.pixels, first().pixels)
    assert torch.equal(again.targets, first().targets)
    assert (again.normal, again.abnormal) == (first().normal, first().abnormal)
    assert again.captions == first().captions


def test_other_numbers_and_other_seeds_give_other_batches():
    others = [data()[1], ClipBatches(6, 4, 2, data().sizes)[0]]
    for other in others:
        same_size = other.pixels.shape == first().pixels.shape
        assert not (same_size and torch.equal(other.pixels, first().pixels))


def test_every_second_picture_is_the_flawless_twin():
    batch = first()
    assert batch.targets[1::2].max() == 0
    assert batch.targets[::2].max() > 0.5


def test_twins_differ_in_nothing_but_the_defect():
    (image, masks, _), (flawless, none, _) = pair(damaged(), np.random.default_rng(0))
    assert none == []
    changed = np.abs(image.astype(int) - flawless).max(axis=2)
    union = np.any([mask for _, mask in masks], axis=0)
    assert changed[union].mean() > 5 * changed[~union].mean()


def test_picture_masks_and_twin_are_flipped_alike(monkeypatch):
    monkeypatch.setattr(batches, "recoloured", lambda rng: lambda image: image)
    sample = damaged()
    seen = set()
    for seed in range(12):
        (image, masks, _), (flawless, _, _) = pair(sample, np.random.default_rng(seed))
        flip = next(
            (rows, columns)
            for rows in (1, -1)
            for columns in (1, -1)
            if np.array_equal(image, sample.image[::rows, ::columns])
        )
        seen.add(flip)
        rows, columns = flip
        assert np.array_equal(flawless, sample.flawless[::rows, ::columns])
        for (kind, mask), one in zip(masks, sample.instances, strict=True):
            assert kind == one.defect
            assert np.array_equal(mask, one.mask[::rows, ::columns])
    assert len(seen) == 4


def test_targets_are_shares_of_cells_and_their_union():
    mask, other = np.zeros((96, 128), bool), np.zeros((96, 128), bool)
    mask[0:2, 0:4] = True  # half of the first cell
    other[40:48, 40:48] = True  # four whole cells
    found = [Instance(kind, m, box_of(m)) for kind, m in (("scratch", mask), ("hole", other))]
    sample = replace(damaged(), instances=tuple(found))
    photo = (sample.image, [(one.defect, one.mask) for one in found], sample)
    target = collate([photo], np.random.default_rng(0)).targets[0]
    assert target[TYPES.index("scratch"), 0, 0] == 0.5
    assert target[TYPES.index("scratch")].sum() == 0.5
    assert (target[TYPES.index("hole"), 10:12, 10:12] == 1).all()
    assert torch.equal(target[-1], target[:-1].amax(dim=0))


def test_the_last_type_stands_for_all():
    assert (*DEFECTS, "damage") == TYPES


def test_close_ups_hold_their_defect_at_its_place():
    sample = damaged()
    one = sample.instances[0]
    for image, masks, of in close_ups(sample, one, np.random.default_rng(1), count=12):
        assert of is sample
        assert image.shape == (NEAR, NEAR, 3)
        assert [kind for kind, _ in masks] == list(sample.defects)
        rows, columns = np.nonzero(masks[0][1])
        assert len(rows)
        assert max(np.ptp(rows), np.ptp(columns)) + 1 >= NEAR / 5 or one.mask.sum() < (NEAR / 5) ** 2


def test_a_close_up_shows_the_pixels_under_its_mask():
    sample = damaged()
    mask = sample.instances[0].mask
    painted = np.where(mask[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
    sample = replace(sample, image=painted)
    plain = (photo for seed in range(30) for photo in close_ups(sample, sample.instances[0], _untoned(seed)))
    for image, masks, _ in plain:
        inside = masks[0][1]
        assert image[inside].mean() > 200
        assert image[~inside].mean() < 60


def _untoned(seed: int) -> np.random.Generator:
    """A generator with which tones stay as they are and nothing is flipped."""

    class Quiet(np.random.Generator):
        def random(self, *_, **__):
            return 0.39

    return Quiet(np.random.PCG64(seed))
