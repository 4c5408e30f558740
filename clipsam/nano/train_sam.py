"""Train SAM-nano on the rendered corpus: `train_sam(config, folder)`, resumable, on CPU or GPU.

The losses are the published ones: of three masks the best counts (focal + Dice), and the score head learns
its IoU (Kirillov et al. 2023, arXiv 2304.02643). A second pass feeds the mask back, so that cascades work. No
real photo is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SamModel

from clipsam.nano.clicks import SamBatch, SamBatches
from clipsam.nano.models import build_sam, save_sam
from clipsam.nano.train_clip import normalised
from clipsam.nano.training import fit

BOX = 1
"""The step whose prompts are boxes; see `prompt_of`."""


@dataclass(frozen=True)
class SamTraining:
    """Everything that decides the outcome; the model card says where the shipped weights differ."""

    seed: int = 1
    steps: int = 4000
    batch: int = 8
    prompts: int = 3
    peak: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 200
    fall: float = 0.3
    averaging: float = 0.998
    workers: int = 1
    checkpoint_every: int = 100
    validate_every: int = 500
    validation: int = 12


def train_sam(config: SamTraining, folder: Path, device: str = "cpu", start: Path | None = None) -> Path:
    """Train to the end, going on from `folder/sam.ckpt` where there is one; return the folder of the finished
    weights. `start` is a folder of finished weights to begin from instead of random ones.
    """
    torch.manual_seed(config.seed)
    model = SamModel.from_pretrained(start, dtype=torch.float32) if start else build_sam()
    model = model.to(device).train()
    unseen = cache(
        lambda: SamBatches(config.seed, 1, config.validation, config.prompts, split="validation")[0]
    )
    fit(
        model,
        SamBatches(config.seed, config.steps, config.batch, config.prompts),
        config,
        folder / "sam",
        lambda batch, step: loss_of(model, batch, step, device),
        largest_gradient=1.0,
        validate=lambda: loss_of(model, unseen(), BOX, device)[1],
        validate_every=config.validate_every,
    )
    save_sam(model.eval(), folder / "sam")
    return folder / "sam"


def loss_of(model: SamModel, batch: SamBatch, step: int, device: str) -> tuple[Tensor, dict[str, float]]:
    """One embedding, two passes of the decoder: the kind of prompt that is due, then the mask fed back.

    Only the encoder runs in bfloat16: in the decoder it would shift the coordinates of prompts.
    """
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        # Not `get_image_embeddings`: that one keeps no gradients.
        embedding = model.vision_encoder(normalised(batch.pixels.to(device))).last_hidden_state
    embedding, masks, prompt = embedding.float(), batch.masks.to(device), prompt_of(batch, step, device)
    answer = model(image_embeddings=embedding, multimask_output=True, **prompt)
    loss, quality, best = mask_loss(answer.pred_masks, answer.iou_scores, masks)
    if step // 3 % 3 == 2:
        again = second_pass(model, embedding, prompt, best.detach())
        extra, _, _ = mask_loss(again.pred_masks, again.iou_scores, masks[:, :1])
        loss = loss + 0.5 * extra
    return loss, {"loss": float(loss.detach()), "iou": float(quality)}


def prompt_of(batch: SamBatch, step: int, device: str) -> dict[str, Tensor]:
    """The kinds in turn: points, box, box and points."""
    points = {"input_points": batch.points.to(device), "input_labels": batch.labels.to(device)}
    boxes = {"input_boxes": batch.boxes.to(device)}
    return (points, boxes, {**points, **boxes})[step % 3]


def second_pass(model: SamModel, embedding: Tensor, prompt: dict[str, Tensor], logits: Tensor) -> Any:
    """Decode the first target of each picture again with its previous mask logits (SAM takes one mask per
    picture).
    """
    first = {name: value[:, :1] for name, value in prompt.items()}
    return model(image_embeddings=embedding, input_masks=logits[:, :1], multimask_output=True, **first)


def mask_loss(logits: Tensor, scores: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Best-of-three loss: logits [b, n, 3, h, w], scores [b, n, 3], masks [b, n, h, w] in [0, 1].

    Returns the loss, the mean IoU of the best masks, and their logits [b, n, h, w].
    """
    target = masks[:, :, None].expand_as(logits)
    probability = torch.sigmoid(logits)
    bce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = ((probability - target).abs().pow(2) * bce).mean(dim=(-2, -1))
    overlap = (probability * target).sum(dim=(-2, -1))
    dice = 1 - (2 * overlap + 1) / (probability.sum(dim=(-2, -1)) + target.sum(dim=(-2, -1)) + 1)
    each = 20 * focal + dice
    best = each.argmin(dim=2, keepdim=True)
    with torch.no_grad():
        hard, truth = logits > 0, target > 0.5
        iou = (hard & truth).sum(dim=(-2, -1)) / (hard | truth).sum(dim=(-2, -1)).clamp(min=1)
    loss = each.gather(2, best).mean() + 0.1 * each.mean() + F.mse_loss(scores, iou)
    chosen = logits.gather(2, best[..., None, None].expand(-1, -1, -1, *logits.shape[-2:]))[:, :, 0]
    return loss, iou.gather(2, best).mean(), chosen
