"""Attention modes against direct computations on the same weights that share no code with the package."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_clip import DEPTH, HEADS, MEAN, PATCH, STD, TOWERS, tiny_encoder, tiny_model
from tiny_dino import tiny_proxy
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from clipsam.attention import ATTENTION_MODES, _proxy_weights, attend_densely, find_mode
from clipsam.errors import TowerError, UsageError
from clipsam.settings import ATTENTIONS
from clipsam.towers import NativeBlock, attend, open_tower

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


def gaussian_around_each_patch(grid: tuple[int, int], prefix: int) -> Tensor:
    """exp(-d² / 50) between patches, pair by pair; 0 wherever a prefix token is involved."""
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    table = torch.zeros(prefix + len(places), prefix + len(places))
    for i, (row, column) in enumerate(places, prefix):
        for j, (other_row, other_column) in enumerate(places, prefix):
            table[i, j] = math.exp(-((row - other_row) ** 2 + (column - other_column) ** 2) / 50)
    return table


def proxy_attention(features: Tensor) -> Tensor:
    """ProxyCLIP's formula, one query at a time: only what is more alike than 1.2 times the mean counts."""
    cosines = torch.tensor([[float(one @ other) for other in features] for one in features])
    scores = 3.0 * (cosines - 1.2 * cosines.mean())
    rows = []
    for i, row in enumerate(scores):
        kept = [j for j in range(len(row)) if row[j] >= 0 or i == j]
        weights = torch.zeros(len(row))
        weights[kept] = torch.softmax(row[kept], dim=0)
        rows.append(weights)
    return torch.stack(rows)


def direct_attention(q: Tensor, k: Tensor, v: Tensor, mode: str, scene: dict[str, Any]) -> Tensor:
    """One picture and one head at a time, [n, c] -> [n, c], with the n x n matrices written out."""
    joined = []
    near = gaussian_around_each_patch(scene["grid"], scene["prefix"])
    for qh, kh, vh in zip(*(part.chunk(HEADS, dim=-1) for part in (q, k, v)), strict=True):
        qq, kk, vv = (part @ part.T / math.sqrt(part.shape[-1]) for part in (qh, kh, vh))
        itself = torch.eye(len(vh))
        guided = itself.clone()
        guided[scene["prefix"] :, scene["prefix"] :] = proxy_attention(scene["proxy"])
        weights = {
            "value": itself,
            "v-v": vv.softmax(-1),
            "q-q": qq.softmax(-1),
            "clear": qq.softmax(-1),
            "k-k": kk.softmax(-1),
            "sclip": qq.softmax(-1) + kk.softmax(-1),
            "neighbour": (kk + near).softmax(-1),
            "proxy": guided,
        }
        joined.append(weights[mode] @ vh)
    return torch.cat(joined, dim=-1)


WITHOUT_RESIDUAL = {"neighbour", "clear", "proxy"}


def direct_native(visual: Any, picture: Tensor, mode: str, last: int, proxy: Tensor) -> Tensor:
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
        qkv = block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        scene = {"grid": grid, "prefix": 1, "proxy": proxy}
        added = block.attn.out_proj(direct_attention(*qkv.chunk(3, dim=-1), mode, scene))
        if mode == "v-v":
            dense = dense + added
        elif mode in WITHOUT_RESIDUAL:
            dense = added
        else:
            dense = x + added
            dense = dense + block.mlp(block.ln_2(dense))
        x = block(x[None])[0]
    return F.normalize(visual.ln_post(dense[1:]) @ visual.proj, dim=-1).unflatten(0, grid)


def direct_timm(visual: Any, picture: Tensor, mode: str, last: int, proxy: Tensor) -> Tensor:
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
        q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
        norms = (block.attn.q_norm, block.attn.k_norm)
        q, k = (
            torch.cat([norm(part) for part in both.chunk(HEADS, dim=-1)], dim=-1)
            for norm, both in zip(norms, (q, k), strict=True)
        )
        scene = {"grid": grid, "prefix": 2, "proxy": proxy}
        added = block.ls1.gamma * block.attn.proj(direct_attention(q, k, v, mode, scene))
        if mode == "v-v":
            dense = dense + added
        elif mode in WITHOUT_RESIDUAL:
            dense = added
        else:
            dense = x + added
            dense = dense + block.ls2.gamma * block.mlp(block.norm2(dense))
        x = block(x[None])[0]
    return F.normalize(visual.head(trunk.norm(dense[2:])), dim=-1).unflatten(0, grid)


DIRECT = {"native": direct_native, "timm": direct_timm}


@pytest.mark.parametrize("tower", DIRECT)
@pytest.mark.parametrize(
    ("mode", "blocks", "last"),
    [("v-v", None, 2), ("v-v", 3, 3), ("v-v", 1, 1)]
    + [(mode, None, 1) for mode in ("value", "q-q", "k-k", "sclip", "neighbour", "clear", "proxy")],
)
def test_dense_features_equal_a_direct_computation(
    tower: str, mode: str, blocks: int | None, last: int, pixels: Tensor
) -> None:
    proxy = tiny_proxy()
    ours = tiny_encoder(tower, proxy=proxy).encode_pixels(pixels, mode, blocks=blocks).patches
    seen = proxy.features(pixels, (3, 5))
    with torch.no_grad():
        visual = tiny_model(tower).visual
        pairs = zip(normalised(pixels), seen, strict=True)
        direct = torch.stack([DIRECT[tower](visual, picture, mode, last, other) for picture, other in pairs])
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
    encoder = tiny_encoder(tower, proxy=tiny_proxy())
    for name, parameter in encoder.model.visual.named_parameters():
        if any(part in name for part in ("in_proj_weight", "qkv.weight", "q_proj.weight", "k_proj.weight")):
            parameter *= 5  # as they are initialised, some attend to all patches nearly alike in every mode
    features = {mode: encoder.encode_pixels(pixels, mode) for mode in ATTENTION_MODES}
    modes = list(features)
    for i, one in enumerate(modes):
        torch.testing.assert_close(features[one].pooled, features["plain"].pooled)
        for other in modes[i + 1 :]:
            assert (features[one].patches - features[other].patches).abs().max() > 1e-3, (one, other)


