"""How the cores are shared between the models, the reading of photos and the writing of results."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipsam.runs.photowork import Segmenter

MOST_STREAMS = 4  # each holds the maps of a photo and the activations of the models


def leave_a_core() -> None:
    """Leave one core to reading and writing, unless OMP_NUM_THREADS says otherwise.

    With as many threads as cores, the models wait for a core at every step: 3.0 instead of 3.8 photos per
    second on two cores.
    """
    import torch

    from clipsam.devices import compute_on

    if "OMP_NUM_THREADS" not in os.environ:
        compute_on(max(1, torch.get_num_threads() - 1))


def share_cores(segmenter: Segmenter) -> int:
    """How many photos to segment at once; on a CPU the threads of each become fewer, so that all cores have
    one.

    Threads that work on photos of their own never wait for each other, as those do that share a photo. A GPU,
    OpenVINO's programs and the voting of a batch take one photo at a time. OMP_NUM_THREADS stays the number
    of threads per photo.
    """
    setup = segmenter.manifest()
    if setup["device"] != "cpu" or "programs" in setup or "consensus" in setup:
        return 1
    return split_cores()


def split_cores() -> int:
    """`share_cores` for photos that the CPU does several of at once."""
    import torch

    from clipsam.devices import compute_on

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if "OMP_NUM_THREADS" in os.environ:
        return min(MOST_STREAMS, max(1, cores // torch.get_num_threads()))
    streams = min(MOST_STREAMS, cores)
    compute_on(cores // streams)
    return streams
