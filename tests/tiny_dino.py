"""Tiny DINOs with fixed-seed random weights: `tiny_proxy` gives a `ProxyEncoder`, `save_tiny_dino` a folder
as transformers writes it. Two blocks, 16 numbers a patch; every parameter is random.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from clipsam.proxy import ProxyEncoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28}
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "dinov2": ("Dinov2Config", "Dinov2Model", {"patch_size": 7}),
    "registers": ("Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", {"patch_size": 7}),
    "dinov3": ("DINOv3ViTConfig", "DINOv3ViTModel", {"patch_size": 8, "num_register_tokens": 3}),
}


def tiny_dino(kind: str = "dinov2", seed: int = 0) -> Any:
    """transformers' model of a key of `KINDS`."""
    config, model, own = KINDS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = {**SHAPE, "intermediate_size": 32, **own}
        dino = getattr(transformers, model)(getattr(transformers, config)(**shape)).eval()
        for parameter in dino.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return dino


def tiny_proxy(kind: str = "dinov2", seed: int = 0) -> ProxyEncoder:
    return ProxyEncoder(tiny_dino(kind, seed), mean=MEAN, std=STD, name=kind, weights_hash="3" * 64)


def save_tiny_dino(folder: Path, kind: str = "dinov2", seed: int = 0) -> Path:
    tiny_dino(kind, seed).save_pretrained(folder)
    colours = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(colours))
    return folder
