"""How fast the corpus of the embedded pair is rendered.

python eval/bench_corpus.py [--count 400] [--side 256] [--processes 2] [--out eval/results/nano/corpus.json]

Renders `count` pictures of `side` px, each with its flawless twin, in so many processes; prints pictures per
second by the clock and per second of one processor (which other work on the machine does not change).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # the processes share the cores already

from clipsam.nano.corpus.compose import render
from clipsam.runs.manifest import versions


def drawn(seed: int, side: int) -> float:
    """Render one picture; the seconds of the processor that it took."""
    start = time.process_time()
    render(seed, side, side)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--side", type=int, default=256, help="px of a picture")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        list(pool.map(partial(drawn, side=options.side), range(4 * options.processes)))  # imports, caches
        start = time.perf_counter()
        seconds = list(
            pool.map(partial(drawn, side=options.side), range(100, 100 + options.count), chunksize=8)
        )
        clock = time.perf_counter() - start
    found = {
        "pictures_per_second": round(options.count / clock, 1),
        "per_second_of_one_processor": round(options.count / sum(seconds), 1),
    }
    print(json.dumps(found))
    if options.out:
        about = {key: value for key, value in vars(options).items() if key != "out"}
        manifest = {**about, "versions": versions()}
        options.out.write_text(json.dumps({**found, "manifest": manifest}, indent=2) + "\n")


if __name__ == "__main__":
    main()
