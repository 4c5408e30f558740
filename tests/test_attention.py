"""Attention modes against direct computations on the same weights that share no code with the package."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_clip import DEPTH, HEADS, MEAN, PATCH, STD, TOWERS, tiny_encoder, tiny_model
from torch import Tensor

from clipsam.attention import ATTENTION_MODES, attend_densely, find_mode
from clipsam.errors import TowerError, UsageError
from clipsam.towers import attend, open_tower

NON_SQUARE = (3 * PATCH, 5 * PATCH)


@pytest.fixture
def pixels() -> Tensor:
    return torch.rand(2, 3, *NON_SQUARE, generator=torch.Generator().manual_seed(7))


def normalised(pixels: Tensor) -> Tensor:
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def positions_for(table: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """Position embeddings [prefix + 16, c] of the 4x4 native grid, for another grid."""
    square = table[prefix:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, grid, mode="bicubic", antialias=True)
    return torch.cat([table[:prefix], resized.permute(0, 2, 3, 1).reshape(grid[0] * grid[1], -1)])


def value_attention(values: Tensor) -> Tensor:
    """softmax(v vᵀ / √c) v for one picture and one head at a time, [n, c] -> [n, c]."""
    joined = []
    for v in values.chunk(HEADS, dim=-1):
        joined.append(torch.softmax(v @ v.T / math.sqrt(v.shape[-1]), dim=-1) @ v)
    return torch.cat(joined, dim=-1)


def direct_native(visual: Any, picture: Tensor, mode: str, last: int) -> Tensor:
    """Dense features [h, w, d] of one normalised picture through open_clip's own blocks."""
    patches = visual.conv1(picture[None])[0]
    grid = patches.shape[1:]
    x = torch.cat([visual.class_embedding[None], patches.flatten(1).T])
    x = visual.ln_pre(x + positions_for(visual.positional_embedding, 1, grid))
    blocks = list(visual.transformer.resblocks)
    for block in blocks[:-last]:
        x = block(x[None])[0]
    dense = x
    for block in blocks[-last:]:
        width = x.shape[-1]
        weight, bias = block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :]
        v = block.ln_1(x) @ weight.T + bias
        if mode == "v-v":
            dense = dense + block.attn.out_proj(value_attention(v))
        else:
            dense = x + block.attn.out_proj(v)
            dense = dense + block.mlp(block.ln_2(dense))
        x = block(x[None])[0]
    return F.normalize(visual.ln_post(dense[1:]) @ visual.proj, dim=-1).unflatten(0, grid)


def direct_timm(visual: Any, picture: Tensor, mode: str, last: int) -> Tensor:
    """The same through a timm trunk with a class token, a register and layer scale."""
    trunk = visual.trunk
    patches = F.conv2d(
        picture[None], trunk.patch_embed.proj.weight, trunk.patch_embed.proj.bias, stride=PATCH
    )[0]
    grid = patches.shape[1:]
    x = torch.cat([trunk.cls_token[0], trunk.reg_token[0], patches.flatten(1).T])
    x = x + positions_for(trunk.pos_embed[0], 2, grid)
    for block in trunk.blocks[:-last]:
        x = block(x[None])[0]
    dense = x
    for block in trunk.blocks[-last:]:
        v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)[2]
        if mode == "v-v":
            dense = dense + block.ls1.gamma * block.attn.proj(value_attention(v))
        else:
            dense = x + block.ls1.gamma * block.attn.proj(v)
            dense = dense + block.ls2.gamma * block.mlp(block.norm2(dense))
        x = block(x[None])[0]
    return F.normalize(visual.head(trunk.norm(dense[2:])), dim=-1).unflatten(0, grid)


DIRECT = {"native": direct_native, "timm": direct_timm}


@pytest.mark.parametrize("tower", DIRECT)
@pytest.mark.parametrize(
    ("mode", "blocks", "last"), [("v-v", None, 2), ("v-v", 3, 3), ("v-v", 1, 1), ("value", None, 1)]
)
def test_dense_features_equal_a_direct_computation(
    tower: str, mode: str, blocks: int | None, last: int, pixels: Tensor
) -> None:
    ours = tiny_encoder(tower).encode_pixels(pixels, mode, blocks=blocks).patches
    with torch.no_grad():
        visual = tiny_model(tower).visual
        direct = torch.stack([DIRECT[tower](visual, picture, mode, last) for picture in normalised(pixels)])
    assert ours.shape == direct.shape == (2, 3, 5, 24)
    torch.testing.assert_close(ours, direct, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", TOWERS)
def test_heads_and_merge_rebuild_every_block(tower: str, pixels: Tensor) -> None:
    view = open_tower(tiny_model(tower).visual)
    with torch.no_grad():
        start = view.embed(pixels)
        tokens = start.tokens
        for block in start.blocks:
            q, k, v = (block.heads(tokens, part) for part in ("q", "k", "v"))
            rebuilt = block.ffn(tokens + block.merge(attend(q, k, v)))
            original = (
                block.block(tokens, rope=block.rope)
                if getattr(block, "rope", None) is not None
                else block.block(tokens)
            )
            torch.testing.assert_close(rebuilt, original, atol=1e-5, rtol=1e-5)
            tokens = original


@pytest.mark.parametrize("tower", TOWERS)
def test_modes_differ_on_every_tower_and_leave_the_plain_path_alone(tower: str, pixels: Tensor) -> None:
    encoder = tiny_encoder(tower)
    features = {mode: encoder.encode_pixels(pixels, mode) for mode in ATTENTION_MODES}
    modes = list(features)
    for i, one in enumerate(modes):
        torch.testing.assert_close(features[one].pooled, features["plain"].pooled)
        for other in modes[i + 1 :]:
            assert (features[one].patches - features[other].patches).abs().max() > 1e-3, (one, other)


@pytest.mark.parametrize(("depth", "blocks"), [(1, 1), (4, 2), (6, 3), (12, 6), (24, 6)])
def test_v_v_takes_the_last_six_blocks_or_the_second_half(depth: int, blocks: int) -> None:
    assert find_mode("v-v").blocks(depth) == blocks


def test_v_v_over_all_blocks_starts_at_the_embedding(pixels: Tensor) -> None:
    view = open_tower(tiny_model().visual)
    with torch.no_grad():
        whole = attend_densely(view, pixels, find_mode("v-v"), DEPTH)
        start = view.embed(pixels)
        values = [block.heads(tokens, "v") for block, tokens in _inputs(start)]
        path = start.tokens + sum(
            block.merge(attend(v, v, v)) for block, v in zip(start.blocks, values, strict=True)
        )
    torch.testing.assert_close(whole.dense, path, atol=1e-5, rtol=0)


def _inputs(start: Any) -> list[tuple[Any, Tensor]]:
    tokens, inputs = start.tokens, []
    for block in start.blocks:
        inputs.append((block, tokens))
        tokens = block(tokens)
    return inputs


def test_wrong_modes_and_numbers_of_blocks_are_refused(pixels: Tensor) -> None:
    encoder = tiny_encoder()
    with pytest.raises(TowerError, match="plain, value, v-v"):
        encoder.encode_pixels(pixels, "w-w")
    for blocks in (0, DEPTH + 1):
        with pytest.raises(UsageError, match=f"expected 1 to {DEPTH}"):
            encoder.encode_pixels(pixels, "v-v", blocks=blocks)
    for mode in ("plain", "value"):
        with pytest.raises(UsageError, match="no choice of blocks"):
            encoder.encode_pixels(pixels, mode, blocks=2)
