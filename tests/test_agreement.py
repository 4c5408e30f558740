from __future__ import annotations

import numpy as np
import pytest
import torch

from clipsam.agreement import MapView
from clipsam.masks import MaskFrame
from clipsam.regions import region_prompts
from clipsam.settings import RegionSettings, SamSettings

PHOTO = (120, 200)
FRAME = MaskFrame(PHOTO, (100, 100), (1024, 1024), None)


def ball(row: float, column: float, radius: float) -> np.ndarray:
    """Photo pixels within an ellipse, as mask logits of +-8 on the 100 x 100 mask."""
    ys, xs = np.mgrid[:100, :100]
    distance = np.hypot((ys + 0.5) * 1.2 - 0.5 - row, (xs + 0.5) * 2 - 0.5 - column)
    return np.where(distance <= radius, 8.0, -8.0)


@pytest.fixture
def view() -> MapView:
    """One blob at (60, 70) whose region has a radius of about 20 px, and another at (60, 160)."""
    ys, xs = np.mgrid[: PHOTO[0], : PHOTO[1]]
    blobs = [np.exp(-((ys - 60) ** 2 + (xs - column) ** 2) / 450) for column in (70, 160)]
    coarse = (0.1 + 0.8 * blobs[0] + 0.7 * blobs[1]).astype(np.float32)
    prompts = region_prompts(coarse, RegionSettings())
    assert [round(prompt.positives[0, 0]) for prompt in prompts] == [70, 160]
    return MapView(coarse, prompts, FRAME, torch.device("cpu"))


def judge(view: MapView, answers: list[np.ndarray], ious: list[float], settings: SamSettings | None = None):
    logits = torch.from_numpy(np.stack(answers)[None]).float()
    return view.judge([0], logits, torch.tensor([ious]), settings or SamSettings())


def test_the_mask_that_fits_the_map_beats_sams_own_favourite(view: MapView) -> None:
    verdict = judge(view, [ball(60, 70, 90), ball(60, 70, 12), ball(20, 20, 12)], [0.95, 0.9, 0.99])
    assert verdict.best.tolist() == [1]
    assert verdict.accepted.tolist() == [True]
    assert verdict.iou.tolist() == pytest.approx([0.9])
    assert verdict.agreement.item() > 0.6


def test_sams_score_decides_between_equal_masks(view: MapView) -> None:
    mask = ball(60, 70, 12)
    assert judge(view, [mask, mask, mask], [0.7, 0.9, 0.8]).best.tolist() == [1]


def test_each_selection_ranks_by_its_own_rule(view: MapView) -> None:
    fits, sure, firm = ball(60, 70, 12), ball(62, 80, 17) / 10, ball(56, 64, 20)
    sure[sure > 0] = 1.5
    answers, ious = [fits / 16, sure, firm], [0.6, 0.95, 0.7]
    best = {
        selection: judge(view, answers, ious, SamSettings(selection=selection, min_agreement=0.0)).best.item()
        for selection in ("iou", "agreement", "stability", "iou*agreement", "all")
    }
    agreement = [judge(view, [answer] * 3, [1.0] * 3).agreement.item() for answer in answers]
    product = [iou * agreed for iou, agreed in zip(ious, agreement, strict=True)]
    assert best["iou"] == best["all"] == 1
    assert best["stability"] == 2  # only its edge is steep enough for both levels
    assert best["agreement"] == int(np.argmax(agreement))
    assert best["iou*agreement"] == int(np.argmax(product))


