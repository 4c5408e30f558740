"""What both trainings share: the schedule, averaged weights, checkpoints that survive a kill, and the log.

A checkpoint holds everything a training needs to go on as if nothing had happened; it is written beside the
old one and then renamed. The log is JSON lines: one object per report. Knows nothing of what is being
trained.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW


def rate(step: int, steps: int, warmup: int, decay: float) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, plateau, linear fall over the last `decay`
    of all steps.
    """
    fall = max(1.0, decay * steps)
    return max(0.0, min(1.0, (step + 1) / max(1, warmup), (steps - step) / fall))


def optimizer_for(model: nn.Module, peak: float, weight_decay: float) -> AdamW:
    """AdamW that decays matrices and kernels but not biases, norms and scalars."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=peak, betas=(0.9, 0.98), fused=True)


class Average:
    """Exponential moving average of a model's weights, with a warm start so that early noise is forgotten."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)


def save_checkpoint(path: Path, model: nn.Module, optimizer: AdamW, average: Average, step: int) -> None:
    """Write all that a resumed training needs; never leaves a half-written file under `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.state,
        "step": step,
        "random": torch.get_rng_state(),
    }
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def load_checkpoint(path: Path, model: nn.Module, optimizer: AdamW, average: Average) -> int:
    """Restore a checkpoint in place and return its step; 0 where there is none."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for name, value in state["average"].items():
        average.state[name].copy_(value)
    torch.set_rng_state(state["random"])
    return int(state["step"])


class Log:
    """Running means of named numbers, written as JSON lines and echoed as plain text."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", encoding="utf-8")
        self.sums: dict[str, float] = {}
        self.count = 0
        self.pictures = 0
        self.since = time.monotonic()

    def add(self, numbers: dict[str, float], pictures: int) -> None:
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1
        self.pictures += pictures

    def report(self, step: int, **extra: Any) -> None:
        """Write the means since the last report and start anew."""
        seconds = time.monotonic() - self.since
        row: dict[str, Any] = {"step": step, **{k: round(v / self.count, 4) for k, v in self.sums.items()}}
        row |= {"pictures_per_second": round(self.pictures / seconds, 1), **extra}
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        self.sums, self.count, self.pictures, self.since = {}, 0, 0, time.monotonic()
