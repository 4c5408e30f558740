"""`clipsam annotations`: a run -> a file for another tool. Wiring only: the formats are `clipsam/exports`."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipsam.errors import RunError, UsageError

if TYPE_CHECKING:
    from clipsam.exports.inspected import InspectedRun

FORMATS = ("coco", "label-studio", "csv")


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("annotations")(annotations_command)


def annotations_command(
    run: Path = typer.Argument(..., metavar="RUN", help="A run folder, as clipsam inspect writes it."),
    form: str = typer.Option("coco", "--format", metavar="|".join(FORMATS), help="For which tool."),
    out: Path | None = typer.Option(
        None, metavar="FILE", help="Where to; by default a file in RUN named after the format."
    ),
    url_prefix: str | None = typer.Option(
        None,
        metavar="TEXT",
        help="Label Studio: what stands before a photo's name, such as /data/local-files/?d=photos/.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print what was written as one JSON object."),
) -> None:
    """Write the regions of a run for COCO tools, Label Studio or a spreadsheet.

    For supervision and FiftyOne there are Python functions, see clipsam.exports.
    """
    from clipsam.exports.inspected import InspectedRun

    if form not in _WRITERS:
        raise UsageError(f"the format is {form!r}; expected one of {', '.join(FORMATS)}")
    if url_prefix is not None and form != "label-studio":
        raise UsageError("--url-prefix is for --format label-studio only")
    read = InspectedRun(run)
    target = out or run / f"annotations-{form}.{'csv' if form == 'csv' else 'json'}"
    try:
        written = _WRITERS[form](read, target, url_prefix)
    except OSError as error:
        raise RunError(f"{target}: cannot be written: {error.strerror}") from error
    regions = sum(len(row["regions"]) for row in read.rows)
    if as_json:
        counts = {"photos": len(read), "regions": regions, "left_out": read.left_out}
        typer.echo(json.dumps({"format": form, "files": [str(file) for file in written], **counts}))
        return
    typer.echo(f"{regions} regions of {len(read)} photos: {', '.join(map(str, written))}")
    if read.left_out:
        typer.echo(f"left out: {read.left_out} photos that could not be inspected")


def _coco(run: InspectedRun, target: Path, prefix: str | None) -> list[Path]:
    from clipsam.exports.coco import coco_of

    return [_dump(coco_of(run), target)]


def _label_studio(run: InspectedRun, target: Path, prefix: str | None) -> list[Path]:
    from clipsam.exports.label_studio import LOCAL_FILES, config_of, tasks_of

    config = target.with_suffix(".xml")
    _dump(tasks_of(run, LOCAL_FILES if prefix is None else prefix), target)
    config.write_text(config_of(run), encoding="utf-8")
    return [target, config]


def _csv(run: InspectedRun, target: Path, prefix: str | None) -> list[Path]:
    from clipsam.exports.table import COLUMNS, lines_of

    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(lines_of(run))
    return [target]


_WRITERS: dict[str, Callable[[InspectedRun, Path, str | None], list[Path]]] = dict(
    zip(FORMATS, (_coco, _label_studio, _csv), strict=True)
)


def _dump(value: Any, target: Path) -> Path:
    with target.open("w", encoding="utf-8") as file:
        json.dump(value, file)
    return target
