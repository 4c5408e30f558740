"""The architectures of the embedded pair, CLIP-nano and SAM-nano, and their files.

CLIP-nano is an open_clip `CLIP` (image tower of `tower.py`, small text tower, own tokenizer) saved as an
open_clip local directory; SAM-nano is a transformers `SamModel` saved by `save_pretrained`. Both load through
the code that loads the big models. Knows nothing of the corpus or of training.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from transformers import (
    PreTrainedTokenizerFast,
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

import clipsam.nano.tower  # noqa: F401  (registers the tower with timm)

WEIGHTS = Path(__file__).with_name("weights")
"""Where the trained pair lies: `clip/` and `sam/`."""

MEAN = (0.5, 0.5, 0.5)
STD = (0.25, 0.25, 0.25)
CONTEXT = 32
SAM_SIZE = 384
SAM_PATCH = 16


def clip_config(vocab_size: int, pad_id: int, eos_id: int) -> dict[str, Any]:
    """Return open_clip's configuration of CLIP-nano for a tokenizer of `vocab_size` entries."""
    return {
        "model_cfg": {
            "embed_dim": 128,
            "vision_cfg": {
                "timm_model_name": "clipsam_nano_16",
                "timm_pool": "avg",
                "timm_proj": "mlp",
                "image_size": 256,
            },
            "text_cfg": {
                "context_length": CONTEXT,
                "vocab_size": vocab_size,
                "hf_tokenizer_name": "local",
                "width": 192,
                "heads": 3,
                "layers": 3,
                "pad_id": pad_id,
                "eos_id": eos_id,
                "pool_type": "eos",
            },
        },
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "longest"},
    }


def build_clip(config: dict[str, Any]) -> open_clip.CLIP:
    """Build CLIP-nano with fresh weights from `clip_config`'s answer."""
    return open_clip.CLIP(**config["model_cfg"])


def save_clip(
    model: open_clip.CLIP, config: dict[str, Any], tokenizer: PreTrainedTokenizerFast, folder: Path
) -> None:
    """Write an open_clip local directory: configuration, float16 weights (safetensors), tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(half_precision(model), folder / "open_clip_model.safetensors")
    tokenizer.save_pretrained(folder)


def build_sam() -> SamModel:
    """Build SAM-nano with fresh weights: 384-px input, 16-px patches, windowed attention, a decoder of width
    128.
    """
    vision = SamVisionConfig(
        hidden_size=160,
        output_channels=128,
        num_hidden_layers=6,
        num_attention_heads=5,
        mlp_dim=640,
        image_size=SAM_SIZE,
        patch_size=SAM_PATCH,
        window_size=8,
        global_attn_indexes=[2, 5],
        use_rel_pos=False,
        num_pos_feats=64,
        initializer_range=0.02,
    )
    prompt = SamPromptEncoderConfig(hidden_size=128, image_size=SAM_SIZE, patch_size=SAM_PATCH)
    decoder = SamMaskDecoderConfig(
        hidden_size=128, mlp_dim=384, num_attention_heads=4, iou_head_hidden_dim=128, num_hidden_layers=2
    )
    model = SamModel(
        SamConfig(
            vision_config=vision,
            prompt_encoder_config=prompt,
            mask_decoder_config=decoder,
            initializer_range=0.02,
        )
    )
    # transformers' initialisation suits checkpoints that overwrite it. The published SAM starts its decoder
    # with torch's own defaults and draws the random Fourier frequencies with unit scale.
    for part in (model.prompt_encoder, model.mask_decoder):
        for module in part.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
    torch.nn.init.normal_(model.shared_image_embedding.positional_embedding)
    return model


def sam_processor() -> SamProcessor:
    """Return the processor that belongs to SAM-nano: longest side to 384, padded at the right and bottom."""
    size = {"longest_edge": SAM_SIZE}
    low = {"longest_edge": SAM_SIZE // SAM_PATCH * 4}
    pad = {"height": SAM_SIZE, "width": SAM_SIZE}
    mask_pad = {"height": SAM_SIZE // SAM_PATCH * 4, "width": SAM_SIZE // SAM_PATCH * 4}
    return SamProcessor(
        SamImageProcessor(
            size=size, pad_size=pad, mask_size=low, mask_pad_size=mask_pad, image_mean=MEAN, image_std=STD
        )
    )


def save_sam(model: SamModel, folder: Path) -> None:
    """Write SAM-nano as transformers does: configuration, float16 weights (safetensors), processor."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    save_file(half_precision(model), folder / "model.safetensors", metadata={"format": "pt"})
    sam_processor().save_pretrained(folder)


def half_precision(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the state of `model` as contiguous float16 tensors; shared tensors are kept once, under their
    first name.
    """
    state: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() in seen and tensor.numel():
            continue
        seen.add(tensor.data_ptr())
        state[name] = (
            tensor.detach().half().contiguous() if tensor.is_floating_point() else tensor.contiguous()
        )
    return state
