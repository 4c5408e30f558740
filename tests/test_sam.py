"""The oracle everywhere is a plain call of transformers: its processor, its model, its post-processing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_sam import FAMILIES, plain_answers, shake, tiny, tiny_refiner, tiny_sam
from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

from clipsam.edges import snap
from clipsam.errors import UsageError, WeightsError
from clipsam.fusion import fuse
from clipsam.regions import RegionPrompt, region_prompts
from clipsam.sam import KINDS, SamRefiner, SoftMask
from clipsam.settings import SELECTIONS, STRATEGIES, RegionSettings, SamSettings
from clipsam.strategies import looks, strategy_prompts

ALL = SamSettings(min_agreement=0.0, swallow=1e9)  # refuse nothing
SHAPES = [(90, 140), (141, 77), (64, 64), (333, 501), (31, 200), (57, 33)]


def scene(shape: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.float32], tuple[RegionPrompt, ...]]:
    """A blocky random photo, a coarse map with two blobs, and their prompts."""
    height, width = shape
    random = np.random.default_rng(height)
    blocks = random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    pixels = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    ys, xs = np.mgrid[:height, :width]
    coarse = np.full(shape, 0.1)
    for row, column, level in ((0.3, 0.25, 0.9), (0.7, 0.75, 0.7)):
        squares = (ys - row * height) ** 2 + (xs - column * width) ** 2
        coarse = np.maximum(coarse, level * np.exp(-squares / (0.02 * min(shape) ** 2)))
    coarse = coarse.astype(np.float32)
    prompts = region_prompts(coarse, RegionSettings())
    assert len(prompts) == 2
    return pixels, coarse, prompts


def asked(prompt: RegionPrompt, kind: str) -> tuple[Any, Any, Any]:
    """Points, labels and box as a user of transformers would write them."""
    points = [*prompt.positives.tolist(), *prompt.negatives.tolist()]
    labels = [1] * len(prompt.positives) + [0] * len(prompt.negatives)
    box = list(prompt.box_xyxy) if "box" in kind else None
    return (points, labels, box) if "points" in kind else (None, None, box)


def on_photo(mask: SoftMask, shape: tuple[int, int]) -> NDArray[np.float32]:
    full = np.zeros(shape, np.float32)
    height, width = mask.probability.shape
    full[mask.y0 : mask.y0 + height, mask.x0 : mask.x0 + width] = mask.probability
    return full


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_masks_and_scores_are_those_of_a_plain_call(family: str, shape: tuple[int, int]) -> None:
    refiner = tiny_refiner(family)
    model, processor = tiny(family)
    pixels, coarse, prompts = scene(shape)
    masks = refiner.refine(pixels, prompts, coarse, ALL)
    assert [(mask.region, mask.kind) for mask in masks] == [
        (region, kind) for region in (0, 1) for kind in KINDS
    ]
    for mask in masks:
        answers, ious = plain_answers(model, processor, pixels, *asked(prompts[mask.region], mask.kind))
        x0, y0, x1, y1 = mask.window
        errors = [np.abs(answer[y0:y1, x0:x1] - mask.probability).max() for answer in answers]
        chosen = int(np.argmin(errors))
        # Prompts in one batch or one by one: rounding differs by up to 1.2e-4, a shifted point by 1e-3.
        assert errors[chosen] < 3e-4
        assert mask.iou == pytest.approx(np.clip(ious[chosen], 0, 1), abs=1e-5)
        assert sorted(errors)[1] > 1e-2  # the three answers differ, so that mixing them up would show
        left_out = answers[chosen].copy()
        left_out[y0:y1, x0:x1] = 0
        assert left_out.max() < 0.03


def test_a_point_that_is_off_by_one_pixel_would_be_noticed() -> None:
    model, processor = tiny_sam()
    pixels, coarse, prompts = scene((90, 140))
    mask = tiny_refiner().refine(pixels, prompts, coarse, replace(ALL, kinds=("points",)))[0]
    points, labels, box = asked(prompts[0], "points")
    moved = [[x + 1, y] for x, y in points]
    answers, _ = plain_answers(model, processor, pixels, moved, labels, box)
    x0, y0, x1, y1 = mask.window
    assert min(np.abs(answer[y0:y1, x0:x1] - mask.probability).max() for answer in answers) > 1e-3


@pytest.mark.parametrize("image_size", [96, 128])
@pytest.mark.parametrize("family", FAMILIES)
def test_other_input_sizes(family: str, image_size: int) -> None:
    model, processor = tiny(family, image_size)
    pixels, coarse, prompts = scene((75, 118))
    for mask in tiny_refiner(family, image_size).refine(pixels, prompts, coarse, ALL):
        answers, _ = plain_answers(model, processor, pixels, *asked(prompts[mask.region], mask.kind))
        x0, y0, x1, y1 = mask.window
        assert min(np.abs(answer[y0:y1, x0:x1] - mask.probability).max() for answer in answers) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cascade_is_three_plain_calls_that_feed_each_other(family: str) -> None:
    refiner = tiny_refiner(family)
    model, processor = tiny(family)
    pixels, coarse, prompts = scene((90, 140))
    settings = replace(ALL, kinds=("points",), strategy="cascade")
    masks = refiner.refine(pixels, prompts, coarse, settings)
    assert [mask.kind for mask in masks] == ["points", "points"]
    for mask, prompt in zip(masks, prompts, strict=True):
        points, labels, _ = asked(prompt, "points")
        inputs = processor(
            images=pixels, input_points=[[points]], input_labels=[[labels]], return_tensors="pt"
        )
        sizes = [inputs.pop("original_sizes")]
        if "reshaped_input_sizes" in inputs:
            sizes.append(inputs.pop("reshaped_input_sizes"))
        # Every choice of one of three masks in the first two steps: the cascade must be one of these chains.
        ends = []
        with torch.no_grad():
            first = model(**inputs).pred_masks[0, 0]
            for one in first:
                second = model(**inputs, input_masks=one[None, None]).pred_masks[0, 0]
                for two in second:
                    ys, xs = np.nonzero(two.numpy() > 0)
                    scale = 64 / two.shape[-1]
                    edges = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) * scale
                    if len(sizes) == 2:
                        edges = np.minimum(edges, [64, 41, 64, 41])  # 90 x 140 becomes 41 x 64
                    box = torch.tensor(edges)[None, None].to(inputs["input_points"].dtype)
                    output = model(**inputs, input_boxes=box, input_masks=two[None, None])
                    ends += processor.post_process_masks(output.pred_masks, *sizes, binarize=False)[0][0]
        x0, y0, x1, y1 = mask.window
        errors = [np.abs(torch.sigmoid(end).numpy()[y0:y1, x0:x1] - mask.probability).max() for end in ends]
        assert min(errors) < 1e-4
        assert np.median(errors) > 1e-3


@pytest.mark.parametrize("strategy", ["ring", "cascade"])
def test_batches_change_nothing_but_their_size(strategy: str) -> None:
    pixels, coarse, prompts = scene((90, 140))
    many = (*prompts, replace(prompts[0], negatives=prompts[0].negatives[:2]), *prompts)
    whole = tiny_refiner().refine(pixels, many, coarse, replace(ALL, strategy=strategy))
    pieces = tiny_refiner().refine(pixels, many, coarse, replace(ALL, strategy=strategy, batch=1))
    assert len(whole) == len(pieces) == 15
    for one, other in zip(whole, pieces, strict=True):
        assert (one.region, one.kind) == (other.region, other.kind)
        np.testing.assert_allclose(on_photo(one, coarse.shape), on_photo(other, coarse.shape), atol=1e-4)


def test_the_photo_is_embedded_once_and_not_at_all_without_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    refiner = tiny_refiner()
    calls: list[torch.Size] = []
    embed = SamModel.get_image_embeddings
    watched = lambda model, values: calls.append(values.shape) or embed(model, values)  # noqa: E731
    monkeypatch.setattr(SamModel, "get_image_embeddings", watched)
    pixels, coarse, prompts = scene((90, 140))
    assert refiner.refine(pixels, (), coarse) == ()
    assert calls == []
    refiner.refine(pixels, prompts, coarse, replace(ALL, batch=1, strategy="cascade"))
    assert calls == [(1, 3, 64, 64)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_processor_never_gets_the_whole_of_a_large_photo(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would copy it twice: 600 MB of a photo of 100 megapixels."""
    refiner = tiny_refiner(family)
    processor = type(refiner._processor.image_processor)
    sizes: list[torch.Size] = []
    process = processor.process_image
    watched = lambda self, image, **how: sizes.append(image.shape) or process(self, image, **how)  # noqa: E731
    monkeypatch.setattr(processor, "process_image", watched)
    pixels, coarse, prompts = scene((500, 700))
    refiner.refine(pixels, prompts, coarse, ALL)
    assert len(sizes) == 1
    assert max(sizes[0]) == 64