def test_a_mask_that_swallows_the_object_is_refused_however_sure_sam_is(view: MapView) -> None:
    whole = np.full((100, 100), 8.0)
    loose = SamSettings(min_agreement=0.0)
    assert judge(view, [whole] * 3, [1.0] * 3, loose).accepted.tolist() == [False]
    assert judge(
        view, [whole] * 3, [1.0] * 3, SamSettings(min_agreement=0.0, swallow=1e9)
    ).accepted.tolist() == [True]
    double = ball(60, 70, 28)  # twice the area of the region
    assert judge(
        view, [double] * 3, [1.0] * 3, SamSettings(min_agreement=0.0, swallow=1.5)
    ).accepted.tolist() == [False]
    assert judge(
        view, [double] * 3, [1.0] * 3, SamSettings(min_agreement=0.0, swallow=3.0)
    ).accepted.tolist() == [True]


def test_masks_elsewhere_empty_masks_and_masks_that_sam_doubts_are_refused(view: MapView) -> None:
    assert judge(view, [ball(20, 20, 12)] * 3, [0.9] * 3).accepted.tolist() == [False]
    empty = np.full((100, 100), -8.0)
    assert judge(view, [empty] * 3, [0.9] * 3, SamSettings(min_agreement=0.0)).accepted.tolist() == [False]
    good = [ball(60, 70, 12)] * 3
    assert judge(view, good, [0.4] * 3, SamSettings(min_iou=0.5)).accepted.tolist() == [False]


def test_a_refused_mask_gives_way_to_a_worse_one_that_is_not(view: MapView) -> None:
    verdict = judge(view, [np.full((100, 100), 8.0), ball(60, 80, 14), ball(20, 20, 9)], [1.0, 0.1, 1.0])
    assert verdict.best.tolist() == [1]
    assert verdict.accepted.tolist() == [True]


def test_a_second_region_under_the_mask_is_no_fault_but_need_not_be_covered(view: MapView) -> None:
    one = judge(view, [ball(60, 70, 12)] * 3, [1.0] * 3).agreement.item()
    both = judge(view, [np.maximum(ball(60, 70, 12), ball(60, 160, 12))] * 3, [1.0] * 3).agreement.item()
    beside = judge(view, [np.maximum(ball(60, 70, 12), ball(110, 110, 12))] * 3, [1.0] * 3).agreement.item()
    assert both > one - 0.1  # the second blob is a little lower
    assert beside < both - 0.1


def test_agreement_is_the_f_measure_on_the_stretched_map() -> None:
    coarse = np.full((50, 50), 0.2, np.float32)
    coarse[10:30, 10:20] = 0.8
    coarse[10:30, 20:30] = 0.6
    frame = MaskFrame((50, 50), (50, 50), (50, 50), None)
    (prompt,) = region_prompts(coarse, RegionSettings(low=0.4))
    view = MapView(coarse, [prompt], frame, torch.device("cpu"))
    logits = np.full((50, 50), -30.0)
    logits[10:30, 5:20] = 30.0  # half of the region at full height, and half as much beside it
    verdict = judge(view, [logits] * 3, [1.0] * 3)
    precision, recall = (
        200 / 300,
        200 / 300,
    )  # the map counts 1 on the left half, (0.6 - 0.4) / (0.8 - 0.4) on the right
    assert verdict.agreement.item() == pytest.approx(
        1.25 * precision * recall / (0.25 * precision + recall), abs=1e-4
    )
    x0, y0, x1, y1 = verdict.windows[0]
    assert (3 <= x0 <= 5, 8 <= y0 <= 10, 20 <= x1 <= 23, 30 <= y1 <= 33) == (True,) * 4


def test_a_region_smaller_than_a_cell_can_still_be_agreed_with() -> None:
    coarse = np.full((1000, 1400), 0.1, np.float32)
    coarse[501:504, 700:703] = 0.9
    (prompt,) = region_prompts(coarse, RegionSettings(min_area=0.0))
    frame = MaskFrame((1000, 1400), (100, 100), (1024, 1024), None)
    view = MapView(coarse, [prompt], frame, torch.device("cpu"))
    logits = np.full((100, 100), -8.0)
    logits[50, 50] = 8.0
    assert judge(view, [logits] * 3, [1.0] * 3).accepted.tolist() == [True]
