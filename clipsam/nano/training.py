"""What both trainings share: loop, schedule, averaged weights, checkpoints that survive a kill, and log.

A checkpoint holds everything a training needs to go on as if nothing had happened; it is written beside the
old one and then renamed. The log is JSON lines: one object per report. Knows nothing of what is being
trained.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.data import DataLoader, Dataset


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
    """Running means of named numbers, written as JSON lines and echoed to stderr as plain text."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
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
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print("  ".join(f"{key} {value}" for key, value in row.items()), file=sys.stderr, flush=True)
        self.sums, self.count, self.pictures, self.since = {}, 0, 0, time.monotonic()


class Schedule(Protocol):
    """What the loop needs to know of a training's configuration."""

    @property
    def steps(self) -> int: ...
    @property
    def peak(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def fall(self) -> float: ...
    @property
    def averaging(self) -> float: ...
    @property
    def workers(self) -> int: ...
    @property
    def checkpoint_every(self) -> int: ...


def fit(
    model: nn.Module,
    data: Dataset[Any],
    config: Schedule,
    path: Path,
    loss_of: Callable[[Any, int], tuple[Tensor, dict[str, float]]],
    *,
    largest_gradient: float,
    after_step: Callable[[], dict[str, float]] = dict,
    validate: Callable[[], dict[str, float]] = dict,
    validate_every: int = 0,
) -> None:
    """Train `model` on the batches of `data` and leave it with its averaged weights.

    Goes on from `path`.ckpt where there is one and logs to `path`.jsonl. `loss_of(batch, step)` returns the
    loss and numbers for the log; `after_step` may mend parameters and returns further numbers. `validate`
    measures the model in evaluation mode every so many steps (0: never); its numbers are logged as
    `validation_*`.
    """
    optimizer = optimizer_for(model, config.peak, config.weight_decay)
    average = Average(model, config.averaging)
    checkpoint = path.with_suffix(".ckpt")
    start = load_checkpoint(checkpoint, model, optimizer, average)
    log = Log(path.with_suffix(".jsonl"))
    for step, batch in enumerate(loader(data, range(start, config.steps), config.workers), start):
        for group in optimizer.param_groups:
            group["lr"] = config.peak * rate(step, config.steps, config.warmup, config.fall)
        loss, numbers = loss_of(batch, step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), largest_gradient)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        extra = after_step()
        average.update(model, step)
        log.add(numbers, len(batch))
        checked = validate_every and (step + 1) % validate_every == 0
        if checked:
            extra |= evaluated(model, validate)
        if checked or (step + 1) % 50 == 0 or step + 1 == config.steps:
            log.report(step + 1, **extra, clock=time.strftime("%H:%M:%S"))
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.steps:
            save_checkpoint(checkpoint, model, optimizer, average, step + 1)
    model.load_state_dict(average.state)


@torch.no_grad()
def evaluated(model: nn.Module, validate: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What `validate` finds with the model in evaluation mode."""
    model.eval()
    numbers = {f"validation_{name}": round(value, 4) for name, value in validate().items()}
    model.train()
    return numbers


def loader(data: Dataset[Any], numbers: range, workers: int) -> DataLoader[Any]:
    """Those batches of `data`, rendered by worker processes in order."""
    return DataLoader(
        data,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=single_threaded,
    )


def single_threaded(_: int) -> None:
    """Keep a rendering process to one core."""
    torch.set_num_threads(1)
