"""One method in several ways on one dataset: ablations and perturbations, side by side in one table.

Input: a dataset and named variations. Output: `Comparison`, the mean figures of each and how they differ from
the first. Each variation is an ordinary evaluation in a folder of its own, so that an interrupted comparison
goes on where it stopped. Knows nothing of photos and maps.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipsam.datasets import Dataset
from clipsam.errors import UsageError
from clipsam.evaluate import FIGURES, Evaluation, evaluate
from clipsam.evaluation_table import HEADS, aligned, percent
from clipsam.perturbations import Perturbation
from clipsam.presets import Preset, choose_preset
from clipsam.scoring import Method, SegmenterRecipe, describe_method
from clipsam.settings import ATTENTIONS, SELECTIONS, STRATEGIES

# What is swept when an axis is named without values.
AXES: dict[str, tuple[str, ...]] = {
    "prompts": ("industrial", "winclip", "april_gan"),
    # proxy needs weights of its own, and windows take ten times as long: both only when asked for
    "attention": tuple(mode for mode in ATTENTIONS if mode not in ("proxy", "windows")),
    "sam": ("none", "points", "box", "box+points", "points,box,box+points"),
    "strategy": STRATEGIES,
    "selection": SELECTIONS,
    "crop": ("0", "8", "16"),
    "edges": ("0", "0.01", "0.02"),
    "fusion": ("0", "0.25", "0.5", "0.75", "1"),
    "weighting": ("fixed", "agreement"),
    "edge-weight": ("0", "0.3", "0.6"),
    "edge-guide": ("0", "0.015", "0.03"),
}

# The stage of the preset and the field that an axis changes, and how its values are read.
_FIELDS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "attention": ("heatmap", "attention", str),
    "strategy": ("sam_settings", "strategy", str),
    "selection": ("sam_settings", "selection", str),
    "crop": ("sam_settings", "crop", int),
    "edges": ("sam_settings", "edges", float),
    "fusion": ("fusion", "weight", float),
    "weighting": ("fusion", "weighting", str),
    "edge-weight": ("fusion", "edge_weight", float),
    "edge-guide": ("fusion", "edge_guide", float),
}


@dataclass(frozen=True)
class Variation:
    """A named way to run the method."""

    name: str
    method: Method
    perturbation: Perturbation | None = None


@dataclass(frozen=True)
class Comparison:
    """Mean figures of the final map by variation; the first one is what the others are compared with."""

    means: dict[str, dict[str, float | None]]

    def to_text(self) -> str:
        """The table in per cent, differences to the first row in brackets."""
        first = next(iter(self.means.values()))
        rows = [["variation", *HEADS.values()]]
        for name, mean in self.means.items():
            rows.append([name, *(_with_difference(mean[key], first[key], mean is first) for key in HEADS)])
        return aligned(rows)

    def to_csv(self) -> str:
        """One line per variation, figures in [0, 1]; empty where undefined."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["variation", *FIGURES])
        for name, mean in self.means.items():
            writer.writerow([name, *(mean[key] for key in FIGURES)])
        return text.getvalue()


def compare(
    variations: Sequence[Variation],
    dataset: Dataset,
    *,
    base: Evaluation | None = None,
    out: Path | None = None,
    **options: Any,
) -> Comparison:
    """Evaluate every variation with the `options` of `evaluate`; `base` is a finished one to compare with.

    A variation that is the base by another name is not scored again. With `out`, each goes to
    `out`/variations/<name>, and comparison.json and comparison.csv to `out`.
    """
    means = {} if base is None else {"as it is": _final_mean(base)}
    for variation in variations:
        if base is not None and _is_base(variation, base, dataset):
            means[variation.name] = _final_mean(base)
            continue
        folder = out / "variations" / re.sub(r"[^\w.=+-]+", "_", variation.name) if out else None
        found = evaluate(
            variation.method, dataset, perturbation=variation.perturbation, out=folder, **options
        )
        means[variation.name] = _final_mean(found)
    comparison = Comparison(means)
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "comparison.json").write_text(json.dumps(means, indent=1) + "\n", encoding="utf-8")
        (out / "comparison.csv").write_text(comparison.to_csv(), encoding="utf-8")
    return comparison


def perturbed(method: Method, names: Sequence[str]) -> list[Variation]:
    """The method on changed photos: "hue" or "hue=0.2" each."""
    found = [Perturbation.parse(name) for name in names]
    return [Variation(str(perturbation), method, perturbation) for perturbation in found]


def ablations(recipe: SegmenterRecipe, axes: Sequence[str]) -> list[Variation]:
    """The recipe with one part changed at a time: "sam" for the usual values, "fusion=0.3;0.6" for others."""
    variations = []
    for axis in axes:
        name, sign, values = axis.partition("=")
        if name not in AXES:
            raise UsageError(f"ablation '{name}' is unknown; expected one of {', '.join(AXES)}.")
        wanted = [value.strip() for value in values.split(";")] if sign else AXES[name]
        variations += [Variation(f"{name}={value}", _changed(recipe, name, value)) for value in wanted]
    return variations


def _changed(recipe: SegmenterRecipe, axis: str, value: str) -> SegmenterRecipe:
    if axis == "prompts":
        return replace(recipe, prompts=value)
    preset = recipe.preset
    if not isinstance(preset, Preset):
        preset = choose_preset(preset, recipe.models_dir).preset
    if axis in _FIELDS:
        stage, field, parse = _FIELDS[axis]
        change: dict[str, Any] = {field: _parsed(axis, value, parse)}
        changed = replace(getattr(preset, stage), **change)
        found = replace(recipe, preset=replace(preset, **{stage: changed}))
        return replace(found, sam=True) if stage == "sam_settings" else found
    if value == "none":
        return replace(recipe, preset=preset, sam=False)
    settings = replace(preset.sam_settings, kinds=tuple(kind.strip() for kind in value.split(",")))
    return replace(recipe, preset=replace(preset, sam_settings=settings), sam=True)


def _parsed(axis: str, value: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        kind = "whole numbers, such as" if parse is int else "numbers, such as"
        values = ";".join(AXES[axis][1:3])
        raise UsageError(f"ablation '{axis}={value}': expected {kind} {axis}={values}.") from error


def _is_base(variation: Variation, base: Evaluation, dataset: Dataset) -> bool:
    """Whether the variation comes to the very settings that the base was scored with."""
    if variation.perturbation or not isinstance(variation.method, SegmenterRecipe):
        return False
    first = dataset.categories[0]
    now = json.loads(json.dumps(describe_method(variation.method, first, None)))
    return bool(now == json.loads(json.dumps(base.categories[first.name]["method"])))


def _final_mean(evaluation: Evaluation) -> dict[str, float | None]:
    return evaluation.mean[evaluation.variants[0]]


def _with_difference(value: float | None, first: float | None, is_first: bool) -> str:
    if is_first or value is None or first is None:
        return percent(value)
    return f"{percent(value)} ({100 * (value - first):+.1f})"
