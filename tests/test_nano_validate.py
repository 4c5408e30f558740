"""The figures that selection may use: whether words tell types of defects apart, on a made-up map."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from clipsam.heatmap import CoarseMap
from clipsam.nano.validate import mean_on, told_apart

LEFT, RIGHT = np.zeros((2, 8, 16), dtype=bool)
LEFT[:, :8], RIGHT[:, 8:] = True, True
SAMPLE = SimpleNamespace(
    instances=[SimpleNamespace(defect="scratch", mask=LEFT), SimpleNamespace(defect="hole", mask=RIGHT)]
)


def coarse(scratch: tuple[float, float], hole: tuple[float, float]) -> CoarseMap:
    types = np.array([[scratch], [hole]], np.float32)
    return CoarseMap(types[0], types, ("scratch", "hole"), None)


def test_each_type_is_asked_for_on_its_own_defect_and_on_the_other():
    assert told_apart(coarse((0.6, 0.2), (0.3, 0.4)), SAMPLE) == [True, True]
    assert told_apart(coarse((0.2, 0.6), (0.4, 0.3)), SAMPLE) == [False, False]


def test_the_more_striking_defect_does_not_win_every_name():
    assert told_apart(coarse((0.9, 0.3), (0.8, 0.4)), SAMPLE) == [True, True]


def test_a_mean_on_a_mask_weighs_patches_by_their_pixels():
    mask = np.zeros((8, 16), dtype=bool)
    mask[:, 6:9] = True  # two columns of the left patch, one of the right
    assert np.isclose(mean_on(np.array([[3.0, 9.0]]), mask), 5.0)
