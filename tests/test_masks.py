from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from clipsam.masks import MaskFrame


def resize(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return interpolate(torch.from_numpy(logits)[None, None], size, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


@pytest.mark.parametrize(
    ("photo", "resized"), [((300, 451), (681, 1024)), ((1500, 97), (1024, 66)), ((64, 64), (1024, 1024))]
)
def test_weights_read_a_padded_mask_as_two_resizes_do(
    photo: tuple[int, int], resized: tuple[int, int]
) -> None:
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32) * 5
    frame = MaskFrame(photo, (256, 256), resized, (1024, 1024))
    expected = resize(np.ascontiguousarray(resize(logits, (1024, 1024))[: resized[0], : resized[1]]), photo)
    read = frame.weights(0, np.arange(photo[0])) @ logits @ frame.weights(1, np.arange(photo[1])).T
    np.testing.assert_allclose(read, expected, atol=2e-3)
    part = frame.weights(0, np.arange(7, 31)) @ logits @ frame.weights(1, np.arange(11, 64)).T
    np.testing.assert_allclose(part, expected[7:31, 11:64], atol=2e-3)


def test_weights_read_a_stretched_mask_as_one_resize_does() -> None:
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32) * 5
    frame = MaskFrame((311, 203), (256, 256), (1024, 1024), None)
    read = frame.weights(0, np.arange(311)) @ logits @ frame.weights(1, np.arange(203)).T
    np.testing.assert_allclose(read, resize(logits, (311, 203)), atol=2e-3)


def test_weights_average_to_one() -> None:
    frame = MaskFrame((50, 71), (24, 24), (68, 96), (96, 96))
    for axis, size in enumerate(frame.photo):
        np.testing.assert_allclose(frame.weights(axis, np.arange(size)).sum(axis=1), 1, atol=1e-6)


def test_a_crop_is_read_at_photo_positions() -> None:
    logits = np.random.default_rng(0).normal(size=(24, 24)).astype(np.float32)
    crop = MaskFrame((40, 60), (24, 24), (40, 60), None)
    placed = MaskFrame((40, 60), (24, 24), (40, 60), None, origin=(100, 7))
    rows, columns = np.arange(5, 30), np.arange(10, 44)
    here = crop.weights(0, rows) @ logits @ crop.weights(1, columns).T
    there = placed.weights(0, rows + 100) @ logits @ placed.weights(1, columns + 7).T
    np.testing.assert_array_equal(here, there)
