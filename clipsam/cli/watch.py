"""`clipsam watch`: a hot folder -> rows, pictures and moved photos, until it is stopped.

Wiring and words only: the work is done in `clipsam/watch.py`.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsam.cli import _options as options

if TYPE_CHECKING:
    from clipsam.runs.store import Row
    from clipsam.watch import WatchSummary


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("watch")(watch_command)


def watch_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder that photos arrive in, with its sub-folders.")
    ],
    product: options.Product = "object",
    prompts: options.Prompts = None,
    defect: options.Defects = None,
    preset: options.PresetName = None,
    references: options.References = None,
    sam: options.Sam = True,
    adapter: options.AdapterFile = None,
    threshold: options.Threshold = None,
    calibration: options.CalibrationFile = None,
    roi: options.RoiFile = None,
    models_dir: options.ModelsDir = None,
    exported: options.Exported = None,
    compiled: options.Compiled = False,
    device: options.Device = None,
    bit_depth: options.BitDepth = None,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="One run folder per day is made in it, and goes on.")
    ] = Path("clipsam-watch"),
    move_to: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Move photos to ok/, ng/ and error/ in it when done; else they stay."
        ),
    ] = None,
    settle: Annotated[
        float, typer.Option(min=0.0, help="Seconds that a file must stand still before it is picked up.")
    ] = 1.0,
    patience: Annotated[
        float, typer.Option(min=0.0, help="Seconds that a file which cannot be decoded is waited for.")
    ] = 30.0,
    interval: Annotated[
        float, typer.Option(min=0.01, help="Seconds between two looks into the folder.")
    ] = 0.5,
    once: Annotated[
        bool, typer.Option("--once", help="End when all that is there is done, as for a cron job.")
    ] = False,
    maps: options.Maps = "png16",
    overlays: options.Overlays = True,
    store: options.Store = None,
    as_json: options.AsJson = False,
) -> int:
    """Inspect photos as they arrive in a folder. Ctrl-C or SIGTERM ends it after the photo in hand.

    Started again it goes on: no photo is inspected twice, and none is lost.

    Exit codes: 0 done, 1 refused.
    """
    from clipsam.cli._store import open_station, warn
    from clipsam.hotfolder import HotFolder
    from clipsam.runs.daily import DailyRuns
    from clipsam.runs.pictures import PictureOptions
    from clipsam.watch import Watch, WatchOptions

    pictures = PictureOptions(maps, overlays)
    limits = WatchOptions(interval=interval, patience=patience, bit_depth=bit_depth, once=once)
    hot = HotFolder(folder, move_to=move_to, settle=settle, journal=out / "seen.jsonl")
    station = open_station(store)
    segmenter = options.load_segmenter(
        preset,
        product=product,
        prompts=prompts,
        defects=defect or (),
        references=references,
        sam=sam,
        adapter=adapter,
        threshold=threshold,
        calibration=calibration,
        roi=roi,
        models_dir=models_dir,
        exported=exported,
        compiled=compiled,
        device=device,
    )
    runs = DailyRuns(
        out,
        segmenter.manifest(),
        root=Path(os.path.commonpath([hot.folder, hot.move_to or hot.folder])),
        inputs=[str(folder)],
        options=pictures,
        bit_depth=bit_depth,
        station=station,
        calibration=segmenter.calibration,
        warn=warn,
    )
    watch = Watch(segmenter, hot, runs, limits, on_row=None if as_json else _tell)
    stop_on_signals(watch.stop)
    if not once:
        typer.echo(f"clipsam: watching {hot.folder}; Ctrl-C ends it", err=True)
    summary = watch.run()
    if station is not None:
        station.close()
    typer.echo(json.dumps(_as_dict(summary, out)) if as_json else _in_words(summary, out))
    return 0


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Let SIGTERM and SIGINT call `stop`; a second one ends the process as usual."""

    def handle(number: int, frame: Any) -> None:
        stop()
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handle)


def _tell(row: Row) -> None:
    from clipsam.runs.store import is_suspicious

    if "error" in row:
        line = f"error  {row['error']['kind']}: {row['error']['message']}"
    else:
        line = f"{'NG' if is_suspicious(row) else 'ok'}  {row['score']:.3f}  {row['path']}"
    typer.echo(line.encode("utf-8", "backslashreplace").decode("utf-8"))


def _as_dict(summary: WatchSummary, out: Path) -> dict[str, Any]:
    counts = {"photos": summary.photos, "ok": summary.ok, "ng": summary.ng, "errors": summary.errors}
    return {"out": str(out), **counts, "seconds": round(summary.seconds, 3)}


def _in_words(summary: WatchSummary, out: Path) -> str:
    return (
        f"{summary.photos} photos in {summary.seconds:.0f} s: {summary.ok} ok, {summary.ng} NG, "
        f"{summary.errors} not readable; results: {out}"
    )
