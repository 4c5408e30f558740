"""Does the promise of a calibration hold? On good photos of real sets and on rendered ones, split 200 times.

CLIPSAM_DATA_DIR=DIR python eval/calibration.py [--quick] [--out eval/results/nano]

DIR holds mvtec_ad/ and industrial/. Photos are scored once; OUT/calibration_scores.json keeps the scores,
and the setup that gave them: with another one, or without the file, they are made anew. Each of 200 random
splits of a set calibrates on one part and counts the false alarms on the other, for 1, 5 and 10 %. Writes
calibration.json and calibration.png; ends with 1 if a mean lies more than three standard errors above the
promise. Six minutes on an idle core.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from clipsam.calibrate import Calibration, MissRate, PhotoScore, bound, photo_scores
from clipsam.companions import references_from
from clipsam.conformal import expected_rate, fewest_photos, rate_of
from clipsam.datasets import GOOD, Category, open_dataset
from clipsam.errors import CalibrationError
from clipsam.fusion import region_peak
from clipsam.nano.corpus.compose import Corpus
from clipsam.segmenter import AnomalySegmenter

RATES = ("1%", "5%", "10%")
SPLITS = 200
RENDERED = 400
BAD = 24  # photos of defects per set, at even steps, to tell what is missed
REFERENCES = 10  # of the training photos, at even steps; the others calibrate
WITH_REFERENCES = {"train": 30, "test": 20, "bad": BAD}  # at most so many photos, at even steps
LEAST_TESTED = 20  # photos that must be left to count false alarms on
MEASURES = ("verdict", "mask")  # a score above its threshold; any pixel above its own

Scores = dict[str, dict[str, list[PhotoScore]]]
"""By set and by split: train and test hold good photos, bad those of defects. For sets called "... with
references" every photo was also compared with some of the training photos."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("eval/results/nano"))
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--quick", action="store_true", help="few photos, nothing kept: does it run?")
    options = parser.parse_args()
    segmenter = AnomalySegmenter.from_preset(options.preset, product="part", device="cpu")
    data = Path(os.environ["CLIPSAM_DATA_DIR"])
    kept = options.out / ("quick_scores.json" if options.quick else "calibration_scores.json")
    scores = all_scores(segmenter, data, kept, limit=3 if options.quick else None)
    result = {
        "splits": SPLITS,
        "held_out": [row for name, photos in pools(scores).items() for row in split_rows(name, photos)],
        "as_delivered": [row for name, parts in scores.items() for row in delivered_rows(name, parts)],
        "manifest": bound(segmenter.manifest()),
    }
    print(table(result))
    if not options.quick:
        (options.out / "calibration.json").write_text(json.dumps(result, indent=1) + "\n")
        draw(result["held_out"], options.out / "calibration.png")
    return int(any(row.get("holds") is False for row in result["held_out"]))


# ---- scores


def all_scores(segmenter: AnomalySegmenter, data: Path, kept: Path, limit: int | None) -> Scores:
    """Scores of all sets and of rendered parts. What the file holds of this setup is taken from it; every
    set is added to it as it is done, so that an interrupted run goes on.
    """
    setup = bound(segmenter.manifest()) | {"photos": [RENDERED, BAD, REFERENCES]}
    scores = _read(kept, setup)
    for kind, root in (("mvtec", data / "mvtec_ad"), ("folder", data / "industrial")):
        for category in open_dataset(kind, root).categories:
            if category.name not in scores:
                scores |= category_scores(segmenter.about(category.product), category, limit)
                _keep(kept, setup, scores, limit)
                print(f"{category.name}: {sum(map(len, scores[category.name].values()))} photos", flush=True)
    if "rendered" not in scores:
        scores["rendered"] = {"test": list(rendered_scores(segmenter, limit or RENDERED))}
        _keep(kept, setup, scores, limit)
    return scores


def _read(kept: Path, setup: dict[str, Any]) -> Scores:
    if not kept.exists() or (before := json.loads(kept.read_text()))["setup"] != setup:
        return {}
    return {
        name: {split: [PhotoScore(*row) for row in rows] for split, rows in parts.items()}
        for name, parts in before["scores"].items()
    }


def _keep(kept: Path, setup: dict[str, Any], scores: Scores, limit: int | None) -> None:
    if limit is None:
        rows = {
            name: {split: [list(asdict(photo).values()) for photo in found] for split, found in parts.items()}
            for name, parts in scores.items()
        }
        kept.write_text(json.dumps({"setup": setup, "scores": rows}) + "\n")


