"""`clipsam report`: a run folder -> one HTML page. Wiring only: the page is `clipsam/report/page.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import typer
from tqdm import tqdm


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("report")(report)


def report(
    run: Path = typer.Argument(..., metavar="RUN", help="A run folder, as clipsam inspect writes it."),
    out: Path | None = typer.Option(None, metavar="FILE", help="Where to; by default RUN/report.html."),
    limit: int | None = typer.Option(
        None, min=0, help="Only so many photos get a picture, the highest scores first."
    ),
    max_mb: float = typer.Option(100.0, help="What all pictures together may take, in MB; 6 to 120 kB each."),
    as_json: bool = typer.Option(False, "--json", help="Print the path as a JSON object."),
) -> None:
    """Write one self-contained HTML page of a run: counts, scores, photos, errors, settings and hashes."""
    from clipsam.report.page import write_report

    with tqdm(unit="photo", disable=None, file=sys.stderr, leave=False) as bar:

        def on_photo(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)

        page = write_report(run, out, limit=limit, max_mb=max_mb, on_photo=on_photo)
    typer.echo(json.dumps({"report": str(page), "bytes": page.stat().st_size}) if as_json else str(page))
