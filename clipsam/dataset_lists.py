"""Datasets that are given as CSV lists: VisA's official split, and a user's own list of photos, masks and
labels.

Input: the root of VisA, or a CSV file. Output: `Dataset`. Paths are relative to the root or to the CSV file's
folder. Whether the files exist and fit is for `dataset_check.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from clipsam.datasets import GOOD, VISA, Category, Dataset, Problem, Sample, words_for
from clipsam.errors import UsageError

_GOOD_LABELS = frozenset({"good", "normal", "ok", "0", "false", "no"})
_DEFECT_LABELS = frozenset(
    {"anomaly", "anomalous", "defect", "defective", "bad", "ko", "ng", "1", "true", "yes"}
)

MASK_UNKNOWN = "-"  # in the column mask of a list, beside a label

Row = tuple[int, dict[str, str]]


def read_visa(root: Path) -> Dataset:
    """VisA as its authors publish it: `split_csv/1cls.csv` with object, split, label, image, mask."""
    table = root / "split_csv" / "1cls.csv"
    if not table.is_file():
        hint = (
            " (this looks converted to MVTec's layout: use the dataset 'folder')"
            if _looks_converted(root)
            else ""
        )
        raise UsageError(f"{table} is missing{hint}; expected VisA as published, with split_csv/1cls.csv.")
    samples: dict[str, list[Sample]] = {}
    train: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    for line, row in _rows(table, {"object", "split", "label", "image", "mask"}):
        if row["split"] != "test":
            train.setdefault(row["object"], []).extend(_flawless(row, root))
            continue
        sample, problem = _sample(row, root, table, line)
        samples.setdefault(row["object"], []).append(sample)
        problems += problem
    unknown = sorted(set(samples) - set(VISA))
    problems += [Problem("stray", table, f"'{name}' is not a category of VisA") for name in unknown]
    present = [name for name in VISA if name in samples]
    if not present:
        raise UsageError(f"{table} lists no test photo of VisA's categories ({', '.join(VISA)}).")
    categories = tuple(
        Category(n, words_for("visa", n), _sorted(samples[n]), tuple(sorted(train.get(n, []))))
        for n in present
    )
    return Dataset("visa", root, categories, tuple(n for n in VISA if n not in samples), tuple(problems))


def read_csv_list(table: Path) -> Dataset:
    """A user's own list. Columns: `image`, and `label` or `mask` or both; optional `category` and `split`.

    A label that is neither a word for good (good, normal, ok, 0 ...) nor for defective (defect, anomaly,
    ng, 1 ...) names the type of the defect. Without labels, a photo with a mask is defective. A mask `-` is
    not known: such a photo counts for the image figures only. Rows of another split than `test` are not
    scored; good ones of the split `train` can be references.
    """
    if not table.is_file():
        raise UsageError(f"{table} is a folder; expected a CSV file with columns image, mask, label.")
    samples: dict[str, list[Sample]] = {}
    train: dict[str, list[Path]] = {}
    problems: list[Problem] = []
    for line, row in _rows(table, {"image"}):
        split = row.get("split", "test").lower()
        if split not in ("test", ""):
            if split == "train":
                train.setdefault(row.get("category") or table.stem, []).extend(_flawless(row, table.parent))
            continue
        sample, problem = _sample(row, table.parent, table, line)
        samples.setdefault(row.get("category") or table.stem, []).append(sample)
        problems += problem
    if not samples:
        raise UsageError(f"{table} lists no photo to test; expected at least one row of the split 'test'.")
    categories = tuple(
        Category(n, words_for("csv", n), _sorted(found), tuple(sorted(train.get(n, []))))
        for n, found in sorted(samples.items())
    )
    return Dataset("csv", table.resolve(), categories, (), tuple(problems))


def _sample(row: dict[str, str], base: Path, table: Path, line: int) -> tuple[Sample, list[Problem]]:
    image, mask = row["image"], row.get("mask", "")
    unknown = mask == MASK_UNKNOWN and "label" in row
    mask = "" if unknown else mask
    label = row.get("label", "").lower() or ("defect" if mask else GOOD)
    defect = GOOD if label in _GOOD_LABELS else "defect" if label in _DEFECT_LABELS else label
    sample = Sample(base / image, base / mask if mask else None, defect)
    problems = []
    if not image:
        problems.append(Problem("bad row", table, f"line {line} names no image"))
    elif defect != GOOD and not mask and not unknown:
        problems.append(
            Problem("mask missing", sample.image, f"line {line} of {table.name} gives a defect no mask")
        )
    return sample, problems


def _flawless(row: dict[str, str], base: Path) -> list[Path]:
    """The photo of a row of the training split, if it is a good one."""
    label = row.get("label", "").lower() or ("defect" if row.get("mask") else GOOD)
    return [base / row["image"]] if row["image"] and label in _GOOD_LABELS else []


def _rows(table: Path, needed: set[str]) -> Iterator[Row]:
    """Line numbers and rows with lower-case keys and stripped values."""
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names = [name.strip().lower() for name in reader.fieldnames or []]
        missing = sorted(needed - set(names))
        if missing:
            raise UsageError(
                f"{table} has no column {', '.join(missing)}; found {', '.join(names) or 'nothing'}; "
                f"expected a header line with {', '.join(sorted(needed))}."
            )
        reader.fieldnames = names
        for row in reader:
            yield reader.line_num, {key: (row[key] or "").strip() for key in names}


def _sorted(samples: list[Sample]) -> tuple[Sample, ...]:
    return tuple(sorted(samples, key=lambda sample: str(sample.image)))


def _looks_converted(root: Path) -> bool:
    return any((root / name / "test").is_dir() for name in VISA)
