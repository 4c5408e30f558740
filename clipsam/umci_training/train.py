"""Train UMCI on features of a frozen tower: `train_umci(...)`, resumable, the same for the same seed.

Input: features of pictures with masks, texts about their products. Output: an adapter's file. Loss per stage
as in the paper (arXiv 2401.12665): focal loss of both maps plus Dice of each. The tower is never changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from clipsam.adapter import Bond, contrast, network_for, save_adapter
from clipsam.clip import ClipEncoder
from clipsam.errors import RunError, UsageError
from clipsam.heatmap import mean_scales, text_targets
from clipsam.metrics import PixelMetrics
from clipsam.nano.training import fit
from clipsam.prompts import PromptEnsemble
from clipsam.umci import Umci, UmciSettings, anomaly_logits
from clipsam.umci_training.config import UmciTraining
from clipsam.umci_training.features import Features


@dataclass(frozen=True)
class UmciBatch:
    """Pictures of one shape: `levels` float16 [b, s, h, w, c] and `words` float16 [b, 1 + k, h, w], either
    perhaps None; `masks` float32 [b, m, n] of 0 and 1, `texts` float32 [b, 2, d].
    """

    levels: Tensor | None
    words: Tensor | None
    masks: Tensor
    texts: Tensor

    def __len__(self) -> int:
        return len(self.masks)

    def stages(self, network: Umci, device: torch.device) -> Tensor:
        """What the network says of them, [b, s, 2, h, w]."""
        levels, words = (
            None if given is None else given.to(device).float() for given in (self.levels, self.words)
        )
        return network(levels, self.texts.to(device), words)


@dataclass(frozen=True)
class MixedBatch:
    """Pictures of any shape, as batches of one shape each."""

    parts: tuple[UmciBatch, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))


class UmciBatches(Dataset[MixedBatch]):
    """All batches of a training, by number: each epoch meets every picture once, in an order of its own, each
    batch at one of the scales.
    """

    def __init__(
        self, features: Features, texts: dict[str, Tensor], config: UmciTraining, count: int
    ) -> None:
        self.features, self.texts, self.config, self.count = features, texts, config, count
        self.per_epoch = -(-count // config.batch)
        self.sizes = tuple(features.sizes)

    def __len__(self) -> int:
        return self.per_epoch * self.config.epochs

    def __getitem__(self, index: int) -> MixedBatch:
        epoch, place = divmod(index, self.per_epoch)
        order = np.random.default_rng((self.config.seed, epoch)).permutation(self.count)
        size = self.sizes[int(np.random.default_rng((self.config.seed, 1, index)).integers(len(self.sizes)))]
        chosen = order[place * self.config.batch : (place + 1) * self.config.batch]
        alike: dict[tuple[int, int], list[int]] = {}
        for number in chosen.tolist():
            alike.setdefault(self.features.shape_of(number, size), []).append(number)
        return MixedBatch(
            tuple(
                batch_of(self.features, self.texts, numbers, size, self.config.covered)
                for numbers in alike.values()
            )
        )


def batch_of(
    features: Features, texts: dict[str, Tensor], numbers: Sequence[int], size: int, covered: float
) -> UmciBatch:
    """These pictures, of one shape, at one scale. A cell is defective from a share of `covered` on."""
    seen = [features.seen(number, size) for number in numbers]
    return UmciBatch(
        _stacked([each.levels for each in seen]),
        _stacked([each.words for each in seen]),
        torch.stack([(features.shares_of(number, size) >= covered).float() for number in numbers]),
        torch.stack([texts[features.products[number]] for number in numbers]),
    )


def _stacked(given: Sequence[Tensor | None]) -> Tensor | None:
    there = [each for each in given if each is not None]
    return torch.stack(there) if there else None


@dataclass(frozen=True)
class Schedule:
    """What the loop must know."""

    steps: int
    peak: float
    weight_decay: float
    warmup: int
    fall: float
    averaging: float
    checkpoint_every: int
    workers: int = 0  # pictures that are not cached need the tower, which lives in this process

    @classmethod
    def of(cls, config: UmciTraining, steps: int) -> Schedule:
        names = ("peak", "weight_decay", "warmup", "fall", "averaging", "checkpoint_every")
        return cls(steps, **{name: getattr(config, name) for name in names})


def train_umci(
    encoder: ClipEncoder,
    prompts: PromptEnsemble,
    features: Features,
    *,
    settings: UmciSettings,
    config: UmciTraining,
    bond: Bond,
    threshold: float,
    out: Path,
) -> dict[str, Any]:
    """Train to the end, going on from the checkpoint beside `out` where there is one; return the card of the
    file.

    `features` are filled; `threshold` is where a preset cuts its map: the offset puts the best cut of the
    held-out pictures there. Raises `RunError` where the checkpoint belongs to another training.
    """
    held = round(len(features.products) * config.holdout)
    if held == 0 or held >= len(features.products):
        raise UsageError(
            f"{len(features.products)} pictures with holdout = {config.holdout} leave {held} to set the "
            "offset of the map; expected more pictures or another holdout"
        )
    folder = out.with_name(f"{out.name}.training")
    training, data = asdict(config), features.pictures.identity
    _claim(folder, {"bond": asdict(bond), "settings": asdict(settings), "training": training, "data": data})
    texts = texts_of(encoder, prompts, set(features.products), named=config.named)
    torch.manual_seed(config.seed)
    network = network_for(settings, encoder, prompts, len(features.levels)).to(encoder.device).train()
    batches = UmciBatches(features, texts, config, len(features.products) - held)
    fit(
        network,
        batches,
        Schedule.of(config, len(batches)),
        folder / "umci",
        lambda batch, _: stage_losses(network, batch, config, encoder.device),
        largest_gradient=config.largest_gradient,
    )
    network.eval()
    numbers = range(len(features.products) - held, len(features.products))
    found = held_out(network, features, texts, numbers, config.covered, encoder.device)
    offset = _logit(threshold) - _logit(found["pixel_threshold"])
    training["held_out"] = {name: found[name] for name in ("pixel_ap", "pixel_auroc", "pixel_f1_max")}
    return save_adapter(
        out, network, bond, levels=features.levels, offset=offset, training=training, data=data
    )


def texts_of(
    encoder: ClipEncoder, prompts: PromptEnsemble, products: set[str], *, named: bool
) -> dict[str, Tensor]:
    """The two texts [2, d] about each product; the same for all where they are not `named`."""
    if not named:
        return dict.fromkeys(products, contrast(text_targets(encoder, prompts.sentences())).cpu())
    return {
        product: contrast(text_targets(encoder, prompts.sentences(product))).cpu()
        for product in sorted(products)
    }


def stage_losses(
    network: Umci, batch: MixedBatch, config: UmciTraining, device: torch.device
) -> tuple[Tensor, dict[str, float]]:
    """The sum over stages of focal([O_n, O_a], S) + Dice(O_n, 1 - S) + Dice(O_a, S), or of the balanced loss;
    its parts for the log. Stages that correct the text map together are one.
    """
    found = []
    for part in batch.parts:
        stages, masks = part.stages(network, device), part.masks.to(device)
        stages = stages.sum(dim=1, keepdim=True) if network.settings.prior else stages
        found.append(losses_of(stages, masks, config))
    parts = {name: torch.cat([each[name] for each in found]) for name in found[0]}  # [b, s] each
    loss = torch.stack(list(parts.values())).sum(dim=0).mean(dim=0).sum()
    return loss, {name: float(part.detach().mean()) for name, part in parts.items()}


def losses_of(stages: Tensor, masks: Tensor, config: UmciTraining) -> dict[str, Tensor]:
    """Logits [b, s, 2, h, w] and masks [b, m, n] -> the losses [b, s] by name, maps compared at the cells of
    the masks.
    """
    logits = F.interpolate(stages.flatten(0, 1), masks.shape[-2:], mode="bilinear")
    logits = logits.unflatten(0, stages.shape[:2])  # [b, s, 2, m, n]
    truth = torch.stack([1 - masks, masks], dim=1)[:, None].expand_as(logits)
    if config.balance > 0:
        return {"balanced": balanced_loss(logits, truth, config.balance)}
    maps = logits.softmax(dim=2)
    return {
        "focal": focal_loss(maps, truth, config.gamma),
        "dice": dice_loss(maps, truth).sum(dim=-1),
    }


def balanced_loss(logits: Tensor, truth: Tensor, balance: float) -> Tensor:
    """Of logits [..., 2, m, n]: cross-entropy [...] in which all defective cells of a photo together weigh
    `balance`, and each other cell 1 / (m n): a photo's small defect as much as another's large one.
    """
    each = -(logits.log_softmax(dim=-3) * truth)
    normal, abnormal = each.unbind(dim=-3)
    cells = truth[..., 1, :, :].sum(dim=(-2, -1)).clamp(min=1)
    return normal.mean(dim=(-2, -1)) + balance * abnormal.sum(dim=(-2, -1)) / cells


def focal_loss(maps: Tensor, truth: Tensor, gamma: float) -> Tensor:
    """Of probabilities [..., 2, m, m] of both classes: mean of (1 - p)^gamma * -log p of the true one, [...].

    Lin et al. 2017, arXiv 1708.02002, without class weights.
    """
    right = (maps * truth).sum(dim=-3).clamp(min=1e-6)
    return ((1 - right).pow(gamma) * -right.log()).mean(dim=(-2, -1))


def dice_loss(maps: Tensor, truth: Tensor) -> Tensor:
    """1 - Dice of each map [..., m, m] with its truth, counting one more pixel that agrees (Milletari et al.
    2016, arXiv 1606.04797).
    """
    both = (maps * truth).sum(dim=(-2, -1))
    return 1 - (2 * both + 1) / (maps.sum(dim=(-2, -1)) + truth.sum(dim=(-2, -1)) + 1)


@torch.inference_mode()
def held_out(
    network: Umci,
    features: Features,
    texts: dict[str, Tensor],
    numbers: Sequence[int],
    covered: float,
    device: torch.device,
) -> dict[str, Any]:
    """Figures of pictures that were not trained on, all scales together, as adapters see photos."""
    metrics = PixelMetrics()
    largest = max(features.sizes)
    for number in numbers:
        scales = []
        for size in features.sizes:
            batch = batch_of(features, texts, [number], size, covered)
            scales.append(anomaly_logits(batch.stages(network, device)).cpu())
        truth = features.shares_of(number, largest) >= covered
        logits = F.interpolate(mean_scales(scales)[None], truth.shape, mode="bilinear")[0, 0]
        metrics.update(logits.sigmoid().numpy(), truth.numpy())
    return metrics.compute()


def _logit(probability: float) -> float:
    return float(torch.tensor(probability, dtype=torch.float64).logit(eps=1e-6))


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Note whose checkpoint this folder holds, or refuse one that belongs to another training."""
    note, identity = folder / "training.json", json.loads(json.dumps(identity))
    if note.is_file():
        before = json.loads(note.read_text("utf-8"))
        changed = [
            f"{table}.{key}"
            for table, values in identity.items()
            for key in values
            if before.get(table, {}).get(key) != values[key]
        ]
        if changed:
            raise RunError(
                f"{folder} holds a training with another {', '.join(changed)}; choose another --out, or "
                "remove the folder to train anew"
            )
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
