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
    EdgeTamConfig,
    EdgeTamModel,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2Processor,
    Sam3ImageProcessor,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3TrackerProcessor,
    Sam3VisionConfig,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamHQProcessor,
    SamImageProcessor,
    SamModel,
    SamProcessor,
)

from clipsam.sam import SamRefiner

FAMILIES = ("sam", "sam_hq", "sam2", "edgetam", "sam3_tracker")


@cache
def tiny(family: str, image_size: int = 64) -> tuple[Any, Any]:
    """A model of about 100,000 weights and the processor for its image size; a draw of its own per family."""
    torch.manual_seed(FAMILIES.index(family))
    model, processor = {
        "sam": _sam,
        "sam_hq": _sam_hq,
        "sam2": _sam2,
        "edgetam": _edgetam,
        "sam3_tracker": _sam3_tracker,
    }[family](image_size)
    shake(model)
    return model.eval(), processor


def tiny_sam(image_size: int = 64) -> tuple[SamModel, SamProcessor]:
    """A SAM with 8-px patches."""
    return tiny("sam", image_size)


def tiny_refiner(family: str = "sam", image_size: int = 64, dtype: str = "float32") -> SamRefiner:
    """A `SamRefiner` on one of the models above."""
    model, processor = tiny(family, image_size)
    return SamRefiner(model, processor, name=f"tiny-{family}", weights_hash="0" * 64, dtype=dtype)


def tracker_vision(image_size: int) -> Sam3VisionConfig:
    """SAM 3's image encoder, small."""
    vit = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": 16,
        "window_size": 2,
        "global_attn_indexes": [1],
        "pretrain_image_size": 32,
    }
    sizes = [[image_size // cell] * 2 for cell in (4, 8, 16)]
    return Sam3VisionConfig(backbone_config=vit, fpn_hidden_size=32, backbone_feature_sizes=sizes)


def _vision(image_size: int) -> dict[str, Any]:
    return {
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


def _prompts(image_size: int, patch: int = 16) -> dict[str, int]:
    return {"hidden_size": 32, "image_size": image_size, "patch_size": patch}


def _decoder() -> dict[str, int]:
    return {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32}


def _padding(image_size: int) -> SamImageProcessor:
    pad = {"height": image_size, "width": image_size}
    return SamImageProcessor(size={"longest_edge": image_size}, pad_size=pad)


def _sam(image_size: int) -> tuple[SamModel, SamProcessor]:
    parts = {"prompt_encoder_config": _prompts(image_size, 8), "mask_decoder_config": _decoder()}
    config = SamConfig(vision_config=_vision(image_size), **parts)
    return SamModel(config), SamProcessor(_padding(image_size))


def _sam_hq(image_size: int) -> tuple[SamHQModel, SamHQProcessor]:
    decoder = _decoder() | {"vit_dim": 32}
    parts = {"prompt_encoder_config": _prompts(image_size, 8), "mask_decoder_config": decoder}
    config = SamHQConfig(vision_config=_vision(image_size), **parts)
    return SamHQModel(config), SamHQProcessor(_padding(image_size))


def _sam2(image_size: int) -> tuple[Sam2Model, Sam2Processor]:
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
    parts = {"prompt_encoder_config": _prompts(image_size), "mask_decoder_config": _decoder()}
    model = Sam2Model(Sam2Config(vision_config=_levels(image_size, backbone), **parts))
    return model, Sam2Processor(Sam2ImageProcessor(size=_square(image_size)))


def _edgetam(image_size: int) -> tuple[EdgeTamModel, Sam2Processor]:
    sizes = {"embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1]}  # the real one: timm's repvit_m1
    backbone = {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1",
        "do_pooling": False,
        "num_classes": 2,
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]} | sizes,
    }
    parts = {"prompt_encoder_config": _prompts(image_size), "mask_decoder_config": _decoder()}
    model = EdgeTamModel(EdgeTamConfig(vision_config=_levels(image_size, backbone), **parts))
    return model, Sam2Processor(Sam2ImageProcessor(size=_square(image_size)))


def _sam3_tracker(image_size: int) -> tuple[Sam3TrackerModel, Sam3TrackerProcessor]:
    parts = {"prompt_encoder_config": _prompts(image_size), "mask_decoder_config": _decoder()}
    model = Sam3TrackerModel(Sam3TrackerConfig(vision_config=tracker_vision(image_size), **parts))
    return model, Sam3TrackerProcessor(Sam3ImageProcessor(size=_square(image_size)))


def _levels(image_size: int, backbone: dict[str, Any]) -> dict[str, Any]:
    return {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[image_size // cell] * 2 for cell in (4, 8, 16)],
        "fpn_hidden_size": 32,
    }


def _square(image_size: int) -> dict[str, int]:
    return {"height": image_size, "width": image_size}


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
