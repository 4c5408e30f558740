"""Image towers of open_clip as one thing: embed the pixels, a row of blocks, a head that projects every
token.

Input: normalised pixels [b, 3, H, W] of any size in whole patches. Output: tokens [b, n, c], and from those
patch features or the pooled embedding of the tower itself. Native open_clip ViTs, CoCa's among them, and timm
ViTs (plain, hybrid, EVA with rotary positions) differ only in here. Knows nothing of attention modes, text or
photos.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from timm.layers import Format, apply_rot_embed_cat, resample_abs_pos_embed
from timm.models import eva as timm_eva
from timm.models import vision_transformer as timm_vit
from torch import Tensor, nn

from clipsam.errors import TowerError

Part = Literal["q", "k", "v"]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, softmax(q kᵀ / √c + bias) v, over heads [b, heads, n, c], with no n × n
    matrix but the bias.
    """
    return F.scaled_dot_product_attention(q, k, v, bias)


class Block(ABC):
    """One transformer block, opened up: an attention mode rebuilds it from these pieces.

    Tokens are [b, n, c]; heads are [b, heads, n, c / heads].
    """

    @abstractmethod
    def __call__(self, tokens: Tensor) -> Tensor:
        """The block as it was trained."""

    def passed(self, opened: Opened) -> Tensor:
        """The same on the tokens that it is opened with, and by their heads where it is made of them."""
        return self(opened.tokens)

    @abstractmethod
    def heads(self, tokens: Tensor, part: Part) -> Tensor:
        """Queries, keys or values of the tokens as attention sees them: after the block's norms and rotary
        positions.
        """

    def all_heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, as `heads` gives them."""
        return self.heads(tokens, "q"), self.heads(tokens, "k"), self.heads(tokens, "v")

    def after(self, tokens: Tensor, count: int) -> Tensor:
        """The first `count` tokens as they leave the block: the others are attended to, no more."""
        q = self.heads(tokens[:, :count], "q")
        heads = attend(q, self.heads(tokens, "k"), self.heads(tokens, "v"))
        return self.ffn(tokens[:, :count] + self.merge(heads))

    @abstractmethod
    def merge(self, heads: Tensor) -> Tensor:
        """What attention adds to the tokens: heads joined, output projection, layer scale."""

    @abstractmethod
    def ffn(self, tokens: Tensor) -> Tensor:
        """The second half of the block: tokens + MLP(norm(tokens))."""


class Opened:
    """A block with the tokens [b, n, c] that go into it, whose queries, keys and values are made once, when
    they are asked for.
    """

    def __init__(self, block: Block, tokens: Tensor) -> None:
        self.tokens, self._block = tokens, block
        self.merge, self.ffn = block.merge, block.ffn
        self._heads: dict[str, Tensor] = {}

    def heads(self, part: Part) -> Tensor:
        """[b, heads, n, c / heads]."""
        if part not in self._heads:
            self._heads[part] = self._block.heads(self.tokens, part)
        return self._heads[part]

    def all_heads(self) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values."""
        if len(self._heads) < 3:
            self._heads = dict(zip("qkv", self._block.all_heads(self.tokens), strict=True))
        return self._heads["q"], self._heads["k"], self._heads["v"]

    def passed(self) -> Tensor:
        """The tokens as they leave the block as it was trained."""
        return self._block.passed(self)


@dataclass(frozen=True)
class Embedded:
    """A batch ready for the blocks: `tokens` [b, prefix + h*w, c], patches row by row; `blocks` fit this grid
    (h, w).
    """

    tokens: Tensor
    blocks: Sequence[Block]
    grid: tuple[int, int]