def test_the_same_photo_gives_the_same_bits() -> None:
    pixels, coarse, prompts = scene((90, 140))
    first, again = (tiny_refiner().refine(pixels, prompts, coarse, ALL) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.probability, other.probability)


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_encodes_coarsely_but_keeps_coordinates(family: str) -> None:
    pixels, coarse, prompts = scene((90, 140))
    exact = tiny_refiner(family).refine(pixels, prompts, coarse, ALL)
    rough = tiny_refiner(family, dtype="bfloat16").refine(pixels, prompts, coarse, ALL)
    assert len(exact) == len(rough)
    off = [
        np.abs(on_photo(one, coarse.shape) - on_photo(other, coarse.shape)).mean()
        for one, other in zip(exact, rough, strict=True)
    ]
    assert 1e-5 < max(off) < 0.1
    assert rough[0].probability.dtype == np.float32


def test_masks_cost_their_logits_not_the_photo() -> None:
    pixels, coarse, prompts = scene((900, 1400))
    for mask in tiny_refiner().refine(pixels, prompts, coarse, ALL):
        assert mask.logits.base is None
        assert mask.logits.nbytes == 32 * 32 * 4


@pytest.mark.parametrize("family", FAMILIES)
def test_default_settings_refuse_the_masks_of_random_weights(family: str) -> None:
    pixels, coarse, prompts = scene((90, 140))
    assert tiny_refiner(family).refine(pixels, prompts, coarse) == ()