def category_scores(segmenter: AnomalySegmenter, category: Category, limit: int | None) -> Scores:
    """Scores of one set, by itself and with references."""
    samples = category.samples
    paths = {
        "train": at_even_steps(category.train, limit),
        "test": at_even_steps([sample.image for sample in samples if sample.defect == GOOD], limit),
        "bad": at_even_steps([sample.image for sample in samples if sample.defect != GOOD], limit or BAD),
    }
    alone = {split: list(photo_scores(segmenter, files)) for split, files in paths.items()}
    references = at_even_steps(paths["train"], min(REFERENCES, limit or REFERENCES))
    memory = references_from(references).memory(segmenter.clip, segmenter.preset, segmenter.words)
    comparing = segmenter.with_memory(memory)
    paths["train"] = [path for path in paths["train"] if path not in references]
    with_references = {
        split: list(photo_scores(comparing, at_even_steps(files, WITH_REFERENCES[split])))
        for split, files in paths.items()
    }
    return {category.name: alone, f"{category.name} with references": with_references}


def rendered_scores(segmenter: AnomalySegmenter, count: int) -> Iterable[PhotoScore]:
    """Scores of flawless rendered 256 x 256 px parts, every other of a family that training never draws."""
    corpus = Corpus(count, seed=77, split="validation", p_normal=1.0)
    for number, sample in enumerate(corpus):
        result = segmenter.segment(sample.image)
        peak = region_peak(result.anomaly_map, segmenter.preset.fusion.min_area)
        yield PhotoScore(f"{number} {sample.family}", str(number), result.score, peak)


def at_even_steps(items: Sequence[Any], count: int | None) -> list[Any]:
    if count is None or len(items) <= count:
        return list(items)
    return [items[place] for place in np.linspace(0, len(items) - 1, count).round().astype(int)]


# ---- splits


def pools(scores: Scores) -> dict[str, list[PhotoScore]]:
    """Good photos by set, all real ones together, and the same with ties and with one score for all."""
    good = {
        name: [*parts.get("train", ()), *parts["test"]]
        for name, parts in scores.items()
        if "with references" not in name
    }
    good["all real"] = [photo for name, photos in good.items() if name != "rendered" for photo in photos]
    return good | {
        f"{name}, {change}": [alter(photo) for photo in good[name]]
        for name in ("all real", "rendered")
        for change, alter in TIES.items()
    }


TIES: dict[str, Callable[[PhotoScore], PhotoScore]] = {
    "one decimal": lambda photo: replace(photo, score=round(photo.score, 1), peak=round(photo.peak, 1)),
    "constant": lambda photo: replace(photo, score=0.5, peak=0.5),
}


