"""Speed beside anomalib 2.7.0's WinCLIP: our coarse map and our exact windows, at ViT-B-16-plus-240.

    python eval/bench_winclip.py [--work DIR] [--rounds 20] [--out eval/results/bench_winclip.json]

Both sides have the same random weights (speed does not depend on them) and the same photo of 240 px. The peer
runs in its own environment and waits while we compute: one photo each in turn, so that what else the machine
does falls on all alike. Figures are medians and ratios of them; sentences are encoded before the clock runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch

sys.path.insert(0, str(Path(__file__).parent / "parity"))
from environment import python_of, versions
from winclip import ARCHITECTURE, SEED, random_model, random_photos

import clipsam
from clipsam.clip import ClipEncoder, hash_parameters
from clipsam.heatmap import CoarseMap, TextTargets, coarse_map, text_targets
from clipsam.metrics import PixelMetrics
from clipsam.prompts import Sentences
from clipsam.protocol import load_protocol
from clipsam.settings import HeatmapSettings

PEER = """
import json, sys, time
import numpy as np, torch
from anomalib.models.image.winclip import WinClip, torch_model
work, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
torch_model.PRETRAINED = None
photos = np.load(f"{work}/photos.npz")
model = torch_model.WinClipModel().eval()
model.clip.load_state_dict(torch.load(f"{work}/weights.pt", weights_only=True))
model._text_embeddings = torch.from_numpy(np.load(f"{work}/text.npy"))
pixels = torch.from_numpy(photos["queries"][:1]).permute(0, 3, 1, 2) / 255
batch = WinClip.configure_pre_processor().transform(pixels)
for line in sys.stdin:
    with torch.no_grad():
        clock, spent = time.perf_counter(), time.process_time()
        found = model(batch)
        print(json.dumps([time.perf_counter() - clock, time.process_time() - spent]), flush=True)