def every_answer(prompt: RegionPrompt, kind: str, pixels: NDArray[np.uint8]) -> Any:
    """SAM's three answers [3, H, W], their scores and their logits' stability, by transformers alone."""
    answers, ious = plain_answers(*tiny_sam(), pixels, *asked(prompt, kind))
    return answers, ious


def nearest(mask: SoftMask, answers: NDArray[np.float32]) -> int:
    x0, y0, x1, y1 = mask.window
    errors = [np.abs(answer[y0:y1, x0:x1] - mask.probability).max() for answer in answers]
    assert min(errors) < 1e-4
    return int(np.argmin(errors))


def test_each_strategy_asks_its_own_points() -> None:
    pixels, coarse, prompts = scene((90, 140))
    points = replace(ALL, kinds=("points",))
    masks = {
        strategy: tiny_refiner().refine(pixels, prompts, coarse, replace(points, strategy=strategy))[0]
        for strategy in STRATEGIES
    }
    images = {strategy: on_photo(mask, coarse.shape) for strategy, mask in masks.items()}
    for one in STRATEGIES:
        for other in STRATEGIES:
            assert one == other or np.abs(images[one] - images[other]).max() > 1e-3
    for strategy in ("ring", "mmr", "patch-grid"):
        prompt = strategy_prompts(coarse, prompts, replace(points, strategy=strategy))[0]
        nearest(masks[strategy], every_answer(prompt, "points", pixels)[0])


def test_each_selection_keeps_its_own_answer() -> None:
    pixels, coarse, prompts = scene((90, 140))
    chosen: dict[str, list[int]] = {}
    for selection in SELECTIONS:
        settings = replace(ALL, selection=selection, min_agreement=0.0)
        for mask in tiny_refiner().refine(pixels, prompts, coarse, settings):
            answers, ious = every_answer(prompts[mask.region], mask.kind, pixels)
            which = nearest(mask, answers)
            assert mask.iou == pytest.approx(np.clip(ious[which], 0, 1), abs=1e-5)
            chosen.setdefault(selection, []).append(which)
            if selection == "iou":
                assert which == np.clip(ious, 0, 1).argmax()
    assert chosen["all"] == [0, 1, 2] * 6
    assert len({tuple(found) for found in chosen.values()}) >= 3


