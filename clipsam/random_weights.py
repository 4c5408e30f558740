"""Random weights: the architectures of the presets without their weights, for measuring speed.

Input: a `ClipSpec` or `SamSpec`. Output: a `ClipEncoder` or `SamRefiner` of that very architecture, drawn
with a fixed seed. Nothing is fetched. Speed and memory do not depend on what weights say; what such models
find does, and means nothing.
"""

from __future__ import annotations

from typing import Any

import open_clip
import torch

from clipsam.clip import ClipEncoder, hash_parameters
from clipsam.errors import UsageError
from clipsam.presets import ClipSpec, SamSpec
from clipsam.sam import SamRefiner

_SEED = 0

_VIT_HUGE = {
    "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120,
    "global_attn_indexes": [7, 15, 23, 31],
}  # fmt: skip
_HIERA_LARGE = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 144,
    "blocks_per_stage": [2, 6, 36, 4],
    "embed_dim_per_stage": [144, 288, 576, 1152],
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "window_size_per_stage": [8, 4, 16, 8],
    "global_attention_blocks": [23, 33, 43],
}
SAM_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {  # transformers' defaults are ViT-B and Hiera tiny
    "sam-vit-base": ("Sam", {}),
    "sam-vit-huge": ("Sam", _VIT_HUGE),
    "sam2.1-hiera-tiny": ("Sam2", {}),
    "sam2.1-hiera-large": (
        "Sam2",
        {"backbone_config": _HIERA_LARGE, "backbone_channel_list": [1152, 576, 288, 144]},
    ),
}
"""Family and `vision_config` of the SAMs that can be drawn, by the name of their specification."""


def random_clip(spec: ClipSpec, **options: Any) -> ClipEncoder:
    """A `ClipEncoder` of the specification's architecture; `options` (device, dtype) go to it.

    Raises `UsageError` where open_clip cannot build it alone: no such architecture, or the hub's tokenizer.
    """
    config = open_clip.get_model_config(spec.architecture) if spec.architecture else None
    if config is None or "hf_tokenizer_name" in config["text_cfg"]:
        raise UsageError(
            f"{spec.name} cannot be drawn at random: its tokenizer or architecture comes with its weights; "
            "expected those (clipsam models pull), or one of the presets small, base, large"
        )
    return ClipEncoder.random(spec.architecture, _SEED, **options)


def random_sam(spec: SamSpec, **options: Any) -> SamRefiner:
    """A `SamRefiner` of the specification's architecture; `UsageError` where that is not in `SAM_CONFIGS`."""
    if spec.name not in SAM_CONFIGS:
        raise UsageError(
            f"{spec.name} cannot be drawn at random; expected one of: {', '.join(SAM_CONFIGS)}, or --no-sam"
        )
    import transformers

    family, vision = SAM_CONFIGS[spec.name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        config = getattr(transformers, f"{family}Config")(vision_config=vision)
        model = getattr(transformers, f"{family}Model")(config).eval()
        _draw(model)
    image_processor = getattr(transformers, f"{family}ImageProcessor")()
    processor = getattr(transformers, f"{family}Processor")(image_processor)
    name = f"{spec.name} (random, seed {_SEED})"
    return SamRefiner(model, processor, name=name, weights_hash=hash_parameters(model), **options)


@torch.no_grad()
def _draw(model: torch.nn.Module) -> None:
    """Usual deviations: transformers draws SAM with 1e-10, denormal numbers that run ten times slower."""
    for name, weight in model.named_parameters():
        if "positional_embedding" in name:
            torch.nn.init.normal_(weight)
        elif weight.ndim > 1:
            torch.nn.init.normal_(weight, std=1.5 / weight[0].numel() ** 0.5)
