from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASKED = """
import os, torch
from threadpoolctl import threadpool_info
import numpy
from clipsam.cli._threads import leave_a_core, share_cores
class Segmenter:
    def manifest(self):
        return {"device": "cpu"}
leave_a_core()
streams = share_cores(Segmenter())
blas = {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}
print(streams, torch.get_num_threads(), *blas)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the cores of a process are unknown")
def test_streams_torch_and_numpy_together_have_as_many_threads_as_there_are_cores():
    environment = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    answer = subprocess.run(
        [sys.executable, "-c", ASKED], env=environment, capture_output=True, text=True, check=True
    )
    streams, *threads = (int(number) for number in answer.stdout.split())
    cores = len(os.sched_getaffinity(0))
    assert streams == min(4, cores)
    assert threads
    assert all(number == cores // streams for number in threads)
