"""Devices: where the models run, and on how many threads.

Input: a torch device's name, or nothing. Output: one that works here. Knows nothing of models.
"""

from __future__ import annotations

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from clipsam.errors import UsageError

_LEARNT_FROM = 2**25 - 2**16  # bytes: a little below the largest that glibc learns from


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


def compute_on(threads: int) -> None:
    """Threads of torch, and of numpy's matrix products: those spin while they wait, on cores that others
    need.

    Two runs at once on two cores: 11.0 instead of 2.7 photos per second.
    """
    torch.set_num_threads(threads)
    threadpool_limits(threads, user_api="blas")


def keep_freed_memory() -> None:
    """Let the system's allocator keep the memory of freed arrays for the next ones, up to 64 MB.

    Else it hands them back and every array of a photo is made of new pages: 5 ms of a photo of 900 px. glibc
    learns it from a large array that is freed (mallopt(3), M_MMAP_THRESHOLD); elsewhere this does nothing.
    """
    np.empty(_LEARNT_FROM, np.uint8)
