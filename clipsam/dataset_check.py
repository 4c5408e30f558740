"""What is wrong with a dataset's files, found before the first photo is scored.

Input: `Dataset`. Output: every problem at once, and the dataset without the samples that have faults.
Reads the header of every photo and the whole of every mask. Knows nothing of models or metrics.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsam.datasets import Dataset, Problem, Sample
from clipsam.errors import PhotoError, UsageError
from clipsam.images import photo_size, read_photo


def check_dataset(dataset: Dataset) -> tuple[Problem, ...]:
    """All problems: those of the lists, then those of the files; faults before stray files, each sorted by
    path."""
    samples = [sample for category in dataset.categories for sample in category.samples]
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        found = list(pool.map(check_sample, samples))
    problems = [*dataset.problems, *(problem for some in found for problem in some)]
    return tuple(sorted(problems, key=lambda p: (not p.is_fault, p.kind, str(p.path))))


def check_sample(sample: Sample) -> list[Problem]:
    """What is wrong with the files of one photo."""
    try:
        width, height = photo_size(sample.image)
    except PhotoError as error:
        return [Problem("photo unreadable", sample.image, str(error))]
    if sample.mask is None:
        return []
    try:
        mask = read_mask(sample.mask)
    except PhotoError as error:
        return [Problem("mask unreadable", sample.mask, str(error))]
    if mask.shape != (height, width) and mask.shape != _upright_size(sample.image):
        found = f"{mask.shape[1]}x{mask.shape[0]}, its photo {width}x{height}"
        return [Problem("size mismatch", sample.mask, f"the mask is {found}")]
    if not sample.is_defective:
        marked = f"{int(mask.sum())} pixels are marked, but the photo is labelled good"
        return [Problem("label mismatch", sample.mask, marked)] if mask.any() else []
    if not mask.any():
        return [
            Problem(
                "mask empty", sample.mask, f"no pixel is marked, but the photo is labelled '{sample.defect}'"
            )
        ]
    return []


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A truth mask, bool [H, W]: True where any channel but alpha is above 0 (VisA's masks hold small
    class ids).

    Raises `PhotoError` for what is not a PNG, BMP or TIFF; a JPEG has no exact zeros.
    """
    try:
        with Image.open(path, formats=("PNG", "BMP", "TIFF")) as image:
            has_alpha = image.mode in ("LA", "RGBA", "PA")  # alpha says nothing about defects
            pixels = np.asarray(image.convert(image.mode[:-1]) if has_alpha else image)
    except FileNotFoundError as error:
        raise PhotoError(f"{path}: no such file", "missing") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise PhotoError(f"{path}: not a readable PNG, BMP or TIFF mask: {error}", "unreadable") from error
    marked: NDArray[np.bool_] = np.greater(pixels, 0)
    return marked if marked.ndim == 2 else np.asarray(marked.any(axis=2))


def refuse_faults(problems: Sequence[Problem]) -> None:
    """Raise one `UsageError` that lists the faults, if there are any."""
    faults = [problem for problem in problems if problem.is_fault]
    if not faults:
        return
    listed = "".join(f"\n  {fault}" for fault in faults)
    raise UsageError(
        f"{len(faults)} fault{'s' if len(faults) > 1 else ''} in the dataset, nothing was scored; mend them, "
        f"or leave these photos out on purpose (--leave-out-faulty):{listed}"
    )


def without_faults(dataset: Dataset, problems: Sequence[Problem]) -> Dataset:
    """The dataset without the photos whose files have faults."""
    bad = {problem.path for problem in problems if problem.is_fault}
    categories = (
        replace(c, samples=tuple(s for s in c.samples if s.image not in bad and s.mask not in bad))
        for c in dataset.categories
    )
    return replace(dataset, categories=tuple(c for c in categories if c.samples))


def _upright_size(path: Path) -> tuple[int, int]:
    """Height and width after the rotation that the photo's EXIF data ask for."""
    height, width = read_photo(path).pixels.shape[:2]
    return height, width
