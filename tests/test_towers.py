"""Towers against open_clip itself: pooled embedding, plain patches, positions, poolers; refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_clip import _TIMM, IMAGE, PATCH, TOWERS, tiny_encoder, tiny_model
from torch import Tensor

from clipsam.errors import TowerError
from clipsam.towers import open_tower


def pictures(height: int = IMAGE, width: int = IMAGE) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("tower", TOWERS)
def test_pooled_equals_encode_image_at_native_size(tower: str) -> None:
    reference = tiny_model(tower)
    view = open_tower(tiny_model(tower).visual)
    with torch.no_grad():
        expected = reference.encode_image(pictures(), normalize=True)
        start = view.embed(pictures())
        tokens = start.tokens
        for block in start.blocks:
            tokens = block(tokens)
        pooled = F.normalize(view.pool(tokens), dim=-1)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", ["native", "native-average", "native-custom"])
def test_plain_patches_are_open_clips_own_normed_and_projected_once(tower: str) -> None:
    visual = tiny_model(tower).visual
    with torch.no_grad():
        last = visual.forward_intermediates(pictures(), indices=1, output_fmt="NLC")["image_intermediates"][
            -1
        ]
        expected = F.normalize(visual.ln_post(last) @ visual.proj, dim=-1).unflatten(1, (4, 4))
    ours = tiny_encoder(tower, mean=(0, 0, 0), std=(1, 1, 1)).encode_pixels(pictures(), "plain").patches
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", ["timm", "postnorm", "hybrid", "eva", "eva-fused"])
def test_plain_patches_are_timms_own_normed_and_projected_once(tower: str) -> None:
    visual = tiny_model(tower).visual
    with torch.no_grad():
        last = visual.forward_intermediates(
            pictures(), indices=1, normalize_intermediates=True, output_fmt="NLC"
        )
        features = visual.trunk.fc_norm(last["image_intermediates"][-1])
        expected = F.normalize(visual.head(visual.trunk.head(features)), dim=-1).unflatten(1, (4, 4))
    ours = tiny_encoder(tower, mean=(0, 0, 0), std=(1, 1, 1)).encode_pixels(pictures(), "plain").patches
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_average_pooling_is_the_mean_of_the_projected_patches() -> None:
    """Where the norm comes before an average, pooling and projection commute: a second norm or projection
    would show.
    """
    view = open_tower(tiny_model("native").visual)
    view.visual.pool_type = "avg"
    with torch.no_grad():
        tokens = view.embed(pictures()).tokens
        torch.testing.assert_close(
            view.project(tokens[:, 1:]).mean(dim=1), view.pool(tokens), atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("tower", ["coca", "siglip"])
def test_attention_poolers_see_each_patch_alone(tower: str) -> None:
    view = open_tower(tiny_model(tower).visual)
    with torch.no_grad():
        tokens = view.embed(pictures()).tokens
        projected = view.project(tokens)
        for i in range(tokens.shape[1]):
            alone = tokens[:, i : i + 1]
            torch.testing.assert_close(projected[:, i], view.pool(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", ["native", "timm"])
def test_positions_keep_their_place_and_prefix_tokens_theirs(tower: str) -> None:
    """With patches of zeros, what is left are the positions: twice the grid is about each one twice."""
    model = tiny_model(tower)
    view = open_tower(model.visual)
    with torch.no_grad():
        if tower == "native":
            model.visual.ln_pre = torch.nn.Identity()
            model.visual.conv1.weight.zero_()
        else:
            model.visual.trunk.patch_embed.proj.weight.zero_()
            model.visual.trunk.patch_embed.proj.bias.zero_()
        small = view.embed(pictures()).tokens
        large = view.embed(pictures(2 * IMAGE, IMAGE))
    prefix = view.prefix
    assert large.grid == (8, 4)
    torch.testing.assert_close(large.tokens[:, :prefix], small[:, :prefix])
    grid = large.tokens[:, prefix:].unflatten(1, large.grid).permute(0, 3, 1, 2)
    back = F.interpolate(grid, (4, 4), mode="area").flatten(2).transpose(1, 2)
    correlation = F.cosine_similarity(back.flatten(), small[:, prefix:].flatten(), dim=0)
    assert correlation > 0.95


@pytest.mark.parametrize("tower", TOWERS)
def test_sizes_may_change_back_and_forth(tower: str) -> None:
    encoder = tiny_encoder(tower)
    before = encoder.encode_pixels(pictures())
    assert encoder.encode_pixels(pictures(2 * PATCH, 7 * PATCH)).patches.shape[:3] == (2, 2, 7)
    torch.testing.assert_close(encoder.encode_pixels(pictures()).patches, before.patches)


def test_towers_without_patch_tokens_are_refused_with_the_reason() -> None:
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel

    resnet = ModifiedResNet(layers=[1, 1, 1, 1], output_dim=8, heads=2, image_size=32, width=8)
    with pytest.raises(
        TowerError, match=r"ModifiedResNet has no patch tokens.*expected a vision transformer"
    ):
        open_tower(resnet)
    with pytest.raises(TowerError, match="ResNet has no patch tokens"):
        open_tower(TimmModel("resnet10t", embed_dim=8, image_size=32, pool="avg"))


def test_blocks_that_cannot_be_opened_are_refused() -> None:
    from open_clip.timm_model import TimmModel

    options = {key.removeprefix("timm_"): value for key, value in _TIMM.items()}
    with pytest.raises(TowerError, match="ParallelScalingBlock"):
        open_tower(TimmModel("tiny_clip_parallel", embed_dim=8, **options))


def test_a_second_attentional_pooler_is_refused() -> None:
    import open_clip
    from tiny_clip import _NATIVE, tiny_config

    config = {
        **tiny_config(),
        "vision_cfg": {**_NATIVE, "attentional_pool": "cascade", "attn_pooler_heads": 3},
    }
    with pytest.raises(TowerError, match="pools twice"):
        open_tower(open_clip.CLIP(**config).visual)


@pytest.mark.parametrize("tower", [name for name in TOWERS if not name.startswith("coca")])
def test_levels_are_the_librarys_own_intermediates(tower: str) -> None:
    visual = tiny_model(tower).visual
    with torch.no_grad():
        expected = visual.forward_intermediates(pictures(), indices=[0, 2, 3], output_fmt="NCHW")
    expected = torch.stack(expected["image_intermediates"], dim=1).movedim(2, -1)
    ours = tiny_encoder(tower, mean=(0, 0, 0), std=(1, 1, 1)).encode_levels(pictures(), (1, 3, 4))
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    turned = tiny_encoder(tower, mean=(0, 0, 0), std=(1, 1, 1)).encode_levels(pictures(), (4, 1))
    torch.testing.assert_close(turned, expected[:, [2, 0]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("blocks", [(), (0, 1), (5,)])
def test_levels_of_blocks_that_are_not_there_are_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(TowerError, match="1 to 4, the depth of native"):
        tiny_encoder().encode_levels(pictures(), blocks)


def test_levels_behind_the_last_one_asked_for_do_not_run() -> None:
    encoder = tiny_encoder()
    encoder.model.visual.transformer.resblocks[3].ln_1.weight.data.fill_(float("nan"))
    assert encoder.encode_levels(pictures(), (2,)).isfinite().all()
    assert encoder.encode_levels(pictures(), (4,)).isnan().any()
