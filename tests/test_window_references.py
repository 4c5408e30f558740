"""WinCLIP+ on the way of a photo: the means of text and memory, as the paper has them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_clip import tiny_encoder

from clipsam.errors import UsageError
from clipsam.heatmap import CoarseMap, enlarge
from clipsam.references import ReferenceMemory
from clipsam.settings import HeatmapSettings
from clipsam.window_references import WindowReferences
from clipsam.windows import WindowMemory

SETTINGS = HeatmapSettings(attention="windows", windows=(2, 3), sizes=(32,), square=True, smoothing=0.0)


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder("native")


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8)


def test_maps_and_scores_are_means_of_text_and_memory(encoder):
    known, photo = photos(3), photos(4)[3]
    memory = WindowReferences.build(list(known), encoder, SETTINGS)
    text = np.random.default_rng(0).random((32, 32)).astype(np.float32)
    found = memory.join(CoarseMap(text, text[None], ("any",), 0.3), photo)

    def features(pixels):
        pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return encoder.encode_windows(pictures, (2, 3))

    strange = WindowMemory.of(features(known)).distance(features(photo[None]))[0].numpy()
    np.testing.assert_allclose(found.anomaly, (text + enlarge(strange, (32, 32), 0.0)) / 2, atol=1e-5)
    assert found.image_score == pytest.approx((0.3 + strange.max()) / 2, abs=1e-5)
    assert memory.join(CoarseMap(text, text[None], ("any",), None), photo).image_score is None


def test_what_is_remembered_leaves_half_of_the_text(encoder):
    known = photos(2)
    text = np.full((32, 32), 0.5, np.float32)
    found = WindowReferences.build(list(known), encoder, SETTINGS).join(
        CoarseMap(text, text[None], ("any",), None), known[1]
    )
    np.testing.assert_allclose(found.anomaly, 0.25, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "change", "words"),
    [
        (0, {}, "no reference photos"),
        (1, {"sizes": (32, 64)}, "at one size"),
        (1, {"attention": "plain"}, "attention 'windows'"),
    ],
)
def test_what_it_cannot_do_is_said(encoder, count, change, words):
    with pytest.raises(UsageError, match=words):
        WindowReferences.build(list(photos(1))[:count], encoder, replace(SETTINGS, **change))


def test_a_preset_with_windows_gets_this_memory(encoder, tmp_path):
    from PIL import Image

    from clipsam.companions import references_from
    from clipsam.presets import NANO

    Image.fromarray(photos(1)[0]).save(tmp_path / "good.png")
    found = references_from(tmp_path)
    windows = replace(NANO, heatmap=SETTINGS)
    assert isinstance(found.memory(encoder, windows, None), WindowReferences)
    plain = replace(NANO, layers=replace(NANO.layers, strides=(), size=32))
    assert isinstance(found.memory(encoder, plain, None), ReferenceMemory)
