"""Features of several layers: the tower's own, on one grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_clip import tiny_encoder
from torch import nn

from clipsam.errors import TowerError, UsageError
from clipsam.layers import compressed, encode_layers, encode_whole, local_mean
from clipsam.nano.rarity import statistics
from clipsam.settings import LayerSettings

PHOTO = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
PICTURE = torch.from_numpy(PHOTO).permute(2, 0, 1)[None].float() / 255


class Stages(nn.Module):
    """A patch embedding that shows its stages, at strides 4 and 8, as nano's does."""

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def __getattr__(self, name):
        return super().__getattr__(name) if name in ("embed", "forward") else getattr(self.embed, name)

    def forward(self, x):
        return self.embed(x)

    def stages(self, x):
        return [F.avg_pool2d(x, 4), F.max_pool2d(x, 8)]


@pytest.fixture(scope="module")
def staged():
    encoder = tiny_encoder("hybrid")
    encoder.tower.trunk.patch_embed = Stages(encoder.tower.trunk.patch_embed)
    return encoder


def test_depths_are_blocks_of_the_tower():
    encoder = tiny_encoder("native")  # four blocks
    found = encode_layers(PHOTO, encoder, LayerSettings(size=64, depths=(0.25, 1.0)))
    expected = encoder.encode_levels(PICTURE, [1, 4])[0]
    assert [layer.shape for layer in found] == [(48, 6, 8)] * 2
    torch.testing.assert_close(torch.stack(found), expected.permute(0, 3, 1, 2))


def test_stages_and_statistics_are_brought_to_the_grid(staged):
    settings = LayerSettings(size=64, depths=(), strides=(4, 8), cells=(8, 16), grid=8)
    fine, own, small, wide = encode_layers(PHOTO, staged, settings)
    normalised = staged._normalised(PICTURE)
    torch.testing.assert_close(fine, F.avg_pool2d(normalised, 8)[0])
    torch.testing.assert_close(own, F.max_pool2d(normalised, 8)[0])
    torch.testing.assert_close(small, compressed(statistics(PICTURE, 8)[0]))
    expected = F.interpolate(compressed(statistics(PICTURE, 16)[0])[None], (6, 8), mode="bilinear")[0]
    torch.testing.assert_close(wide, expected)


def test_contrasts_are_compressed_and_nothing_else():
    found, plain = compressed(statistics(PICTURE, 8)[0]), statistics(PICTURE, 8)[0]
    torch.testing.assert_close(found[[0, 1, 2, 10, 11]], plain[[0, 1, 2, 10, 11]])
    torch.testing.assert_close(found[3:10].square() - 0.003, plain[3:10])


def test_a_photo_is_resized_to_whole_patches():
    found = encode_layers(PHOTO[:, :50], tiny_encoder("native"), LayerSettings(size=40, depths=(1.0,)))
    assert found[0].shape[1:] == (5, 5)


def test_a_small_photo_is_seen_at_its_own_size_where_that_is_wanted():
    encoder = tiny_encoder("native")
    larger, own = (
        encode_layers(PHOTO, encoder, LayerSettings(size=128, enlarge=enlarge, depths=(1.0,)))[0]
        for enlarge in (True, False)
    )
    assert larger.shape[1:] == (12, 16)
    torch.testing.assert_close(own, encode_layers(PHOTO, encoder, LayerSettings(size=64, depths=(1.0,)))[0])
    smaller = encode_layers(PHOTO, encoder, LayerSettings(size=32, enlarge=False, depths=(1.0,)))[0]
    assert smaller.shape[1:] == (3, 4)  # larger photos are made smaller as ever


def test_the_whole_photo_has_the_towers_own_embedding():
    encoder = tiny_encoder("native")
    found = encode_whole(PHOTO[:32, :32], encoder, LayerSettings(size=32))
    pixels = encoder._normalised(PICTURE[..., :32, :32])
    expected = F.normalize(encoder.model.encode_image(pixels), dim=-1)[0]
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=1e-4)


def test_stages_that_are_not_there_are_refused(staged):
    with pytest.raises(TowerError, match="no stage of stride 2; expected some of 4, 8"):
        encode_layers(PHOTO, staged, LayerSettings(size=64, depths=(), strides=(2,)))
    with pytest.raises(TowerError, match="convolutional stem"):
        encode_layers(PHOTO, tiny_encoder("native"), LayerSettings(size=64, depths=(), strides=(4,)))


@pytest.mark.parametrize(
    "wrong", [{"depths": ()}, {"depths": (0.0,)}, {"cells": (0,)}, {"scaling": "none"}, {"size": 0}]
)
def test_settings_that_describe_nothing_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        LayerSettings(**wrong)


def test_the_local_mean_counts_only_what_is_there():
    features = torch.arange(12.0).view(1, 3, 4)
    found = local_mean(features, 3)
    assert float(found[0, 0, 0]) == pytest.approx(features[0, :2, :2].mean())
    assert float(found[0, 1, 1]) == pytest.approx(features[0, :3, :3].mean())
    assert local_mean(features, 1) is features