def test_a_tiny_region_is_asked_on_a_crop_as_if_the_crop_were_the_photo() -> None:
    pixels, coarse, prompts = scene((333, 501))
    settings = replace(ALL, kinds=("box",))
    cell = 501 / 32
    sides = [max(box[2] - box[0], box[3] - box[1]) for box in (prompt.box_xyxy for prompt in prompts)]
    crop = int(max(sides) / cell) + 1
    whole = tiny_refiner().refine(pixels, prompts, coarse, settings)
    masks = tiny_refiner().refine(pixels, prompts, coarse, replace(settings, crop=crop))
    assert [mask.region for mask in masks] == [0, 1]
    for mask, before, prompt, look in zip(
        masks, whole, prompts, looks(prompts, coarse.shape, 32, SamSettings(crop=crop)), strict=True
    ):
        x0, y0, x1, y1 = look.window
        assert (mask.frame.photo, mask.frame.origin) == ((y1 - y0, x1 - x0), (y0, x0))
        left, top, right, bottom = prompt.box_xyxy
        box = [left - x0, top - y0, right - x0, bottom - y0]
        answers, _ = plain_answers(*tiny_sam(), pixels[y0:y1, x0:x1], None, None, box)
        a, b, c, d = mask.window
        errors = [
            np.abs(answer[b - y0 : d - y0, a - x0 : c - x0] - mask.probability).max() for answer in answers
        ]
        assert min(errors) < 1e-4
        assert mask.prompt is prompt
        assert np.abs(on_photo(mask, coarse.shape) - on_photo(before, coarse.shape)).max() > 0.01
        assert fuse(coarse, [mask]).shape == coarse.shape


def test_the_edge_cue_moves_what_is_asked() -> None:
    pixels, coarse, prompts = scene((90, 140))
    settings = replace(ALL, kinds=("box",), edges=0.05)
    (mask, _) = tiny_refiner().refine(pixels, prompts, coarse, settings)
    (moved, _) = snap(prompts, pixels, 0.05)
    assert moved.box_xyxy != prompts[0].box_xyxy
    assert mask.prompt.box_xyxy == moved.box_xyxy
    nearest(mask, every_answer(moved, "box", pixels)[0])


def test_user_errors() -> None:
    pixels, coarse, prompts = scene((90, 140))
    refiner = tiny_refiner()
    with pytest.raises(UsageError, match="points, box, box\\+points; found circle"):
        refiner.refine(pixels, prompts, coarse, SamSettings(kinds=("circle",)))
    for wrong in (
        {"strategy": "x"},
        {"selection": "x"},
        {"edges": 1.5},
        {"patch_margin": 0.5},
        {"max_points": 0},
    ):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            refiner.refine(pixels, prompts, coarse, SamSettings(**wrong))
    with pytest.raises(UsageError, match="at least 1"):
        refiner.refine(pixels, prompts, coarse, SamSettings(batch=0))
    with pytest.raises(UsageError, match="same photo"):
        refiner.refine(pixels, prompts, coarse[:-1])
    model, processor = tiny_sam()
    with pytest.raises(UsageError, match="float16"):
        SamRefiner(model, processor, dtype="float16")
    clip = type("Model", (), {"config": type("Config", (), {"model_type": "clip"})})()
    with pytest.raises(WeightsError, match="'clip'"):
        SamRefiner(clip, processor)


@pytest.mark.slow
def test_the_real_vit_b_on_a_photo_that_is_not_square() -> None:
    torch.manual_seed(0)
    model, processor = SamModel(SamConfig()), SamProcessor(SamImageProcessor())
    shake(model)
    pixels, coarse, prompts = scene((300, 451))
    refiner = SamRefiner(model, processor, name="vit-b")
    masks = refiner.refine(pixels, prompts[:1], coarse, replace(ALL, kinds=("box+points",)))
    answers, _ = plain_answers(model, processor, pixels, *asked(prompts[0], "box+points"))
    (mask,) = masks
    x0, y0, x1, y1 = mask.window
    assert min(np.abs(answer[y0:y1, x0:x1] - mask.probability).max() for answer in answers) < 1e-4
    assert mask.probability.std() > 0.01
