"""How much UMCI adds to nano's own map on real photos: trained on rendered pictures, or on one group of sets.

CLIPSAM_DATA_DIR=DIR python eval/umci.py [--on rendered|industrial|mvtec_ad ...] [--config FILE] [--work DIR]

Trains an adapter for the embedded pair on each of these (by default on all three; a second call goes on),
measures nano's text map and the adapter's map, without SAM, on the same photos, none of which it was trained
on, prints both tables and the difference of the means, and writes the figures with their settings to
results/umci/nano.json. Training on a group of real sets serves this measurement alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from clipsam.datasets import open_dataset
from clipsam.evaluate import FIGURES, evaluate
from clipsam.scoring import SegmenterRecipe

HERE = Path(__file__).parent
SETS = {"mvtec_ad": "mvtec", "industrial": "folder"}  # folder, and kind of dataset
SHOWN = ("image_auroc", "pixel_auroc", "pro", "pixel_ap", "pixel_f1_max")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--on", action="append", choices=["rendered", *SETS], help="may be repeated")
    parser.add_argument("--config", type=Path, default=HERE / "umci_nano.toml")
    parser.add_argument("--work", type=Path, default=Path("clipsam-eval-umci"))
    parser.add_argument("--limit", type=int, help="photos per type of defect, and good ones; by default all")
    options = parser.parse_args()
    data = Path(os.environ["CLIPSAM_DATA_DIR"])
    found = {on: transfer(on, data, options) for on in options.on or ["rendered", *SETS]}
    out = HERE / "results" / "umci" / "nano.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"limit": options.limit, "trained_on": found}, indent=1) + "\n")


def transfer(on: str, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train on one and test on the others; print the tables and return their figures."""
    adapter = options.work / f"{on}.safetensors"
    train = ["train", "umci", "--preset", "nano", "--config", str(options.config), "--out", str(adapter)]
    if on in SETS:
        train += ["--dataset", SETS[on], "--root", str(data / on)]
    subprocess.run([sys.executable, "-m", "clipsam", *train], check=True)
    tested = [folder for folder in SETS if folder != on]
    entries = {
        name: measure(data, tested, options.work / work, file, options.limit)
        for name, work, file in (("text", "text", None), ("umci", f"umci-{on}", adapter))
    }
    means = {name: mean_of(found) for name, found in entries.items()}
    print(f"trained on {on}".ljust(22), "".join(name.rjust(13)[-13:] for name in SHOWN))
    for name, found in entries.items():
        for category, entry in found.items():
            print(name.ljust(6), category.ljust(15), row(entry["figures"]["coarse"]))
        print(name.ljust(6), "mean".ljust(15), row(means[name]))
    gains = {figure: means["umci"][figure] - means["text"][figure] for figure in SHOWN}
    print("gain".ljust(22), row(gains))
    return {"mean": means, "categories": entries}


def measure(
    data: Path, folders: list[str], work: Path, adapter: Path | None, limit: int | None
) -> dict[str, Any]:
    """The entries of all categories of these sets; what is finished in `work` is kept."""
    recipe, found = SegmenterRecipe("nano", sam=False, adapter=adapter), {}
    for folder in folders:
        dataset = open_dataset(SETS[folder], data / folder)
        dataset = dataset if limit is None else dataset.limited(limit)
        found |= evaluate(recipe, dataset, out=work / f"{folder}-{limit or 'all'}").categories
    return found


def mean_of(entries: dict[str, Any]) -> dict[str, float]:
    """The unweighted mean of each figure over the categories."""
    figures = [entry["figures"]["coarse"] for entry in entries.values()]
    return {name: sum(each[name] for each in figures) / len(figures) for name in FIGURES}


def row(figures: dict[str, float]) -> str:
    """Per cent: image AUROC, pixel AUROC, PRO, AP, F1-max."""
    return "".join(f"{100 * figures[name]:13.1f}" for name in SHOWN)


if __name__ == "__main__":
    main()