@pytest.mark.parametrize("tower", TOWERS)
def test_without_the_pooled_embedding_dense_features_are_the_same(tower: str, pixels: Tensor) -> None:
    encoder = tiny_encoder(tower, proxy=tiny_proxy())
    for mode in ATTENTION_MODES:
        with_it, without = (encoder.encode_pixels(pixels, mode, pooled=wanted) for wanted in (True, False))
        torch.testing.assert_close(with_it.patches, without.patches, atol=1e-6, rtol=0)
        assert without.pooled is None


@pytest.mark.parametrize(
    ("mode", "plain", "mlps", "joint", "single"),
    [
        ("plain", False, DEPTH, DEPTH, 0),
        ("v-v", True, DEPTH, DEPTH, 0),
        ("v-v", False, DEPTH - 1, DEPTH - 1, 1),
        ("clear", False, DEPTH - 1, DEPTH - 1, 2),
    ],
)
def test_a_dense_path_pays_for_nothing_twice(
    mode: str, plain: bool, mlps: int, joint: int, single: int, pixels: Tensor, monkeypatch: Any
) -> None:
    """Heads serve both paths; of the last block runs only what something is made of."""
    calls: Counter[str] = Counter()
    for name in ("ffn", "all_heads", "heads"):
        original = getattr(NativeBlock, name)

        def counted(*arguments: Any, name: str = name, original: Any = original) -> Any:
            calls[name] += 1
            return original(*arguments)

        monkeypatch.setattr(NativeBlock, name, counted)
    with torch.no_grad():
        attend_densely(open_tower(tiny_model().visual), pixels, find_mode(mode), plain=plain)
    assert (calls["ffn"], calls["all_heads"], calls["heads"]) == (mlps, joint, single)


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
    with pytest.raises(TowerError, match="plain, value, v-v, q-q, k-k, sclip, neighbour, clear, proxy"):
        encoder.encode_pixels(pixels, "w-w")
    for blocks in (0, DEPTH + 1):
        with pytest.raises(UsageError, match=f"expected 1 to {DEPTH}"):
            encoder.encode_pixels(pixels, "v-v", blocks=blocks)
    for mode in set(ATTENTION_MODES) - {"v-v"}:
        with pytest.raises(UsageError, match="no choice of blocks"):
            encoder.encode_pixels(pixels, mode, blocks=2)


def test_a_second_encoder_is_asked_for_and_never_replaced(pixels: Tensor) -> None:
    with pytest.raises(TowerError, match="'proxy' needs a second encoder"):
        tiny_encoder().encode_pixels(pixels, "proxy")


def test_the_settings_know_every_mode() -> None:
    assert (*ATTENTION_MODES, "windows") == ATTENTIONS


def test_a_photo_alike_everywhere_leaves_each_patch_to_itself() -> None:
    same = F.normalize(torch.ones(1, 6, 4), dim=-1)
    torch.testing.assert_close(_proxy_weights(same)[0], torch.eye(6))


def test_a_batch_does_not_change_what_a_photo_attends_to(pixels: Tensor) -> None:
    encoder = tiny_encoder(proxy=tiny_proxy())
    for mode in ATTENTION_MODES:
        both = encoder.encode_pixels(pixels, mode).patches
        alone = encoder.encode_pixels(pixels[1:], mode).patches
        torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["plain", "v-v", "clear"])
def test_layers_are_the_path_after_each_block(mode: str, pixels: Tensor) -> None:
    encoder = tiny_encoder("timm")
    features = encoder.encode_pixels(pixels, mode, layers=(4, 1))
    torch.testing.assert_close(features.layers[0], features.patches)
    with torch.no_grad():
        start = encoder.tower.embed(normalised(pixels))
        first = start.blocks[0](start.tokens)  # before the dense path begins it is the plain one
        expected = F.normalize(encoder.tower.project(first[:, 2:]), dim=-1).unflatten(1, (3, 5))
        torch.testing.assert_close(features.layers[1], expected)


def test_layers_that_do_not_exist_are_refused(pixels: Tensor) -> None:
    with pytest.raises(UsageError, match=f"no block 5; expected layers from 1 to {DEPTH}"):
        tiny_encoder().encode_pixels(pixels, layers=(1, 5))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("mode", "passes"), [("plain", DEPTH), ("v-v", DEPTH - 1 + (DEPTH + 1) // 2),
    ("sclip", DEPTH + 1), ("neighbour", DEPTH)])  # fmt: skip
def test_attention_is_fused_in_every_block_and_dtype(
    mode: str, passes: int, dtype: str, pixels: Tensor
) -> None:
    """No mode falls back to the kernel that holds all scores of a photo."""
    encoder = tiny_encoder(dtype=dtype)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        encoder.encode_pixels(pixels, mode, pooled=False)
    ran = {event.key: event.count for event in seen.key_averages()}
    assert ran["aten::_scaled_dot_product_flash_attention_for_cpu"] == passes
    assert "aten::_scaled_dot_product_attention_math" not in ran
