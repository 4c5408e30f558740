"""Tables of an evaluation: text for people, CSV for spreadsheets, published figures beside ours.

Input: `Evaluation`. Output: strings, figures in per cent. `eval/published.csv` holds what others report; a
track (training-free, aux, batch) says what a method has seen, and tables never mix tracks. Knows nothing of
maps.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipsam.datasets import KINDS
from clipsam.errors import UsageError

if TYPE_CHECKING:
    from clipsam.evaluate import Evaluation

TRACKS = {
    "training-free": "no training, one photo at a time",
    "aux": "trained on masks of other data, one photo at a time",
    "batch": "sees the unlabelled test set at once",
}
HEADS = {
    "image_auroc": "I-AUROC",
    "image_ap": "I-AP",
    "image_f1_max": "I-F1max",
    "pixel_auroc": "AUROC",
    "pro": "PRO",
    "pixel_ap": "AP",
    "pixel_f1_max": "F1max",
    "pro_005": "PRO@.05",
    "aupimo": "AUPIMO",
}
_COLUMNS = ("method", "track", "dataset", "metric", "value", "source", "certainty")
_PUBLISHED_HEADS = ("image_auroc", "pixel_auroc", "pixel_f1_max", "pixel_ap", "pro")


@dataclass(frozen=True)
class Published:
    """One published figure, in per cent. It is sure when it was read in `source`; unsure ones were taken from
    a second place, or their source has no public number."""

    method: str
    track: str
    dataset: str
    metric: str
    value: float
    source: str
    is_sure: bool


def load_published(path: Path | None = None) -> tuple[Published, ...]:
    """Read the published figures: the shipped file, or another of the same columns.

    Raises:
        UsageError: a wrong column, track, metric, dataset, value or certainty, or the same figure twice.
    """
    path = path or _shipped_file()
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise UsageError(f"{path} has the columns {reader.fieldnames}; expected {', '.join(_COLUMNS)}.")
        rows = tuple(_read_published(row, f"{path}:{reader.line_num}") for row in reader)
    seen = Counter((row.method, row.dataset, row.metric) for row in rows)
    twice = [key for key, count in seen.items() if count > 1]
    if twice:
        raise UsageError(f"{path} says {', '.join(twice[0])} twice; expected each figure once.")
    return rows


def _read_published(row: dict[str, str], where: str) -> Published:
    known = {
        "track": tuple(TRACKS),
        "dataset": KINDS,
        "metric": tuple(HEADS),
        "certainty": ("sure", "unsure"),
    }
    for column, expected in known.items():
        if row[column] not in expected:
            raise UsageError(f"{where}: {column} '{row[column]}'; expected one of {', '.join(expected)}.")
    if not (row["method"] and row["source"]):
        raise UsageError(f"{where}: method or source is empty; expected both.")
    try:
        value = float(row["value"])
    except ValueError as error:
        raise UsageError(f"{where}: value '{row['value']}'; expected a number in per cent.") from error
    if not 0 < value <= 100:
        raise UsageError(f"{where}: value {value:g}; expected a number in per cent.")
    return Published(
        row["method"],
        row["track"],
        row["dataset"],
        row["metric"],
        value,
        row["source"],
        row["certainty"] == "sure",
    )


def to_text(evaluation: Evaluation) -> str:
    """The table of categories and their mean, kinds of map side by side, and the seconds per photo."""
    rows = []
    for name, entry in evaluation.categories.items():
        for variant, figures in entry["figures"].items():
            rows.append([name, variant, *(percent(figures[head]) for head in HEADS)])
    for variant, figures in evaluation.mean.items():
        rows.append(["mean", variant, *(percent(figures[head]) for head in HEADS)])
    lines = [aligned([["category", "map", *HEADS.values()], *rows])]
    lines.append(_seconds(evaluation))
    scoring, dataset = evaluation.scoring, evaluation.dataset
    lines.append(f"per cent; pixels compared at the resolution: {scoring['resolution']}")
    if dataset["limit"]:
        lines.append(f"a sample: at most {dataset['limit']} photos per type of defect, and as many good ones")
    if dataset["absent"]:
        lines.append(f"absent, and not in the mean: {', '.join(dataset['absent'])}")
    if dataset["left_out"]:
        lines.append(f"left out because of faults: {len(dataset['left_out'])} files")
    return "\n".join(lines)


def beside_published(evaluation: Evaluation, track: str, published: Sequence[Published] | None = None) -> str:
    """Our mean among the published ones of the same dataset and track; "" where nothing is comparable.

    A mean can stand beside published ones only when all photos of all categories of the dataset are in it.
    """
    rows = load_published() if published is None else published
    rows = [row for row in rows if row.dataset == evaluation.dataset["kind"] and row.track == track]
    if not rows or evaluation.dataset["absent"] or evaluation.dataset["limit"]:
        return ""
    table = [["method", *(HEADS[name] for name in _PUBLISHED_HEADS)]]
    for method in dict.fromkeys(row.method for row in rows):
        found = {row.metric: row for row in rows if row.method == method}
        table.append([method, *(_published(found.get(name)) for name in _PUBLISHED_HEADS)])
    for variant, figures in evaluation.mean.items():
        table.append([f"this run, {variant}", *(percent(figures[name]) for name in _PUBLISHED_HEADS)])
    title = f"published on {evaluation.dataset['name']}, track {track} ({TRACKS[track]})"
    title += "; ? = not read in the paper; each scored at its own resolution"
    return f"{title}\n{aligned(table)}"


def to_csv(evaluation: Evaluation) -> str:
    """One line per category, type of defect and kind of map, in [0, 1]; empty where undefined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["category", "defect", "map", "photos", *HEADS])
    final = evaluation.variants[0]
    for name, entry in evaluation.categories.items():
        for variant, figures in entry["figures"].items():
            writer.writerow([name, "all", variant, figures["photos"], *(figures[head] for head in HEADS)])
        for defect, figures in entry["defects"].items():
            writer.writerow([name, defect, final, "", *(figures[head] for head in HEADS)])
    for variant, means in evaluation.mean.items():
        writer.writerow(["mean", "all", variant, "", *(means[head] for head in HEADS)])
    return text.getvalue()


def _seconds(evaluation: Evaluation) -> str:
    photos = sum(entry["photos"] for entry in evaluation.categories.values())
    spent: dict[str, float] = {}
    for entry in evaluation.categories.values():
        for stage, seconds in entry["seconds"].items():
            spent[stage] = spent.get(stage, 0.0) + seconds
    wall = spent.pop("wall", 0.0)
    stages = ", ".join(f"{stage} {1000 * seconds / photos:.1f}" for stage, seconds in spent.items())
    return f"{photos} photos in {wall:.1f} s; ms per photo: {stages}"


def percent(value: float | None) -> str:
    """A figure in [0, 1] as people read it: per cent with one decimal, "-" where undefined."""
    return "-" if value is None else f"{100 * value:.1f}"


def _published(row: Published | None) -> str:
    return "-" if row is None else f"{row.value:.1f}" + ("" if row.is_sure else "?")


def aligned(rows: list[list[str]]) -> str:
    """A table as text; the first row holds the heads."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lefts = sum(1 for head in rows[0] if head in ("category", "map", "method", "variation"))
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if column < lefts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _shipped_file() -> Path:
    package = Path(__file__).parent
    for path in (package / "_eval" / "published.csv", package.parent / "eval" / "published.csv"):
        if path.is_file():
            return path
    raise UsageError(f"{package}: the shipped published.csv is missing; install clipsam again.")
