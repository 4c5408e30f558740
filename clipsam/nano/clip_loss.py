"""What CLIP-nano is trained on: agreement of patches with sentences, and of whole pictures with captions.

Input: patch and text embeddings and the masks of a batch. Output: named losses. The dense losses use the very
formulas of inference (`type logits`, `soft maximum`), so training and use agree. Knows nothing of models,
corpora or files.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipsam.heatmap import soft_maximum


def type_logits(patches: Tensor, normal: Tensor, abnormal: Tensor, scale: Tensor) -> Tensor:
    """Logits of {type k against normal}: patches [b, h, w, d], normal [b, d], abnormal [k, d] -> [b, k, h,
    w].
    """
    towards = torch.einsum("bhwd,kd->bkhw", patches, abnormal)
    away = torch.einsum("bhwd,bd->bhw", patches, normal)
    return scale * (towards - away[:, None])


def balanced(logits: Tensor, target: Tensor, positive: float = 0.5) -> Tensor:
    """Cross entropy in which each map [..., h, w] counts the same, and in it its defect as one, however
    large.

    Pixels that a mask covers in part (2 to 25 %) count for neither side. Without this balance a few defects
    that cover half of a picture outweigh all small ones, as in plain pixel averages.
    """
    loss = F.binary_cross_entropy_with_logits(logits, (target > 0.25).float(), reduction="none")
    inside, outside = target > 0.25, target < 0.02
    clean = (loss * outside).sum(dim=(-2, -1)) / outside.sum(dim=(-2, -1)).clamp(min=1)
    area = inside.sum(dim=(-2, -1))
    hit = (loss * inside).sum(dim=(-2, -1)) / area.clamp(min=1)
    return clean.mean() + positive * hit.sum() / (area > 0).sum().clamp(min=1)


def dice(probability: Tensor, target: Tensor) -> Tensor:
    """Mean over the pictures with a defect of 1 - Dice (Milletari et al. 2016, arXiv 1606.04797): [b, h, w]
    each.
    """
    overlap = (probability * target).sum(dim=(1, 2))
    total = probability.sum(dim=(1, 2)) + target.sum(dim=(1, 2))
    present = target.amax(dim=(1, 2)) > 0.5
    return ((1 - (2 * overlap + 1) / (total + 1)) * present).sum() / present.sum().clamp(min=1)


def naming(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy over the types [b, k, h, w] where one defect is, each defect counting as one, however
    large.
    """
    inside = (target > 0.25) & ((target > 0.02).sum(dim=1, keepdim=True) == 1)
    loss = -(F.log_softmax(logits, dim=1) * inside).sum(dim=(-2, -1))
    area = inside.sum(dim=(-2, -1))
    return (loss / area.clamp(min=1)).sum() / (area > 0).sum().clamp(min=1)


def dense_losses(
    logits: Tensor,
    targets: Tensor,
    generic: int,
    sharpness: float,
    *,
    types: float = 0.5,
    names: float = 1.5,
) -> dict[str, Tensor]:
    """Losses of the type maps [b, k, h, w] against masks in [0, 1] of the same shape.

    `generic` is the index of the type "damage", whose mask is the union of all, and the last one; `types`
    and `names` are weights. Keys: `types` (each type's own map), `names` (which type a defect is of),
    `any` and `overlap` (balanced cross entropy and Dice of the soft maximum), `picture` (is anything wrong at
    all).
    """
    union = targets[:, generic]
    anomaly = soft_maximum(logits.transpose(0, 1), sharpness)
    top = anomaly.flatten(1).topk(max(1, anomaly[0].numel() // 200), dim=1).values.mean(dim=1)
    return {
        "types": types * balanced(logits, targets),
        "names": names * naming(logits[:, :generic], targets[:, :generic]),
        "any": balanced(anomaly, union),
        "overlap": 0.5 * dice(torch.sigmoid(anomaly), union),
        "picture": 0.8 * F.binary_cross_entropy_with_logits(top, (union.amax(dim=(1, 2)) > 0.5).float()),
    }


def contrastive(pictures: Tensor, captions: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric cross entropy (Radford et al. 2021, arXiv 2103.00020) of [b, d] and [b, d] unit
    vectors.
    """
    logits = scale * pictures @ captions.T
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
