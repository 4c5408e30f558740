"""What CLIP-nano's text tower is taught, before and apart from the image tower: sentences -> directions.

Input: a model with a text tower, its tokenizer, a seed. Output: the same model, in which all sentences of one
state point one way. Knows nothing of pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from open_clip import CLIP
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clipsam.nano.batches import TYPES
from clipsam.nano.corpus.captions import defect_sentence, normal_sentence, product_words
from clipsam.nano.corpus.compose import product_names
from clipsam.nano.models import CONTEXT
from clipsam.nano.tokenizer import frayed
from clipsam.nano.training import optimizer_for, rate

FRAYED = 0.15
"""Share of the words that are cut in two."""
SENTENCES = 3
"""Of each state, in a step."""


def teach_text(
    model: CLIP,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    steps: int,
    peak: float,
    weight_decay: float,
    device: str,
) -> None:
    """Train the text tower alone: all sentences of one state mean one direction, whatever the product is
    called.

    The image tower then learns towards fixed anchors. Trained together from scratch, the two fall into
    calling everything the same.
    """
    rng = np.random.default_rng((seed, 3))
    optimizer = optimizer_for(model, peak, weight_decay)
    learning = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    wanted = directions(len(TYPES) + 1, model.text_projection.shape[1], seed).repeat_interleave(SENTENCES, 0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(step, steps, 50, 0.6)
        tokens = frayed(tokenizer, states(rng), FRAYED, rng).to(device)
        vectors = F.normalize(model.encode_text(tokens).float(), dim=-1)
        loss = (vectors - wanted.to(device)).square().sum(dim=-1).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 50 == 0:
            print(f"text step {step + 1}  loss {float(loss.detach()):.3f}", flush=True)


def directions(count: int, width: int, seed: int) -> Tensor:
    """Unit vectors [count, width] whose cosines are those of `likeness`, turned at random."""
    values, vectors = torch.linalg.eigh(likeness(count).double())
    exact = vectors * values.clamp(min=0).sqrt()
    generator = torch.Generator().manual_seed(seed)
    turn, _ = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))
    return (exact @ turn[:count]).float()


def likeness(count: int) -> Tensor:
    """The cosines that sentences of states should have, [n, n]: flawless first, then types, "damage" last.

    With a direction d for damage and one of its own for each type: a type is halfway between the two, and
    flawless is -d. So a patch that is surely damage, of whatever type, has a place: d, equally far from all.
    """
    half, steep = 0.5, 0.5**0.5
    cosines = torch.full((count, count), half)
    cosines[0], cosines[-1] = -steep, steep
    cosines[:, 0], cosines[:, -1] = -steep, steep
    cosines[0, -1] = cosines[-1, 0] = -1.0
    return cosines.fill_diagonal_(1.0)


def states(rng: np.random.Generator) -> list[str]:
    """A few sentences for each state, "flawless" first, each about a product of its own."""
    names, times = product_names(), range(SENTENCES)
    flawless = [normal_sentence(rng, product_words(rng, names)) for _ in times]
    return flawless + [defect_sentence(rng, product_words(rng, names), kind) for kind in TYPES for _ in times]


def freeze_text(model: CLIP) -> None:
    """Leave only the image tower and the temperature to train."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("visual.") or name == "logit_scale")


def encode_text(
    model: CLIP, tokenizer: PreTrainedTokenizerFast, sentences: Sequence[str], device: str
) -> Tensor:
    """Sentences -> unit vectors [n, d]; equal ones are encoded once."""
    unique = list(dict.fromkeys(sentences))
    tokens = tokenizer(
        unique, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    ).input_ids
    vectors = F.normalize(model.encode_text(tokens.to(device)).float(), dim=-1)
    place = {sentence: index for index, sentence in enumerate(unique)}
    return vectors[[place[sentence] for sentence in sentences]]
