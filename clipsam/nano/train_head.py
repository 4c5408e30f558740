"""The last stage of training CLIP-nano: its projection alone, on cached tokens of the finished image tower.

Input: a model whose tower is trained. Output: the same model with a new projection, trained on dense losses
for many times more steps than the tower can afford: which type a defect is of is learned here. No real photo
is read.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from clipsam.nano.batches import ClipBatch
from clipsam.nano.clip_loss import dense_losses, type_logits
from clipsam.nano.training import optimizer_for, rate

Cached = tuple[Tensor, Tensor, Tensor, Tensor]
"""Tokens bfloat16 [b, h, w, c], targets float16 [b, k, 4h, 4w], and the batch's text vectors [b, d] and [k,
d].
"""


def train_head(
    model: CLIP,
    tokenizer: PreTrainedTokenizerFast,
    batches: DataLoader[ClipBatch],
    *,
    steps: int,
    peak: float,
    sharpness: float,
    device: str,
) -> None:
    """Train `model.visual.head` for `steps` on the tokens of all `batches`; the rest stays as it is."""
    cached = cache(model, tokenizer, batches, device)
    head = model.visual.head.train()
    optimizer = optimizer_for(head, peak, 0.01)
    scale = model.logit_scale.exp().detach()
    order = torch.Generator().manual_seed(0)
    sums: dict[str, float] = {}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(step, steps, 50, 0.6)
        tokens, targets, normal, abnormal = cached[int(torch.randint(len(cached), (1,), generator=order))]
        patches = F.normalize(head(tokens.to(device).float()), dim=-1)
        logits = type_logits(patches, normal, abnormal, scale)
        logits = F.interpolate(logits, size=targets.shape[-2:], mode="bilinear")
        truth = targets.to(device).float()
        losses = dense_losses(logits, truth, truth.shape[1] - 1, sharpness, types=0.1, names=0.6)
        sum(losses.values(), torch.zeros((), device=device)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / 200
        if (step + 1) % 200 == 0:
            means = "  ".join(f"{name} {value:.3f}" for name, value in sums.items())
            print(f"head step {step + 1}  {means}", flush=True)
            sums = {}


@torch.no_grad()
def cache(
    model: CLIP, tokenizer: PreTrainedTokenizerFast, batches: DataLoader[ClipBatch], device: str
) -> list[Cached]:
    """Run the finished tower once over all batches."""
    from clipsam.nano.train_clip import normalised, paired
    from clipsam.nano.train_text import encode_text

    model.eval()
    cached = []
    for batch in batches:
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            tokens = model.visual.trunk.forward_features(normalised(batch.pixels.to(device)))
        grid = [side // 16 for side in batch.pixels.shape[1:3]]
        text = encode_text(model, tokenizer, [*batch.normal, *batch.abnormal], device)
        normal, abnormal = text.split([len(batch.normal), len(batch.abnormal)])
        tokens = tokens.unflatten(1, grid).to(torch.bfloat16).cpu()
        cached.append((tokens, batch.targets.half(), paired(normal), paired(abnormal)))
    return cached
