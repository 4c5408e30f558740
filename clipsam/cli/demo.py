"""`clipsam demo`: rendered parts with known defects, inspected by the embedded models."""

from __future__ import annotations

import json
import time
from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    out: Path = typer.Option(Path("clipsam-demo"), metavar="DIR", help="Where photos, run and report go."),
    count: int = typer.Option(15, min=1, help="How many parts to render."),
    seed: int = typer.Option(0, help="Another seed renders other parts."),
    models_dir: Path | None = typer.Option(
        None, "--models", metavar="DIR", help="A pack of weights to look into first (else $CLIPSAM_MODELS)."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the outcome as JSON."),
) -> None:
    """Render a small batch of parts with known defects, inspect it with the embedded models, write the
    report.
    """
    start = time.perf_counter()
    from clipsam.cli._progress import Progress
    from clipsam.cli._threads import leave_a_core
    from clipsam.runs.demo import run_demo
    from clipsam.segmenter import AnomalySegmenter

    leave_a_core()
    segmenter = AnomalySegmenter.from_preset("nano", product="part", models_dir=models_dir)
    with Progress() as progress:
        score = run_demo(segmenter, out, count=count, seed=seed, on_step=progress.step)
    outcome = {
        "planted": score.planted,
        "found": score.found,
        "recall": round(score.recall, 3),
        "clean": score.clean,
        "false_regions": score.false_regions,
        "false_regions_per_clean_part": round(score.false_per_clean, 3),
        "seconds": round(time.perf_counter() - start, 1),
        "run": str(score.summary.folder),
        "report": str(score.report),
    }
    if as_json:
        typer.echo(json.dumps(outcome))
        return
    typer.echo(
        f"planted defects found: {score.found} of {score.planted} (recall {score.recall:.0%})\n"
        f"false regions per clean part: {score.false_per_clean:.2f} "
        f"({score.false_regions} on {score.clean} clean parts)\n"
        f"seconds: {outcome['seconds']}\n"
        f"overlays: {score.summary.folder / 'overlays'}\n"
        f"report: {score.report}"
    )
