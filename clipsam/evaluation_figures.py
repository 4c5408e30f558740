"""Figures of an evaluation: ROC, PRO and precision-recall curves, and bars per type of defect.

Input: `Evaluation`. Output: PNG files. The curves come thinned from the finished categories; nothing is
scored again. Knows nothing of photos and maps.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipsam.evaluation_table import HEADS, percent
from clipsam.metrics import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from clipsam.evaluate import Evaluation

CURVE_POINTS = 200  # per curve; 1/200 of the axis cannot be seen
_PANELS = (
    # title, what the axes hold and are called, end of the x axis, the figure that the legend gives
    ("ROC, area in per cent", "fpr", "false positive rate", "recall", "recall", 1.0, "pixel_auroc"),
    (
        "PRO, area up to 0.3 in per cent",
        "fpr",
        "false positive rate",
        "overlap",
        "mean overlap with regions",
        0.3,
        "pro",
    ),
    ("Precision and recall, AP in per cent", "recall", "recall", "precision", "precision", 1.0, "pixel_ap"),
)
_BARS = ("image_auroc", "pixel_auroc", "pro", "pixel_f1_max")


def thinned(curves: Curves) -> dict[str, list[float]]:
    """The curves at about `CURVE_POINTS` points spread over FPR and recall alike, rounded for JSON."""
    if not curves.fpr.size:
        return {name: [] for name in Curves._fields[1:]}
    # Steps along both axes count, so that neither the steep start of a ROC nor its flat end loses its shape.
    way: NDArray[np.float64] = np.sqrt(curves.fpr) + curves.recall
    wanted = np.linspace(way[0], way[-1], CURVE_POINTS)
    chosen = np.unique(np.minimum(np.searchsorted(way, wanted), way.size - 1))
    return {name: np.round(getattr(curves, name)[chosen], 5).tolist() for name in Curves._fields[1:]}


def draw_figures(evaluation: Evaluation, curves: dict[str, dict[str, Any]], folder: Path) -> tuple[Path, ...]:
    """Write curves.png and defects.png; `curves` maps a category to its thinned curves."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(13, 4.4 + 0.16 * len(curves)), layout="constrained")
    for axes, panel in zip(figure.subplots(1, 3), _PANELS, strict=True):
        _draw_curves(axes, evaluation, curves, *panel)
    figure.suptitle(
        f"{evaluation.dataset['name']}: {evaluation.variants[0]} map, all pixels of a category pooled"
    )
    paths = [folder / "curves.png"]
    figure.savefig(paths[0], dpi=130)
    if any(entry["defects"] for entry in evaluation.categories.values()):
        paths.append(folder / "defects.png")
        _draw_bars(evaluation, paths[1])
    return tuple(paths)


def _draw_curves(
    axes: Axes,
    evaluation: Evaluation,
    curves: dict[str, dict[str, Any]],
    title: str,
    x: str,
    x_name: str,
    y: str,
    y_name: str,
    limit: float,
    figure: str,
) -> None:
    """One panel; its legend stands below it and says the area that a table gives for each curve."""
    axes.set_prop_cycle(color=_colours(len(curves)))
    final = evaluation.variants[0]
    for category, points in curves.items():
        value = percent(evaluation.categories[category]["figures"][final][figure])
        axes.plot(points[x], points[y], label=f"{category} {value}", linewidth=1.3)
    axes.set(title=title, xlabel=x_name, ylabel=y_name, xlim=(0, limit), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)


def _colours(count: int) -> list[Any]:
    """Colours that differ for as many curves; matplotlib's own ten begin again at the eleventh."""
    from matplotlib import colormaps

    chosen = colormaps["tab10" if count <= 10 else "tab20"]
    return [chosen(index % chosen.N) for index in range(max(count, 1))]


def _draw_bars(evaluation: Evaluation, path: Path) -> None:
    from matplotlib.figure import Figure

    rows = [
        (f"{category}: {defect.replace('_', ' ')}", figures)
        for category, entry in evaluation.categories.items()
        for defect, figures in entry["defects"].items()
    ]
    figure = Figure(figsize=(9, 1.5 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    height = 0.84 / len(_BARS)
    places = np.arange(len(rows))
    for index, name in enumerate(_BARS):
        values = [figures[name] for _, figures in rows]
        bars = axes.barh(
            places + index * height, [100 * (value or 0.0) for value in values], height, label=HEADS[name]
        )
        axes.bar_label(bars, [percent(value) for value in values], fontsize=7, padding=2)
    axes.set(xlim=(0, 108), xlabel="per cent; each type together with all good photos")
    axes.set_title(f"{evaluation.dataset['name']}: {evaluation.variants[0]} map by type of defect")
    axes.set_xticks(range(0, 101, 20))
    axes.set_yticks(places + 0.42 - height / 2, [label for label, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(fontsize=8, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=130)