np.save(f"{work}/map.npy", found.anomaly_map[0].numpy())
"""


class Peer:
    """anomalib's WinCLIP in a process of its own; every call is one photo, [seconds, processor seconds]."""

    def __init__(self, python: Path, work: Path, threads: int) -> None:
        command = [str(python), "-W", "ignore", "-c", PEER, str(work), str(threads)]
        # A waiting thread pool must not spin while the other side is measured.
        env = os.environ | {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def __call__(self) -> tuple[float, float]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        seconds, spent = json.loads(self.process.stdout.readline())
        return seconds, spent

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def encoder_of(model: Any, dtype: str, folder: str) -> ClipEncoder:
    return ClipEncoder(
        model,
        open_clip.get_tokenizer(ARCHITECTURE),
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        name=ARCHITECTURE,
        weights_hash=hash_parameters(model),
        cache_dir=folder,
        dtype=dtype,
    )


def two_sentences(folder: str) -> TextTargets:
    """What both sides compare with; how many sentences it is the mean of changes no speed."""
    sentences = Sentences(("a flawless metal nut",), {"damage": ("a damaged metal nut",)})
    return text_targets(encoder_of(random_model(), "float32", folder), sentences)


def sides(folder: str, targets: TextTargets) -> dict[str, Callable[[np.ndarray], Any]]:
    """What is measured on our side, by name: photo [H, W, 3] -> its map, or the bare pass."""
    exact = load_protocol("winclip").method().heatmap
    ours = HeatmapSettings(sizes=(exact.sizes[0],), square=True)
    found: dict[str, Callable[[np.ndarray], Any]] = {}
    for dtype in ("float32", "bfloat16"):
        encoder = encoder_of(random_model(), dtype, folder)

        def bare(photo: np.ndarray, encoder: ClipEncoder = encoder) -> Any:
            pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
            with torch.inference_mode(), encoder._precision():
                return encoder.model.encode_image((pixels - encoder._mean) / encoder._std)

        def coarse(photo: np.ndarray, encoder: ClipEncoder = encoder) -> CoarseMap:
            return coarse_map(photo, encoder, targets, ours)

        def windows(photo: np.ndarray, encoder: ClipEncoder = encoder) -> CoarseMap:
            return coarse_map(photo, encoder, targets, exact)

        found |= {f"bare pass, {dtype}": bare, f"coarse map, {dtype}": coarse, f"windows, {dtype}": windows}
    return found


def apart(exact: CoarseMap, rounded: CoarseMap) -> dict[str, float]:
    """How far a map in bfloat16 is from that in float32, and whether both rank pixels alike: the AUROC by
    which the one finds the highest 5 % of the other.
    """
    metrics = PixelMetrics()
    metrics.update(rounded.anomaly, exact.anomaly >= np.quantile(exact.anomaly, 0.95))
    return {
        "largest": float(np.abs(exact.anomaly - rounded.anomaly).max()),
        "mean": float(np.abs(exact.anomaly - rounded.anomaly).mean()),
        "spread of the map": float(np.ptp(exact.anomaly)),
        "AUROC for the highest 5 % of float32, per cent": 100 * float(metrics.compute()["pixel_auroc"]),
    }


def measure(work: Path, rounds: int, threads: int) -> dict[str, Any]:
    """All sides in turn, `rounds` times after a warm-up of two."""
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    model, photos = random_model(), random_photos()
    torch.save(model.state_dict(), work / "weights.pt")
    np.savez(work / "photos.npz", **photos)
    python, folder = python_of("anomalib", work), tempfile.mkdtemp(dir=work)
    targets = two_sentences(folder)
    np.save(work / "text.npy", torch.cat([targets.normal[None], targets.abnormal]).numpy())
    peer, photo = Peer(python, work, threads), photos["queries"][0]
    ours = sides(folder, targets)
    clock: dict[str, list[tuple[float, float]]] = {name: [] for name in ("anomalib", *ours)}
    for turn in range(rounds + 2):
        answers = {"anomalib": peer()}
        for name, run in ours.items():
            start, spent = time.perf_counter(), time.process_time()
            run(photo)
            answers[name] = (time.perf_counter() - start, time.process_time() - spent)
        if turn > 1:
            for name, each in answers.items():
                clock[name].append(each)
    peer.close()
    medians = {
        name: [statistics.median(each) for each in zip(*times, strict=True)] for name, times in clock.items()
    }
    theirs = medians["anomalib"]
    return {
        "architecture": ARCHITECTURE,
        "weights": f"random, seed {SEED}",
        "weights_sha256": hash_parameters(model),
        "photo": f"{photo.shape[0]} px, rendered from seed {SEED}",
        "rounds": rounds,
        "threads": threads,
        "machine": {"processor": processor(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {
            "clipsam": clipsam.__version__,
            "torch": torch.__version__,
            "open_clip_torch": open_clip.__version__,
            "peer": versions(python, ("anomalib", "open_clip_torch", "torch")),
        },
        "median seconds by the clock": {name: round(each[0], 4) for name, each in medians.items()},
        "median seconds of the processor": {name: round(each[1], 4) for name, each in medians.items()},
        "times faster than anomalib, by the clock": {
            name: round(theirs[0] / each[0], 2) for name, each in medians.items()
        },
        "times faster than anomalib, of the processor": {
            name: round(theirs[1] / each[1], 2) for name, each in medians.items()
        },
        "largest difference of windows, float32, from anomalib's map": float(
            np.abs(ours["windows, float32"](photo).anomaly - np.load(work / "map.npy")).max()
        ),
        "bfloat16 against float32": {
            name: apart(ours[f"{name}, float32"](photo), ours[f"{name}, bfloat16"](photo))
            for name in ("coarse map", "windows")
        },
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--work", type=Path, help="where weights and the peer's environment are kept")
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--out", type=Path, default=Path("eval/results/bench_winclip.json"))
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = measure(given.work or Path(temporary), given.rounds, given.threads)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
