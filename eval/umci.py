"""How much UMCI adds to nano's own map on real photos that it was not trained on.

CLIPSAM_DATA_DIR=DIR python eval/umci.py [--on rendered|left-out|industrial|mvtec_ad ...] [--config FILE]

Trains an adapter for the embedded pair on rendered pictures (tested on all sets), on three of the industrial
sets (tested on the fourth, each in turn), or on one group of sets (tested on the other); by default on all of
these. A second call goes on. Measures nano's text map and the adapter's map, without SAM, on the same photos,
prints tables and the differences of the means, and writes all figures to results/umci/nano.json. Training on
real sets serves this measurement alone.
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
SETS = {
    "mvtec_ad": ("mvtec", ("bottle",)),
    "industrial": ("folder", ("ball_screw", "commutator", "cookie", "magnetic_tile")),
}  # folder -> kind of dataset, what is in it
SHOWN = ("image_auroc", "pixel_auroc", "pro", "pixel_ap", "pixel_f1_max")
Names = tuple[str, ...]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ways = ("rendered", "left-out", *SETS)
    parser.add_argument("--on", action="append", choices=ways, help="may be repeated; by default all")
    parser.add_argument("--config", type=Path, default=HERE / "umci_nano.toml")
    parser.add_argument("--work", type=Path, default=Path("clipsam-eval-umci"))
    parser.add_argument("--limit", type=int, help="photos per type of defect, and good ones; by default all")
    options = parser.parse_args()
    data = Path(os.environ["CLIPSAM_DATA_DIR"])
    found = {on: compared(on, data, options) for on in options.on or ways}
    out = HERE / "results" / "umci" / "nano.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"limit": options.limit, "trained_on": found}, indent=1) + "\n")


def trainings(on: str) -> list[tuple[str, Names, Names]]:
    """Of one way to train: folder (none for rendered pictures), what is trained on, what is tested on."""
    inside = SETS["industrial"][1]
    if on == "left-out":
        return [("industrial", tuple(c for c in inside if c != out), (out,)) for out in inside]
    if on == "rendered":
        return [("", (), (*SETS["mvtec_ad"][1], *inside))]
    return [(on, SETS[on][1], tuple(c for other in SETS if other != on for c in SETS[other][1]))]


def compared(on: str, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train in this way and test; print the tables and return their figures."""
    entries: dict[str, dict[str, Any]] = {"text": {}, "umci": {}}
    for folder, trained, tested in trainings(on):
        file = options.work / f"{on}-{'-'.join(tested)}.safetensors"
        train(folder, trained, data, file, options.config)
        entries["text"] |= measure(data, tested, options.work / "text", None, options.limit)
        entries["umci"] |= measure(data, tested, options.work / f"umci-{on}", file, options.limit)
    means = {name: mean_of(found) for name, found in entries.items()}
    print(f"trained on {on}".ljust(22), "".join(name.rjust(13) for name in SHOWN))
    for name, found in entries.items():
        for category, entry in found.items():
            print(name.ljust(6), category.ljust(15), row(entry["figures"]["coarse"]))
        print(name.ljust(6), "mean".ljust(15), row(means[name]))
    gains = {figure: means["umci"][figure] - means["text"][figure] for figure in SHOWN}
    print("gain".ljust(22), row(gains), flush=True)
    return {"mean": means, "categories": entries}


def train(folder: str, categories: Names, data: Path, file: Path, config: Path) -> None:
    """`clipsam train umci`, on rendered pictures where there is no folder."""
    words = ["train", "umci", "--preset", "nano", "--config", str(config), "--out", str(file)]
    if folder:
        words += ["--dataset", SETS[folder][0], "--root", str(data / folder)]
        words += [word for category in categories for word in ("--category", category)]
    subprocess.run([sys.executable, "-m", "clipsam", *words], check=True)


def measure(data: Path, tested: Names, work: Path, adapter: Path | None, limit: int | None) -> dict[str, Any]:
    """The entries of these categories; what is finished in `work` is kept."""
    recipe, found = SegmenterRecipe("nano", sam=False, adapter=adapter), {}
    for folder, (kind, inside) in SETS.items():
        for category in (name for name in inside if name in tested):
            dataset = open_dataset(kind, data / folder, [category])
            dataset = dataset if limit is None else dataset.limited(limit)
            found |= evaluate(recipe, dataset, out=work / f"{category}-{limit or 'all'}").categories
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