def split_rows(name: str, photos: list[PhotoScore]) -> list[dict[str, Any]]:
    """False alarms of one set at each rate: the mean over random splits, its standard error, the spread."""
    rows = []
    for rate in RATES:
        calibrating = max(len(photos) // 2, fewest_photos(rate_of(rate)))
        tested = len(photos) - calibrating
        row: dict[str, Any] = {"set": name, "photos": len(photos), "promised": float(rate_of(rate))}
        if tested < LEAST_TESTED:
            fewest = fewest_photos(rate_of(rate)) + LEAST_TESTED
            rows.append(row | {"too_few": f"{len(photos)} good photos; a split takes {fewest}"})
            continue
        rng = np.random.default_rng(0)
        rates = np.array([one_split(photos, rate, calibrating, rng) for _ in range(SPLITS)])
        row |= {"calibrating": calibrating, "tested": tested}
        row["expected_at_most"] = expected_rate(calibrating, rate_of(rate))
        for measure, found in zip(MEASURES, rates.T, strict=True):
            error = float(found.std(ddof=1) / np.sqrt(SPLITS))
            low, high = np.quantile(found, [0.05, 0.95]).tolist()
            row[measure] = {"mean": float(found.mean()), "error": error, "p5": low, "p95": high}
        row["holds"] = all(row[m]["mean"] <= row["promised"] + 3 * row[m]["error"] for m in MEASURES)
        rows.append(row)
    return rows


def one_split(
    photos: list[PhotoScore], rate: str, calibrating: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Shares of false alarms, by verdict and by mask, on what is left of a random choice."""
    order = rng.permutation(len(photos))
    calibration = Calibration(rate_of(rate), tuple(photos[i] for i in order[:calibrating]), {})
    return false_alarms(calibration, [photos[i] for i in order[calibrating:]])


def false_alarms(calibration: Calibration, photos: Sequence[PhotoScore]) -> tuple[float, float]:
    flagged = [
        (calibration.is_defective(photo.score), photo.peak >= calibration.pixel_cut) for photo in photos
    ]
    verdict, mask = np.mean(flagged, axis=0).tolist()
    return verdict, mask


def delivered_rows(name: str, parts: dict[str, list[PhotoScore]]) -> list[dict[str, Any]]:
    """As a plant would: calibrated on the set's own training photos, counted on its test photos."""
    rows = []
    for rate in RATES if "train" in parts else ():
        try:
            calibration = Calibration(rate_of(rate), tuple(parts["train"]), {}, tuple(parts["bad"]))
        except CalibrationError:
            continue
        alarms = sum(calibration.is_defective(photo.score) for photo in parts["test"])
        found = MissRate(alarms, len(parts["test"]))  # a share of counted photos with its interval, likewise
        missed = calibration.missed
        row = {"set": name, "promised": float(rate_of(rate)), "calibrating": len(parts["train"])}
        row |= {"alarms": alarms, "tested": found.count, "rate": found.rate, "interval": found.interval}
        if missed:
            row |= {"missed": missed.missed, "bad": missed.count, "missed_interval": missed.interval}
        rows.append(row)
    return rows


# ---- what is shown


def table(result: dict[str, Any]) -> str:
    lines = ["mean false alarms over random splits, % (standard error)", ""]
    for row in result["held_out"]:
        start = f"{row['set']:31} {100 * row['promised']:4.0f} %  "
        if "too_few" in row:
            lines.append(f"{start}{row['too_few']}")
            continue
        shown = "  ".join(
            f"{measure} {100 * row[measure]['mean']:5.2f} ({100 * row[measure]['error']:.2f})"
            for measure in MEASURES
        )
        lines.append(f"{start}{shown}  {'' if row['holds'] else 'ABOVE THE PROMISE'}".rstrip())
    lines += ["", "calibrated on the training photos, counted on the test photos", ""]
    for row in result["as_delivered"]:
        low, high = row["interval"]
        lines.append(
            f"{row['set']:31} {100 * row['promised']:4.0f} %  {row['alarms']} of {row['tested']} good ones, "
            f"{100 * low:.1f} to {100 * high:.1f} %; missed {row['missed']} of {row['bad']} bad ones"
        )
    for what, chosen in (("alone", False), ("with references", True)):
        at_5 = [
            row
            for row in result["as_delivered"]
            if row["promised"] == 0.05 and ("with references" in row["set"]) == chosen
        ]
        missed, bad = (sum(row[key] for row in at_5) for key in ("missed", "bad"))
        lines.append(f"at 5 %, {what}: {missed} of {bad} bad ones pass")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Promise against what was kept: each set by verdict and by mask, and sets with ties."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), sharey=True, layout="constrained")
    plain = [row for row in rows if "," not in row["set"]]
    tied = [row for row in rows if row["set"].startswith(("all real", "rendered"))]
    panel(axes[0], plain, "verdict", "Good parts called defective")
    panel(axes[1], plain, "mask", "Good parts with any pixel flagged")
    panel(axes[2], tied, "verdict", "Called defective, with ties; bars: 5 to 95 % of splits", spread=True)
    axes[0].set_ylabel("false alarms, %: mean of 200 random splits, two errors")
    figure.savefig(path, dpi=110)


def panel(axes: Any, rows: list[dict[str, Any]], measure: str, title: str, *, spread: bool = False) -> None:
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["set"] for row in rows))
    for place, rate in enumerate(RATES):
        promised = 100 * float(rate_of(rate))
        axes.hlines(promised, place - 0.42, place + 0.42, "black", linewidths=1.2, zorder=0)
    for number, name in enumerate(names):
        shown = [row for row in rows if row["set"] == name and measure in row]
        places = [RATES.index(f"{100 * row['promised']:g}%") for row in shown]
        x = np.array(places) + 0.72 * ((number + 0.5) / len(names) - 0.5)
        found = {key: np.array([100 * row[measure][key] for row in shown]) for key in shown[0][measure]}
        colour = plt.get_cmap("tab10")(number)
        if spread:
            axes.vlines(x, found["p5"], found["p95"], color=colour, alpha=0.3, linewidths=5)
        axes.errorbar(
            x,
            found["mean"],
            2 * found["error"],
            fmt="o",
            color=colour,
            markersize=5,
            capsize=3,
            label=name.replace("_", " "),
        )
    axes.set_xticks(range(len(RATES)), [rate.replace("%", " %") for rate in RATES])
    axes.set_xlabel("promised at most (black line)")
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="upper left")


if __name__ == "__main__":
    sys.exit(main())
