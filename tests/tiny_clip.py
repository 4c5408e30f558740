"""Tiny open_clip CLIPs with fixed-seed random weights, built in milliseconds: one per family of image tower.

`tiny_encoder("native")` gives a `ClipEncoder`; `tiny_model` the open_clip model; `save_tiny_clip` an
open_clip folder. All have 8-px patches, 32-px native pictures, four blocks and embeddings of 24 numbers.
"""

from __future__ import annotations

import copy
import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from timm.layers import ConvNormAct, HybridEmbed
from timm.models import eva, register_model
from timm.models import vision_transformer as vit
from torch import nn

from clipsam.clip import ClipEncoder, hash_parameters

IMAGE, PATCH, WIDTH, DEPTH, HEADS, DIM = 32, 8, 48, 4, 3, 24
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
SHAPE = {"img_size": IMAGE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS}


def _trunk(kind: type[nn.Module], kwargs: dict[str, Any], **own: Any) -> nn.Module:
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    model = kind(**{**SHAPE, **own, **kwargs})
    model.default_cfg = model.pretrained_cfg = {"input_size": (3, IMAGE, IMAGE), "pool_size": None}
    return model


@register_model
def tiny_clip_vit(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Class token and register, layer scale, norms of queries and keys."""
    return _trunk(vit.VisionTransformer, kwargs, init_values=0.5, qk_norm=True, reg_tokens=1)


@register_model
def tiny_clip_siglip(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """No class token, attention pooling."""
    return _trunk(vit.VisionTransformer, kwargs, class_token=False, global_pool="map")


@register_model
def tiny_clip_hybrid(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A convolutional stem, average pooling with the norm behind it."""
    stem = nn.Sequential(
        ConvNormAct(3, 16, 4, stride=4, padding=0), ConvNormAct(16, WIDTH, 2, stride=2, padding=0)
    )
    embed = partial(HybridEmbed, backbone=stem, proj=False)
    return _trunk(
        vit.VisionTransformer, kwargs, embed_layer=embed, patch_size=1, class_token=False, global_pool="avg"
    )


@register_model
def tiny_clip_postnorm(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return _trunk(vit.VisionTransformer, kwargs, block_fn=vit.ResPostBlock, init_values=0.5)


@register_model
def tiny_clip_eva(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Rotary positions, separate projections, norm inside attention, gated MLP."""
    own = {
        "qkv_fused": False,
        "swiglu_mlp": True,
        "scale_mlp": True,
        "scale_attn_inner": True,
        "use_rot_pos_emb": True,
    }
    return _trunk(eva.Eva, kwargs, ref_feat_shape=(4, 4), init_values=0.5, **own)


@register_model
def tiny_clip_eva_fused(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    return _trunk(eva.Eva, kwargs, qkv_fused=True, use_post_norm=True, use_rot_pos_emb=True)


@register_model
def tiny_clip_parallel(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Attention and MLP side by side: has patch tokens, but no block that an attention mode could rebuild."""
    return _trunk(vit.VisionTransformer, kwargs, block_fn=vit.ParallelScalingBlock)


_NATIVE = {
    "image_size": IMAGE,
    "patch_size": PATCH,
    "width": WIDTH,
    "layers": DEPTH,
    "head_width": WIDTH // HEADS,
}
_TIMM = {"image_size": IMAGE, "timm_pool": "", "timm_proj": "linear"}
TOWERS: dict[str, dict[str, Any]] = {
    "native": _NATIVE,
    "native-average": {**_NATIVE, "pool_type": "avg", "final_ln_after_pool": True},
    "native-custom": {
        **_NATIVE,
        "ls_init_value": 0.5,
        "qk_norm": True,
        "scale_heads": True,
        "scale_attn_inner": True,
    }
    | {"scale_attn": True, "scale_fc": True},
    "coca": {**_NATIVE, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": HEADS},
    "timm": {**_TIMM, "timm_model_name": "tiny_clip_vit"},
    "siglip": {**_TIMM, "timm_model_name": "tiny_clip_siglip", "timm_pool": "map", "timm_proj": "none"}
    | {"image_size": IMAGE},
    "hybrid": {**_TIMM, "timm_model_name": "tiny_clip_hybrid", "timm_pool": "avg"},
    "postnorm": {**_TIMM, "timm_model_name": "tiny_clip_postnorm", "timm_pool": "token"},
    "eva": {**_TIMM, "timm_model_name": "tiny_clip_eva", "timm_pool": "token"},
    "eva-fused": {**_TIMM, "timm_model_name": "tiny_clip_eva_fused", "timm_pool": "token"},
}


def tiny_config(tower: str = "native") -> dict[str, Any]:
    """open_clip's `model_cfg` of a tiny CLIP; `tower` is a key of `TOWERS`."""
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return {"embed_dim": WIDTH if tower == "siglip" else DIM, "vision_cfg": TOWERS[tower], "text_cfg": text}


def tiny_model(tower: str = "native", seed: int = 0) -> Any:
    """The open_clip model, every parameter random: norms, biases and scales too, so that leaving one out
    shows.
    """
    return copy.deepcopy(_build(tower, seed))


@cache
def _build(tower: str, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CLIP(**tiny_config(tower)).eval()
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.data += 0.1 * torch.randn_like(parameter)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
    return model


@cache
def tiny_tokenizer() -> Any:
    return open_clip.SimpleTokenizer(context_length=16)


def tiny_encoder(tower: str = "native", seed: int = 0, **options: Any) -> ClipEncoder:
    """A `ClipEncoder` around `tiny_model`; pass `cache_dir=tmp_path` where sentences are encoded."""
    model = tiny_model(tower, seed)
    options = {"mean": MEAN, "std": STD, "name": tower, "weights_hash": hash_parameters(model), **options}
    return ClipEncoder(model, tiny_tokenizer(), **options)


def save_tiny_clip(folder: Path, tower: str = "native", seed: int = 0) -> Path:
    """Write an open_clip folder as `ClipEncoder.from_dir` and open_clip's `local-dir:` read it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": tiny_config(tower), "preprocess_cfg": {"mean": MEAN, "std": STD}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {name: tensor.contiguous() for name, tensor in tiny_model(tower, seed).state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder
