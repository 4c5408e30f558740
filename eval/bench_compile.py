"""What torch.compile would bring: CLIP-nano's dense pass, eager and compiled, in one process by turns.

    python eval/bench_compile.py --out eval/results/bench_compile.json

Processor seconds of one thread, medians; `first_call` is the compilation for this one size of input, with an
empty cache of torch's compiler and then, in a fresh process, with the cache that the first one left. Needs a
C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from clipsam.clip import ClipEncoder
from clipsam.presets import NANO
from clipsam.runs.manifest import versions


class Dense(nn.Module):
    """The encoder's pass as a module that the compiler takes whole."""

    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        self.visual, self._encoder = encoder.model.visual, [encoder]

    def forward(self, pixels: Tensor) -> Tensor:
        return self._encoder[0].dense(pixels, NANO.heatmap.attention, pooled=False).patches


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=384, metavar="PX")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help="measure once, with the cache that is there")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.size, options.rounds)))
        return
    call = [sys.executable, __file__, "--one", "--size", str(options.size), "--rounds", str(options.rounds)]
    with tempfile.TemporaryDirectory() as cache:
        place = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        found = {
            name: json.loads(subprocess.run(call, env=place, check=True, capture_output=True).stdout)
            for name in ("empty_cache", "warm_cache")
        }
    text = json.dumps(found | {"size": options.size, "versions": versions()}, indent=2) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


@torch.inference_mode()
def measure(size: int, rounds: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    encoder = ClipEncoder.from_spec(NANO.clip)
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    eager, compiled = Dense(encoder), torch.compile(Dense(encoder), dynamic=False)
    plain = eager(pixels)
    start = _spent()
    first = compiled(pixels)
    spent = _spent() - start
    pairs = []
    for _ in range(rounds):
        pairs.append((_seconds(lambda: eager(pixels)), _seconds(lambda: compiled(pixels))))
    return {
        "first_call": round(spent, 1),
        "eager": round(median(one for one, _ in pairs), 4),
        "compiled": round(median(other for _, other in pairs), 4),
        "times_faster": round(median(one / other for one, other in pairs), 2),
        "largest_difference": float((plain - first).abs().max()),
    }


def _seconds(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def _spent() -> float:
    """Processor seconds of this process and of the compilers that it started."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
