"""Tiny SAMs with random weights, built in milliseconds, and plain calls of transformers.

`plain_answers` is the oracle of `test_sam.py`: what transformers' own processor, model and post-processing
return for one prompt, with nothing of clipsam in between.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    SamConfig,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)

from clipsam.sam import SamRefiner


@cache
def tiny_sam(image_size: int = 64) -> tuple[SamModel, SamProcessor]:
    """A SAM of about 100,000 weights with 8-px patches, and the processor for its image size."""
    prompt = {"hidden_size": 32, "image_size": image_size, "patch_size": 8}
    vision = {
        "hidden_size": 32,
        "output_channels": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "mlp_dim": 64,
        "image_size": image_size,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [1],
        "num_pos_feats": 16,
        "initializer_range": 0.02,
    }
    torch.manual_seed(0)
    model = SamModel(
        SamConfig(prompt_encoder_config=prompt, mask_decoder_config=_decoder(), vision_config=vision)
    )
    shake(model)
    pad = {"height": image_size, "width": image_size}
    processor = SamProcessor(SamImageProcessor(size={"longest_edge": image_size}, pad_size=pad))
    return model.eval(), processor


@cache
def tiny_sam2(image_size: int = 64) -> tuple[Sam2Model, Sam2Processor]:
    """A SAM 2 of about 100,000 weights, and the processor for its image size."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [image_size, image_size],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [3],
    }
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[image_size // cell] * 2 for cell in (4, 8, 16)],
        "fpn_hidden_size": 32,
    }
    prompt = {"hidden_size": 32, "image_size": image_size, "patch_size": 16}
    torch.manual_seed(0)
    model = Sam2Model(
        Sam2Config(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=_decoder())
    )
    shake(model)
    size = {"height": image_size, "width": image_size}
    return model.eval(), Sam2Processor(Sam2ImageProcessor(size=size))


def tiny_refiner(family: str = "sam", image_size: int = 64, dtype: str = "float32") -> SamRefiner:
    """A `SamRefiner` on one of the models above."""
    model, processor = (tiny_sam if family == "sam" else tiny_sam2)(image_size)
    return SamRefiner(model, processor, name=f"tiny-{family}", weights_hash="0" * 64, dtype=dtype)


@torch.no_grad()
def plain_answers(
    model: Any,
    processor: Any,
    pixels: NDArray[np.uint8],
    points: list[list[float]] | None,
    labels: list[int] | None,
    box: list[float] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities [3, H, W] and IoU scores [3] of one prompt, by transformers alone."""
    asked = {
        "input_points": [[points]] if points else None,
        "input_labels": [[labels]] if points else None,
        "input_boxes": [[box]] if box else None,
    }
    inputs = processor(
        images=pixels, return_tensors="pt", **{key: value for key, value in asked.items() if value}
    )
    sizes = [inputs.pop("original_sizes")]
    if "reshaped_input_sizes" in inputs:
        sizes.append(inputs.pop("reshaped_input_sizes"))
    output = model(**inputs, multimask_output=True)
    masks = processor.post_process_masks(output.pred_masks, *sizes, binarize=False)[0][0]
    return torch.sigmoid(masks).numpy(), output.iou_scores[0, 0].numpy()


def _decoder() -> dict[str, int]:
    return {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}


def shake(model: torch.nn.Module) -> None:
    """Draw weights large enough that masks and scores differ visibly from prompt to prompt.

    transformers draws SAM's encoder with a deviation of 1e-10: constant features, and denormal numbers, which
    make a forward pass of ViT-B ten times slower.
    """
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "positional_embedding" in name:
                torch.nn.init.normal_(weight)
            elif weight.ndim > 1:
                torch.nn.init.normal_(weight, std=1.5 / weight[0].numel() ** 0.5)