class Tower(ABC):
    """An image tower with patch tokens. `prefix` counts the class and register tokens before the patches.

    `rotary`: the blocks know where each token lies, so that they cannot take a part of the tokens.
    `pools_prefix`: `pool` reads the prefix tokens alone.
    `any_size`: no position embedding is made for a grid, so that one traced graph serves every size.
    """

    prefix: int
    rotary: bool = False
    pools_prefix: bool = False
    any_size: bool = False
    patch_size: int
    image_size: tuple[int, int]
    depth: int
    width: int

    @abstractmethod
    def embed(self, pixels: Tensor) -> Embedded:
        """Pixels [b, 3, H, W], H and W multiples of the patch; positions are interpolated (bicubic,
        antialiased).
        """

    def levels(self, pixels: Tensor, blocks: Sequence[int]) -> Tensor:
        """Patch tokens as they leave some of the blocks, counted from 1: [b, 3, H, W] -> [b, n, h, w, c].

        These are the tower's own, with no norm or projection after them; blocks behind the last one asked for
        do not run.
        """
        start = self.embed(pixels)
        tokens, found = start.tokens, {}
        for number, block in enumerate(start.blocks[: max(blocks)], 1):
            tokens = block(tokens)
            if number in blocks:
                found[number] = self.level(tokens, start.grid)
        return torch.stack([found[number] for number in blocks], dim=1)

    def level(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """All tokens [b, n, c] as they leave a block -> those of the patches [b, h, w, c], float32."""
        return tokens[:, self.prefix :].float().unflatten(1, grid)

    def stages(self, pixels: Tensor) -> list[Tensor]:
        """What the stages of a convolutional patch embedding give, [b, c, h, w] each, the finest first.

        Raises `TowerError` for a tower whose patch embedding has none.
        """
        raise TowerError(
            "features of a convolutional stem were asked for, but this tower cuts its patches in one step; "
            "expected a patch embedding with stages, as nano's: choose depths of transformer blocks instead"
        )

    @abstractmethod
    def parts(self) -> list[tuple[Any, str]]:
        """What `compiled.py` compiles: objects with the names of their methods, equal ones many times."""

    @abstractmethod
    def norm(self, tokens: Tensor) -> Tensor:
        """[b, n, c] after a block -> [b, n, c]: the final norm if it stands before pooling."""

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """[b, n, c] after the last block -> [b, n, d]: final norm and projection, once, for each token by
        itself.

        Where the tower pools by attention, each token passes the pooler alone: its softmax over one key is 1.
        """

    @abstractmethod
    def pool(self, tokens: Tensor) -> Tensor:
        """[b, n, c] after the last block -> [b, d], as the tower itself does it."""


def open_tower(visual: nn.Module) -> Tower:
    """View the image tower of an open_clip model (`model.visual`) as a `Tower`; `TowerError` if it has no
    patch tokens.
    """
    if isinstance(visual, VisionTransformer):
        return NativeTower(visual)
    if isinstance(visual, TimmModel):
        if isinstance(visual.trunk, timm_vit.VisionTransformer | timm_eva.Eva):
            return TimmTower(visual)
        visual = visual.trunk
    if isinstance(visual, Tower):
        return visual
    raise TowerError(
        f"the image tower {type(visual).__name__} has no patch tokens to compare with text; "
        "expected a vision transformer (an open_clip ViT, or a timm ViT, hybrid or EVA): choose such a model"
    )


class NativeTower(Tower):
    """open_clip's own `VisionTransformer`, with a class token, average or attentional (CoCa) pooling."""

    def __init__(self, visual: Any) -> None:
        if getattr(visual, "attn_pool_type", "") == "cascade":
            raise TowerError(
                "this tower pools twice (attentional_pool = 'cascade'), so no feature belongs to one patch; "
                "expected a tower that pools once: choose another model"
            )
        self.visual = visual
        self.blocks = [NativeBlock(block) for block in visual.transformer.resblocks]
        self.prefix, self.depth, self.width = 1, len(self.blocks), visual.conv1.out_channels
        self.pools_prefix = visual.attn_pool is None and visual.pool_type == "tok"
        self.patch_size = _square(visual.patch_size)
        self.image_size = tuple(visual.image_size)

    def embed(self, pixels: Tensor) -> Embedded:
        visual = self.visual
        patches = visual.conv1(pixels)
        grid = (patches.shape[-2], patches.shape[-1])
        first = visual.class_embedding.expand(len(pixels), 1, -1)
        positions = resample_abs_pos_embed(visual.positional_embedding[None], grid, visual.grid_size)
        tokens = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + positions
        return Embedded(visual.ln_pre(tokens), self.blocks, grid)

    def parts(self) -> list[tuple[Any, str]]:
        return [(block, "passed") for block in self.blocks]

    def norm(self, tokens: Tensor) -> Tensor:
        visual = self.visual
        pools_first = visual.attn_pool is not None and visual.attn_pool_contrastive is None
        return tokens if pools_first else visual.ln_post(tokens)

    def project(self, tokens: Tensor) -> Tensor:
        visual = self.visual
        if visual.attn_pool is None:
            tokens = visual.ln_post(tokens)
        elif visual.attn_pool_contrastive is None:
            tokens = visual.ln_post(_pool_alone(visual.attn_pool, tokens))
        else:
            tokens = _pool_alone(visual.attn_pool_contrastive, visual.ln_post(tokens))
        return tokens if visual.proj is None else tokens @ visual.proj

    def pool(self, tokens: Tensor) -> Tensor:
        pooled, _ = self.visual._pool(tokens)
        if self.visual.attn_pool is not None and pooled.ndim == 3:  # the contrastive pooler's single query
            pooled = pooled[:, 0]
        return pooled if self.visual.proj is None else pooled @ self.visual.proj


def _pool_alone(pooler: Any, tokens: Tensor) -> Tensor:
    """open_clip's `AttentionalPooler` on every token by itself: whatever the query, the answer is the token's
    value.
    """
    attn = pooler.attn
    weight = attn.in_proj_weight.chunk(3)[2] if attn.in_proj_weight is not None else attn.v_proj_weight
    bias = attn.in_proj_bias.chunk(3)[2] if attn.in_proj_bias is not None else None
    return attn.out_proj(F.linear(pooler.ln_k(tokens), weight, bias))


class NativeBlock(Block):
    """A pre-norm block of open_clip, the plain one or the custom one (norms and scales inside attention)."""

    def __init__(self, block: Any) -> None:
        self.block = block

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.passed(Opened(self, tokens))

    def passed(self, opened: Opened) -> Tensor:
        if not isinstance(self.block.attn, nn.MultiheadAttention):
            return self.block(opened.tokens)
        # MultiheadAttention.forward would hold all n × n scores: 0.9 GB a block at 4,097 tokens, and slower
        return self.ffn(opened.tokens + self.merge(attend(*opened.all_heads())))

    def all_heads(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        attn = self.block.attn
        if not isinstance(attn, nn.MultiheadAttention):
            return super().all_heads(tokens)
        joined = F.linear(self.block.ln_1(tokens), attn.in_proj_weight, attn.in_proj_bias)
        q, k, v = (_split(part, attn.num_heads) for part in joined.chunk(3, dim=-1))
        return q, k, v

    def heads(self, tokens: Tensor, part: Part) -> Tensor:
        attn, which = self.block.attn, "qkv".index(part)
        weight = attn.in_proj_weight.chunk(3)[which]
        bias = None if attn.in_proj_bias is None else attn.in_proj_bias.chunk(3)[which]
        heads = _split(F.linear(self.block.ln_1(tokens), weight, bias), attn.num_heads)
        return heads if part == "v" else getattr(attn, f"ln_{part}", nn.Identity())(heads)

    def merge(self, heads: Tensor) -> Tensor:
        attn = self.block.attn
        if getattr(attn, "head_scale", None) is not None:
            heads = heads * attn.head_scale
        joined = getattr(attn, "ln_inner", nn.Identity())(_join(heads))
        added = getattr(self.block, "ln_attn", nn.Identity())(attn.out_proj(joined))
        return self.block.ls_1(added)

    def ffn(self, tokens: Tensor) -> Tensor:
        return tokens + self.block.ls_2(self.block.mlp(self.block.ln_2(tokens)))


class TimmTower(Tower):
    """A timm `VisionTransformer` (its hybrids and subclasses too) or `Eva` inside open_clip's `TimmModel`.

    The trunk is switched to dynamic image size, and EVA's rotary positions to each grid; at the native size
    neither changes anything.
    """

    def __init__(self, visual: Any) -> None:
        trunk, stem = visual.trunk, visual.trunk.patch_embed
        self.visual, self.trunk = visual, trunk
        if not trunk.dynamic_img_size:
            trunk.dynamic_img_size = True
            stem.strict_img_size, stem.flatten = False, False
            stem.output_fmt = Format.NHWC
        for block in trunk.blocks:
            _check_timm_block(block)
        self.prefix, self.depth, self.width = trunk.num_prefix_tokens, len(trunk.blocks), trunk.embed_dim
        self.rotary = getattr(trunk, "rope", None) is not None
        self.pools_prefix = trunk.attn_pool is None and trunk.global_pool == "token"
        self.any_size = trunk.pos_embed is None and not self.rotary
        self.image_size = tuple(stem.img_size)
        self.patch_size = _square(
            [side // cells for side, cells in zip(stem.img_size, stem.grid_size, strict=True)]
        )

    def stages(self, pixels: Tensor) -> list[Tensor]:
        stages = getattr(self.trunk.patch_embed, "stages", None)
        return list(stages(pixels)) if callable(stages) else super().stages(pixels)

    def embed(self, pixels: Tensor) -> Embedded:
        trunk = self.trunk
        patches = trunk.patch_embed(pixels)  # [b, h, w, c]
        grid = (patches.shape[1], patches.shape[2])
        ropes: Any = [None] * self.depth
        if not isinstance(trunk, timm_eva.Eva):
            tokens = trunk._pos_embed(patches)
        else:
            if trunk.rope is not None:
                trunk.rope.update_feat_shape(list(grid))
            tokens, rope = trunk._pos_embed(patches)
            ropes = rope if getattr(trunk, "rope_mixed", False) else [rope] * self.depth
        blocks = [TimmBlock(block, rope) for block, rope in zip(trunk.blocks, ropes, strict=True)]
        return Embedded(trunk.norm_pre(tokens), blocks, grid)

    def parts(self) -> list[tuple[Any, str]]:
        stem = getattr(self.trunk.patch_embed, "parts", list)
        return [*stem(), *((block, "forward") for block in self.trunk.blocks)]

    def norm(self, tokens: Tensor) -> Tensor:
        return self.trunk.norm(tokens)

    def project(self, tokens: Tensor) -> Tensor:
        trunk = self.trunk
        tokens = trunk.norm(tokens)  # either this or fc_norm is the identity
        if trunk.attn_pool is not None:
            tokens = trunk.attn_pool(tokens.flatten(0, 1)[:, None]).reshape(*tokens.shape[:2], -1)
        return self.visual.head(trunk.head(trunk.fc_norm(tokens)))

    def pool(self, tokens: Tensor) -> Tensor:
        return self.visual.head(self.trunk.forward_head(self.trunk.norm(tokens)))


@dataclass(frozen=True)
class TimmBlock(Block):
    """A timm block, pre-norm or post-norm, with fused or separate projections; `rope` are EVA's rotary
    positions.
    """

    block: Any
    rope: Tensor | None = None

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.block(tokens) if self.rope is None else self.block(tokens, rope=self.rope)

    def heads(self, tokens: Tensor, part: Part) -> Tensor:
        attn = self.block.attn
        tokens = tokens if _is_post_norm(self.block) else self.block.norm1(tokens)
        heads = _split(F.linear(tokens, *_timm_projection(attn, part)), attn.num_heads)
        if part == "v":
            return heads
        heads = getattr(attn, f"{part}_norm", nn.Identity())(heads)
        if self.rope is None:
            return heads
        prefix, half = attn.num_prefix_tokens, getattr(attn, "rotate_half", False)
        turned = apply_rot_embed_cat(heads[:, :, prefix:], self.rope, half=half)
        return torch.cat([heads[:, :, :prefix], turned], dim=2).to(heads.dtype)

    def merge(self, heads: Tensor) -> Tensor:
        attn = self.block.attn
        added = attn.proj(getattr(attn, "norm", nn.Identity())(_join(heads)))
        return self._branch(added, "1")

    def ffn(self, tokens: Tensor) -> Tensor:
        branch = tokens if _is_post_norm(self.block) else self.block.norm2(tokens)
        return tokens + self._branch(self.block.mlp(branch), "2")

    def _branch(self, added: Tensor, half: str) -> Tensor:
        """The end of either half of the block: its norm where that comes last, else its layer scale."""
        if _is_post_norm(self.block):
            return getattr(self.block, f"norm{half}")(added)
        if isinstance(self.block, timm_eva.EvaBlock):
            gamma = getattr(self.block, f"gamma_{half}")
            return added if gamma is None else gamma * added
        return getattr(self.block, f"ls{half}")(added)


def _is_post_norm(block: nn.Module) -> bool:
    return isinstance(block, timm_vit.ResPostBlock | timm_eva.EvaBlockPostNorm)


def _check_timm_block(block: Any) -> None:
    known = isinstance(block, timm_vit.Block | timm_eva.EvaBlock) or _is_post_norm(block)
    attn = getattr(block, "attn", None)
    if known and getattr(attn, "gate", None) is None and getattr(attn, "num_kv_groups", 1) == 1:
        return
    raise TowerError(
        f"the blocks of this tower ({type(block).__name__} with {type(attn).__name__}) "
        "cannot be opened up for dense features; expected attention, then MLP, ungated, one key per query: "
        "choose another model"
    )


def _timm_projection(attn: Any, part: Part) -> tuple[Tensor, Tensor | None]:
    """Weight [c, c] and bias [c] that make the queries, keys or values."""
    if getattr(attn, "qkv", None) is None:
        linear = getattr(attn, f"{part}_proj")
        return linear.weight, linear.bias
    which, fused = "qkv".index(part), attn.qkv.bias
    bias = fused.chunk(3)[which] if fused is not None else getattr(attn, f"{part}_bias", None)
    return attn.qkv.weight.chunk(3)[which], bias


def _split(tokens: Tensor, heads: int) -> Tensor:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(heads: Tensor) -> Tensor:
    return heads.transpose(1, 2).flatten(2)


def _square(patch: Sequence[int]) -> int:
    if patch[0] != patch[1]:
        raise TowerError(
            f"the patches of this tower are {patch[0]}x{patch[1]} px; expected squares: choose another model"
        )
    return int(patch[0])
