"""Devices: where the models run. Input: a torch device's name, or nothing. Output: one that works here. Knows
nothing of models.
"""

from __future__ import annotations

import torch

from clipsam.errors import UsageError


def usable_device(device: str | None) -> str:
    """`device`, proved by an allocation; without one the GPU where there is one. `UsageError` otherwise."""
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"the device {device!r} cannot be used ({reason}); expected cpu, or cuda or cuda:N of a GPU here"
        ) from error
    return device
