"""Train CLIP-nano on the rendered corpus: `train_clip(config, folder)`, resumable, on CPU or GPU.

Input: a `ClipTraining` configuration and a folder for checkpoints and log. Output: an open_clip local
directory `clip/` in that folder. No real photo is ever read here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import timm.layers
import torch
import torch.nn.functional as F
from open_clip import CLIP
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from clipsam.nano.batches import TYPES, ClipBatch, ClipBatches, collate, pair
from clipsam.nano.clip_loss import balanced, contrastive, dense_losses, naming, type_logits
from clipsam.nano.corpus.captions import vocabulary_sentences
from clipsam.nano.corpus.compose import Corpus, product_names
from clipsam.nano.models import MEAN, STD, build_clip, clip_config, save_clip
from clipsam.nano.tokenizer import train_tokenizer
from clipsam.nano.train_head import train_head
from clipsam.nano.train_text import encode_text, freeze_text, teach_text
from clipsam.nano.training import fit, loader


@dataclass(frozen=True)
class ClipTraining:
    """Everything that decides the outcome; the model card says where the shipped weights differ."""

    seed: int = 1
    steps: int = 5600
    batch: int = 12
    sizes: tuple[tuple[int, int], ...] = (
        (224, 224), (224, 224), (256, 192), (192, 256), (288, 160), (160, 288), (288, 288), (352, 256),
    )  # fmt: skip
    peak: float = 1.2e-3
    weight_decay: float = 0.05
    warmup: int = 100
    fall: float = 0.5
    averaging: float = 0.998
    sharpness: float = 4.0
    contrast: float = 0.1
    text_steps: int = 1500
    text_peak: float = 1e-3
    head_batches: int = 260
    head_steps: int = 2400
    head_peak: float = 2e-3
    head_scale: float = 20.0
    vocabulary: int = 2048
    workers: int = 1
    checkpoint_every: int = 100
    validate_every: int = 500
    validation: int = 24


def train_clip(config: ClipTraining, folder: Path, device: str = "cpu", start: Path | None = None) -> Path:
    """Train to the end, going on from `folder/clip.ckpt` where there is one; return the folder of the
    finished weights.

    `start` is a folder of finished weights to begin from instead of random ones; its text tower and tokenizer
    are kept.
    """
    torch.manual_seed(config.seed)
    timm.layers.set_fused_attn(device != "cpu")  # on CPUs its backward pass takes four times as long
    tokenizer = (
        PreTrainedTokenizerFast.from_pretrained(start)
        if start
        else train_tokenizer(vocabulary_sentences(40_000, config.seed, product_names()), config.vocabulary)
    )
    architecture = clip_config(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    model = build_clip(architecture).to(device, memory_format=torch.channels_last).train()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(20.0))
    if start is not None:
        model.load_state_dict(
            {k: v.float() for k, v in load_file(start / "open_clip_model.safetensors").items()}
        )
    elif not (folder / "clip.ckpt").exists():
        teach_text(
            model,
            tokenizer,
            seed=config.seed,
            steps=config.text_steps,
            peak=config.text_peak,
            weight_decay=config.weight_decay,
            device=device,
        )
    freeze_text(model)
    probed = Probed(model)
    unseen = cache(lambda: held_out(config))
    fit(
        probed,
        rendered(config),
        config,
        folder / "clip",
        lambda batch, _: total(losses_of(probed, tokenizer, batch, config, device)),
        largest_gradient=5.0,
        after_step=lambda: bounded_scale(model),
        validate=lambda: total(losses_of(probed, tokenizer, unseen(), config, device))[1],
        validate_every=config.validate_every,
    )
    with torch.no_grad():
        model.logit_scale.fill_(math.log(config.head_scale))
    last = replace(config, seed=config.seed + 1, steps=config.head_batches)
    train_head(
        model,
        tokenizer,
        loader(rendered(last), range(last.steps), last.workers),
        steps=config.head_steps,
        peak=config.head_peak,
        sharpness=config.sharpness,
        device=device,
    )
    save_clip(model.eval(), architecture, tokenizer, folder / "clip")
    return folder / "clip"


class Probed(nn.Module):
    """CLIP-nano with linear probes on its last tokens and on its convolutions: "anything wrong here", and the
    type of the defect.

    They are there while training only. Without them the tower's gradient takes the detour through the
    sentences; and the convolutions stay idle, since the fixed statistics of rarity explain so much so soon.
    """

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model
        stem = model.visual.trunk.patch_embed
        self.last = nn.Linear(model.visual.trunk.num_features, len(TYPES))
        self.early = nn.Linear(stem.convolved, len(TYPES))
        stem.merge.register_forward_hook(self.keep)

    def keep(self, merge: nn.Module, inputs: tuple[Tensor, ...], tokens: Tensor) -> None:
        """Note what the convolutions gave, on its way into the tokens."""
        self.seen = inputs[0][..., : self.early.in_features]

    def losses(self, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Losses of the probes on last tokens [b, h * w, c] and on the convolutions of the same pass."""
        losses = {}
        for name, maps in self.maps(tokens, targets).items():
            losses[name] = balanced(maps[:, -1], targets[:, -1])
            losses[f"{name}_kinds"] = naming(maps[:, :-1], targets[:, :-1])
        return losses

    def maps(self, tokens: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What each probe says, as large as the targets [b, k, h, w]."""
        found = {"last": self.last(tokens.float().unflatten(1, self.seen.shape[1:3]))}
        found["early"] = self.early(self.seen.float())
        return {
            name: F.interpolate(grid.permute(0, 3, 1, 2), size=targets.shape[-2:], mode="bilinear")
            for name, grid in found.items()
        }


def rendered(config: ClipTraining) -> ClipBatches:
    """The batches of a training, by number."""
    return ClipBatches(config.seed, config.steps, config.batch, config.sizes)


def held_out(config: ClipTraining) -> ClipBatch:
    """Validation pictures with their twins; half of them of families that training never draws."""
    rng = np.random.default_rng((config.seed, 4))
    samples = Corpus(config.validation, config.seed, "validation", height=224, width=224, p_normal=0.0)
    return collate([photo for sample in samples for photo in pair(sample, rng)], rng)


def total(losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
    """The sum of named losses, and their values for the log."""
    return torch.stack(list(losses.values())).sum(), {k: float(v.detach()) for k, v in losses.items()}


@torch.no_grad()
def bounded_scale(model: CLIP) -> dict[str, float]:
    """Keep the temperature of the logits within sensible bounds."""
    model.logit_scale.clamp_(math.log(5.0), math.log(50.0))
    return {"scale": round(float(model.logit_scale.exp()), 2)}


def losses_of(
    probed: Probed, tokenizer: PreTrainedTokenizerFast, batch: ClipBatch, config: ClipTraining, device: str
) -> dict[str, Tensor]:
    """All losses of one batch, in bfloat16 where that is faster."""
    model, kind = probed.model, torch.device(device).type
    with torch.autocast(kind, torch.bfloat16):
        tokens, patches = seen(model, batch.pixels.to(device))
        pooled = F.normalize(model.visual.head(tokens.mean(dim=1)).float(), dim=-1)
        sentences = [*batch.normal, *batch.abnormal, *batch.captions]
        with torch.no_grad():
            text = encode_text(model, tokenizer, sentences, device)
    count, types = len(batch.pixels), len(batch.abnormal) // 2
    normal, abnormal, captions = text.split([2 * count, 2 * types, count])
    scale, abnormal = model.logit_scale.exp(), paired(abnormal)
    targets = batch.targets.to(device)
    logits = type_logits(patches, paired(normal), abnormal, scale)
    logits = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear")
    losses = dense_losses(logits, targets, types - 1, config.sharpness)
    losses |= probed.losses(tokens, targets)
    losses["caption"] = config.contrast * contrastive(pooled, captions, scale)
    if len(batch.near):
        losses |= near_losses(probed, batch, abnormal, device)
    return losses


def near_losses(probed: Probed, batch: ClipBatch, abnormal: Tensor, device: str) -> dict[str, Tensor]:
    """Which type a defect is of, on close-ups, by the types' vectors [k, d] and by the probes.

    The norms keep the statistics of whole pictures, which are what the model is for.
    """
    model, targets = probed.model, batch.near_targets.to(device)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d) and part.training]
    for norm in norms:
        norm.eval()
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        tokens, patches = seen(model, batch.near.to(device))
    for norm in norms:
        norm.train()
    towards = model.logit_scale.exp() * torch.einsum("bhwd,kd->bkhw", patches, abnormal)
    maps = probed.maps(tokens, targets)
    maps["names"] = F.interpolate(towards, size=targets.shape[-2:], mode="bilinear")
    return {f"near_{name}": naming(grid[:, :-1], targets[:, :-1]) for name, grid in maps.items()}


def seen(model: CLIP, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [b, H, W, 3] -> last tokens [b, h * w, c] and unit vectors of patches [b, h, w, d]."""
    tokens = model.visual.trunk.forward_features(normalised(pixels))
    grid = [side // 16 for side in pixels.shape[1:3]]
    return tokens, F.normalize(model.visual.head(tokens).float(), dim=-1).unflatten(1, grid)


def normalised(pixels: Tensor) -> Tensor:
    """uint8 [b, H, W, 3] -> float32 [b, 3, H, W], normalised and channels-last in memory."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (MEAN, STD))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def paired(vectors: Tensor) -> Tensor:
    """[2n, d] -> [n, d]: the mean of each two sentences, as inference averages its ensembles."""
    return F.normalize(vectors.unflatten(0, (-1, 2)).mean(dim=1), dim=-1)
