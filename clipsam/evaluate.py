"""evaluate: a dataset and a method -> figures per category and their mean, resumable and parallel.

Input: a `Dataset` and an `AnomalySegmenter`, a recipe for one, or any callable photo -> map. Output:
`Evaluation`, and with `out` a folder with metrics.json, metrics.csv and one finished file per category.
How one photo is scored is in `scoring.py`, tables are in `evaluation_table.py`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from clipsam import __version__
from clipsam.dataset_check import check_dataset, refuse_faults, without_faults
from clipsam.datasets import Category, Dataset, Problem
from clipsam.errors import RunError, UsageError
from clipsam.evaluation_figures import draw_figures, thinned
from clipsam.perturbations import Perturbation
from clipsam.scoring import CategoryScores, Method, ScoringOptions, describe_method, score_category

FORMAT = "clipsam-eval-1"
FIGURES = (
    "image_auroc", "image_ap", "image_f1_max", "pixel_auroc", "pro", "pixel_ap", "pixel_f1_max", "pro_005",
    "aupimo",
)  # fmt: skip
_ELSEWHERE = ("dataset", "scoring", "curves")  # in a category's file, but not in its part of metrics.json
OnPhoto = Callable[[str, int], None]


@dataclass(frozen=True)
class Evaluation:
    """Figures of a method on a dataset. `categories` maps a name to what metrics.json says about it."""

    dataset: dict[str, Any]
    scoring: dict[str, Any]
    categories: dict[str, dict[str, Any]]
    problems: tuple[Problem, ...] = ()

    @property
    def variants(self) -> tuple[str, ...]:
        """Kinds of map, the final one first: "fused" and "coarse", or "map" of a plain callable."""
        found = {variant for entry in self.categories.values() for variant in entry["figures"]}
        return tuple(sorted(found, reverse=True))

    @property
    def mean(self) -> dict[str, dict[str, float | None]]:
        """The unweighted mean over categories, by kind of map; categories without the figure do not count."""
        return {variant: {name: self._mean(variant, name) for name in FIGURES} for variant in self.variants}

    def to_dict(self) -> dict[str, Any]:
        """What metrics.json holds. All that depends on the clock is under `seconds`."""
        return {
            "format": FORMAT,
            "clipsam": __version__,
            "dataset": self.dataset,
            "scoring": self.scoring,
            "mean": self.mean,
            "categories": self.categories,
        }

    def _mean(self, variant: str, name: str) -> float | None:
        entries = (entry["figures"].get(variant, {}).get(name) for entry in self.categories.values())
        values = [value for value in entries if value is not None]
        return math.fsum(values) / len(values) if values else None


def evaluate(
    method: Method,
    dataset: Dataset,
    *,
    name: str | None = None,
    resolution: int | None = None,
    range: tuple[float, float] = (0.0, 1.0),
    perturbation: Perturbation | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    dump_maps: bool = False,
    figures: bool = False,
    problems: tuple[Problem, ...] | None = None,
    leave_out_faulty: bool = False,
    workers: int = 1,
    on_photo: OnPhoto | None = None,
) -> Evaluation:
    """Score a method on a dataset.

    Args:
        method: an `AnomalySegmenter` (told each category's product in words), a `SegmenterRecipe`, or a
            callable that takes a photo, uint8 [H, W, 3] RGB, and returns a map [h, w] or (map, image
            score). A map of another size than the photo's is resized bilinearly; without an image score
            the map's maximum is taken.
        dataset: from `open_dataset`. Its files are checked first.
        name: how tables call the method.
        resolution: side in px of the square at which pixels are compared; None compares at each photo's
        own size.
        range: lowest and highest value of the maps.
        perturbation: what is done to every photo first; a defect that it turns out of view is left out.
        out: a folder; categories that are finished there under the same settings are not done again.
        overwrite: forget what is finished in `out`.
        dump_maps: also write every map as float TIFF below `out`/maps.
        figures: also draw curves and bars per type of defect to `out`/figures.
        problems: what `check_dataset` has found already; None checks the dataset here.
        leave_out_faulty: score without the photos whose files have faults, instead of refusing.
        workers: processes that share the photos; the figures are the same whatever their number. The method
            must be picklable then (a recipe, or a function of a module), and a script must call `evaluate`
            below `if __name__ == "__main__":`, as always with new processes.
        on_photo: called with (category, photos done) as photos are finished; per category when `workers` > 1.

    Raises:
        UsageError: faults in the dataset (all listed), or a map that cannot be scored.
        RunError: `out` holds an evaluation with other settings.
    """
    problems = check_dataset(dataset) if problems is None else problems
    if leave_out_faulty:
        dataset = without_faults(dataset, problems)
    refuse_faults([] if leave_out_faulty else problems)
    if not dataset.categories:
        raise UsageError(f"{dataset.root}: no photo is left to score.")
    folder = Path(out) if out is not None else None
    if (dump_maps or figures) and folder is None:
        raise UsageError("dump_maps and figures need a folder to write to; pass out=DIR.")
    options = ScoringOptions(
        range, resolution, perturbation, folder / "maps" if folder and dump_maps else None
    )
    if dump_maps:
        _refuse_shared_names(dataset)
    if folder and overwrite:
        _forget(folder)
    entries, curves = {}, {}
    with _Workers(workers) as pool:
        for category in dataset.categories:
            settings = _settings(method, dataset, category, options, name)
            entry = _finished(folder, category, settings, options)
            if entry is None:
                entry = {**settings, **_score(pool, method, category, options, on_photo)}
                _write_json(_category_path(folder, category) if folder else None, entry)
            curves[category.name] = entry["curves"]
            entries[category.name] = {key: entry[key] for key in entry if key not in _ELSEWHERE}
    summary = {
        "kind": dataset.kind,
        "name": dataset.name,
        "categories": len(entries),
        "absent": list(dataset.absent),
        "limit": dataset.limit,
        "left_out": sorted(str(p.path) for p in problems if p.is_fault) if leave_out_faulty else [],
    }
    evaluation = Evaluation(summary, options.describe(), entries, problems)
    if folder:
        from clipsam.evaluation_table import to_csv

        _write_json(folder / "metrics.json", evaluation.to_dict())
        (folder / "metrics.csv").write_text(to_csv(evaluation), encoding="utf-8")
        if figures:
            draw_figures(evaluation, curves, folder / "figures")
    return evaluation


def figures_of(scores: CategoryScores) -> dict[str, Any]:
    """What metrics.json says of one category: figures by kind of map, and by type of defect of the final
    kind."""
    final = scores.variants[0]
    defects = {defect: _defined(scores.against_good(final, defect).compute()) for defect in scores.defects}
    return {
        "photos": scores.photos,
        "figures": {variant: _defined(scores.total(variant).compute()) for variant in scores.variants},
        "defects": {defect: {name: found[name] for name in FIGURES} for defect, found in defects.items()},
        "curves": thinned(scores.total(final).curves()),
    }


class _Workers:
    """A pool of processes, or none. Leaving it waits for what was begun."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise UsageError(f"workers is {count}; expected at least 1.")
        self.count = count
        self.pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Workers:
        if self.count > 1:
            # Not forked: torch's threads do not survive a fork.
            threads = max(1, (os.cpu_count() or 1) // self.count)
            self.pool = ProcessPoolExecutor(self.count, get_context("spawn"), _limit_threads, (threads,))
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool:
            self.pool.shutdown(cancel_futures=True)


def _limit_threads(threads: int) -> None:
    """Processes that each use all cores would wait for each other; torch reads these when it is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(threads))


def _score(
    workers: _Workers, method: Method, category: Category, options: ScoringOptions, on_photo: OnPhoto | None
) -> dict[str, Any]:
    start = time.perf_counter()
    if workers.pool:
        photos = tuple(sample.image for sample in category.samples)
        shares = (
            replace(category, samples=category.samples[i :: workers.count], batch=photos)
            for i in range(workers.count)
        )
        jobs = [workers.pool.submit(score_category, method, s, options) for s in shares if s.samples]
        scores = CategoryScores()
        for job in jobs:
            scores = scores + job.result()
        if on_photo:
            on_photo(category.name, scores.photos)
    else:
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            if on_photo:
                on_photo(category.name, done)

        scores = score_category(method, category, options, count)
    seconds = {stage: round(spent, 4) for stage, spent in sorted(scores.seconds.items())}
    return {**figures_of(scores), "seconds": {**seconds, "wall": round(time.perf_counter() - start, 4)}}


def _settings(
    method: Method, dataset: Dataset, category: Category, options: ScoringOptions, name: str | None
) -> dict[str, Any]:
    """All that decides a category's figures; a finished category counts only under the same."""
    return {
        "clipsam": __version__,
        "dataset": {"kind": dataset.kind, "name": dataset.name, "limit": dataset.limit},
        "samples": len(category.samples),
        "defective": sum(sample.is_defective for sample in category.samples),
        "scoring": options.describe(),
        "method": describe_method(method, category, name),
    }


def _refuse_shared_names(dataset: Dataset) -> None:
    """Maps are named after their photos, in one folder per category and defect."""
    for category in dataset.categories:
        names = Counter((sample.defect, sample.image.stem) for sample in category.samples)
        shared = sorted(stem for (_, stem), count in names.items() if count > 1)
        if shared:
            raise UsageError(
                f"{category.name}: several photos are called {', '.join(shared[:3])}, and so would their "
                "maps; rename them, or do without dumped maps."
            )


def _finished(
    folder: Path | None, category: Category, settings: dict[str, Any], options: ScoringOptions
) -> dict[str, Any] | None:
    path = _category_path(folder, category) if folder else None
    if path is None or not path.exists():
        return None
    try:
        entry = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise RunError(f"{path} is damaged ({error}); remove it or pass --overwrite.") from error
    before = {key: entry.get(key) for key in settings}
    now = json.loads(json.dumps(settings))
    changed = sorted(key for key in settings if before[key] != now[key])
    if changed:
        raise RunError(
            f"{path} was written with another {', '.join(changed)}; choose another --out, or --overwrite "
            "to do it anew."
        )
    if options.maps_dir and not any(options.maps_dir.glob(f"*/{category.name}")):
        return None  # the figures are there, the maps that are wanted now are not
    return dict(entry)


def _category_path(folder: Path, category: Category) -> Path:
    return folder / "categories" / f"{category.name}.json"


def _forget(folder: Path) -> None:
    """Remove what an evaluation wrote, and nothing else."""
    for part in ("categories", "maps", "figures"):
        shutil.rmtree(folder / part, ignore_errors=True)
    for part in ("metrics.json", "metrics.csv"):
        (folder / part).unlink(missing_ok=True)


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Put the file in place in one step, so that an interrupted run leaves no half of one."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def _defined(figures: dict[str, Any]) -> dict[str, Any]:
    """NaN means undefined; JSON has no NaN."""
    return {
        name: _defined(value) if isinstance(value, dict) else None if _is_nan(value) else value
        for name, value in figures.items()
    }


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
