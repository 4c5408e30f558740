"""TIPSv2 of transformers in the shape of an open_clip model, so that `ClipEncoder` serves it like any other.

Input: a `Tipsv2Model`. Output: `TipsClip`, with `.visual` (a `Tower`) and `.encode_text`. Both towers end in
one space without a projection. Of its two class tokens the first, trained on captions from the web, stands
for the whole. Source: TIPSv2, transformers' `tipsv2`. Knows nothing of weights on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsam.towers import Block, Embedded, Part, Tower

CONTEXT = 64  # tokens of a sentence, as in its training


class TipsTower(nn.Module, Tower):
    """The image tower: class token, registers, patches; attention is pre-norm with layer scale."""

    def __init__(self, vision: Any) -> None:
        super().__init__()
        self.vision = vision
        config = vision.config
        self.prefix = 1 + config.num_register_tokens
        self.depth, self.width = config.num_hidden_layers, config.hidden_size
        patch, size = config.patch_size, config.image_size
        self.patch_size = int(patch if isinstance(patch, int) else patch[0])
        self.image_size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    def embed(self, pixels: Tensor) -> Embedded:
        grid = (pixels.shape[-2] // self.patch_size, pixels.shape[-1] // self.patch_size)
        blocks = [TipsBlock(layer) for layer in self.vision.encoder.layer]
        return Embedded(self.vision.embeddings(pixels), blocks, grid)

    def parts(self) -> list[tuple[Any, str]]:
        return [(layer, "forward") for layer in self.vision.encoder.layer]

    def norm(self, tokens: Tensor) -> Tensor:
        return self.vision.layernorm(tokens)

    def project(self, tokens: Tensor) -> Tensor:
        return self.vision.layernorm(tokens)

    def pool(self, tokens: Tensor) -> Tensor:
        return self.vision.layernorm(tokens)[:, 0]


@dataclass(frozen=True)
class TipsBlock(Block):
    """A `Tipsv2VisionLayer`."""

    layer: Any

    def __call__(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)

    def heads(self, tokens: Tensor, part: Part) -> Tensor:
        attention = self.layer.attention
        found = getattr(attention, f"{part}_proj")(self.layer.norm1(tokens))
        return found.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    def merge(self, heads: Tensor) -> Tensor:
        joined = heads.transpose(1, 2).flatten(2)
        return self.layer.layer_scale1(self.layer.attention.o_proj(joined))

    def ffn(self, tokens: Tensor) -> Tensor:
        return tokens + self.layer.layer_scale2(self.layer.mlp(self.layer.norm2(tokens)))


class TipsClip(nn.Module):
    """What `ClipEncoder` asks of a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = TipsTower(model.vision_model)
        self.text = model.text_model

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Tokens [n, 64], padding 0 -> embeddings [n, d]; padding counts neither in attention nor mean."""
        return self.text(input_ids=tokens, attention_mask=(tokens != 0).long()).pooler_output


class TipsTokenizer:
    """Sentences -> tokens [n, 64] of transformers' tokenizer, in lower case, padded with 0."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, sentences: list[str]) -> Tensor:
        lower = [sentence.lower() for sentence in sentences]
        found = self.tokenizer(lower, truncation=True, max_length=CONTEXT)["input_ids"]
        return torch.stack([F.pad(torch.tensor(ids), (0, CONTEXT - len(ids))) for ids in found])
