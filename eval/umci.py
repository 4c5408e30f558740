"""How much UMCI, trained on rendered pictures alone, adds to nano's own map on real photos.

CLIPSAM_DATA_DIR=DIR python eval/umci.py [--config eval/umci_nano.toml] [--work DIR] [--limit N]

Trains an adapter for the embedded pair (about ten minutes on one idle core; a second call goes on), measures
nano's text map and the adapter's map on the same photos without SAM, prints both tables and the difference of
the means, and writes the figures with their settings to results/umci/nano.json.
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
SETS = (("mvtec", "mvtec_ad"), ("folder", "industrial"))
SHOWN = ("image_auroc", "pixel_auroc", "pro", "pixel_ap", "pixel_f1_max")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=HERE / "umci_nano.toml")
    parser.add_argument("--work", type=Path, default=Path("clipsam-eval-umci"))
    parser.add_argument("--limit", type=int, help="photos per type of defect, and good ones; by default all")
    options = parser.parse_args()
    data = Path(os.environ["CLIPSAM_DATA_DIR"])
    adapter = options.work / "umci.safetensors"
    train = ["train", "umci", "--preset", "nano", "--config", str(options.config), "--out", str(adapter)]
    subprocess.run([sys.executable, "-m", "clipsam", *train], check=True)
    entries = {
        name: measure(data, options.work / name, file, options.limit)
        for name, file in (("text", None), ("umci", adapter))
    }
    means = {name: mean_of(found) for name, found in entries.items()}
    for name, found in entries.items():
        for category, entry in found.items():
            print(name.ljust(6), category.ljust(15), row(entry["figures"]["coarse"]))
        print(name.ljust(6), "mean".ljust(15), row(means[name]))
    gains = {figure: means["umci"][figure] - means["text"][figure] for figure in SHOWN}
    print("gain".ljust(22), row(gains))
    out = HERE / "results" / "umci" / "nano.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"limit": options.limit, "mean": means, "categories": entries}, indent=1) + "\n"
    )


def measure(data: Path, work: Path, adapter: Path | None, limit: int | None) -> dict[str, Any]:
    """The entries of all categories of both sets; what is finished in `work` is kept."""
    recipe, found = SegmenterRecipe("nano", sam=False, adapter=adapter), {}
    for kind, folder in SETS:
        dataset = open_dataset(kind, data / folder)
        dataset = dataset if limit is None else dataset.limited(limit)
        found |= evaluate(recipe, dataset, out=work / f"{folder}-{limit or 'all'}").categories
    return found


def mean_of(entries: dict[str, Any]) -> dict[str, float]:
    """The unweighted mean of each figure over the categories."""
    figures = [entry["figures"]["coarse"] for entry in entries.values()]
    return {name: sum(each[name] for each in figures) / len(figures) for name in FIGURES}


def row(figures: dict[str, float]) -> str:
    """Per cent: image AUROC, pixel AUROC, PRO, AP, F1-max."""
    return "".join(f"{100 * figures[name]:8.1f}" for name in SHOWN)


if __name__ == "__main__":
    main()
