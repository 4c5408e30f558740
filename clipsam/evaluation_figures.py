"""Figures of an evaluation: ROC, PRO and precision-recall curves, and bars per type of defect.

Input: `Evaluation`. Output: PNG files. The curves come thinned from the finished categories; nothing is
scored again. Knows nothing of photos and maps.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipsam.metrics import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from clipsam.evaluate import Evaluation

CURVE_POINTS = 200  # per curve; 1/200 of the axis cannot be seen
_PANELS = (
    ("ROC", "fpr", "recall", 1.0),
    ("PRO", "fpr", "overlap", 0.3),
    ("precision and recall", "recall", "precision", 1.0),
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
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, 3), _PANELS, strict=True):
        _draw_curves(axes, curves, *panel)
    figure.axes[0].legend(fontsize=7)
    figure.suptitle(f"{evaluation.dataset['name']}: pixel curves of the final map")
    paths = [folder / "curves.png"]
    figure.savefig(paths[0], dpi=130)
    if any(entry["defects"] for entry in evaluation.categories.values()):
        paths.append(folder / "defects.png")
        _draw_bars(evaluation, paths[1])
    return tuple(paths)


def _draw_curves(
    axes: Axes, curves: dict[str, dict[str, Any]], title: str, x: str, y: str, limit: float
) -> None:
    for category, points in curves.items():
        axes.plot(points[x], points[y], label=category, linewidth=1.2)
    axes.set(title=title, xlabel=x, ylabel=y, xlim=(0, limit), ylim=(0, 1))
    axes.grid(alpha=0.3)


def _draw_bars(evaluation: Evaluation, path: Path) -> None:
    from matplotlib.figure import Figure

    rows = [
        (f"{category}: {defect}", figures)
        for category, entry in evaluation.categories.items()
        for defect, figures in entry["defects"].items()
    ]
    figure = Figure(figsize=(9, 1.5 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(_BARS)
    places = np.arange(len(rows))
    for index, name in enumerate(_BARS):
        values = [100 * (figures[name] or 0.0) for _, figures in rows]
        axes.barh(places + index * height, values, height, label=name)
    axes.set(xlim=(0, 100), xlabel="per cent", title=f"{evaluation.dataset['name']}: by type of defect")
    axes.set_yticks(places + 0.4 - height / 2, [label for label, _ in rows])
    axes.invert_yaxis()
    axes.legend(fontsize=7, loc="lower left", bbox_to_anchor=(1, 0))
    figure.savefig(path, dpi=130)
