"""`clipsam inspect`: photos, folders and globs -> a run folder.

Wiring and words only: the work is done in `clipsam/runs/inspection.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipsam.cli import _options as options
from clipsam.errors import UsageError

if TYPE_CHECKING:
    from clipsam.runs.inspection import RunSummary
    from clipsam.runs.photowork import Engine
    from clipsam.runs.sitting import Step

NOTHING_DONE, SOME_UNREADABLE, DEFECTIVE = 1, 2, 3
LISTED = 10  # suspicious photos and errors in the summary; the run folder has them all


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("inspect")(inspect)


def inspect(
    paths: list[str] = typer.Argument(
        ..., metavar="PATH...", help="Photos, folders (with their sub-folders), glob patterns or videos."
    ),
    product: options.Product = "object",
    prompts: options.Prompts = None,
    defect: options.Defects = None,
    preset: options.PresetName = None,
    references: options.References = None,
    save_references: Path | None = typer.Option(
        None, metavar="FILE", help="Keep what --references shows in this .safetensors file."
    ),
    consensus: bool = typer.Option(
        False, "--consensus", help="Compare the photos with each other: rare among them is suspicious."
    ),
    sam: options.Sam = True,
    adapter: options.AdapterFile = None,
    threshold: options.Threshold = None,
    calibration: options.CalibrationFile = None,
    roi: options.RoiFile = None,
    models_dir: options.ModelsDir = None,
    exported: options.Exported = None,
    compiled: options.Compiled = False,
    device: options.Device = None,
    out: Path = typer.Option(
        Path("clipsam-run"), metavar="DIR", help="The run folder. A run that is there goes on."
    ),
    overwrite: bool = typer.Option(False, "--overwrite", help="Remove the run in --out and start anew."),
    maps: options.Maps = "png16",
    overlays: options.Overlays = True,
    every: int = typer.Option(
        1, min=1, help="Of a video take every so many-th frame; they are kept in OUT-frames."
    ),
    bit_depth: options.BitDepth = None,
    fail_on_defect: bool = typer.Option(
        False, "--fail-on-defect", help="Exit with 3 if a part is defective (if uncalibrated: suspicious)."
    ),
    engine: str = typer.Option(
        "local", metavar="local|ray", help="This process, or warm workers on the machines of a Ray cluster."
    ),
    workers: int | None = typer.Option(
        None, min=1, help="With --engine ray: how many; by default one per GPU, or per two cores."
    ),
    store: options.Store = None,
    as_json: options.AsJson = False,
) -> int:
    """Find and outline defects: scores, maps, masks, overlays and a table, in one run folder.

    Call it again to go on after an interruption or to add photos.

    Exit codes: 0 all done, 1 nothing done, 2 some photos not readable, 3 see --fail-on-defect.
    """
    from clipsam.cli._progress import Progress
    from clipsam.cli._store import Keeping, open_station
    from clipsam.cli._threads import share_cores
    from clipsam.runs.frames import with_frames
    from clipsam.runs.inspection import inspect_photos, photos_to_inspect, run_folder

    paths = with_frames(paths, out.with_name(f"{out.name}-frames"), every, _tell_video)
    run_folder(out)
    found = photos_to_inspect(paths)  # a wrong path is told at once, and not after the models were loaded
    _check(references, save_references, consensus, calibration)
    chosen = _engine(engine, workers)
    station = open_station(store)
    from clipsam.companions import batch
    from clipsam.reference_files import save_references as keep_references
    from clipsam.references import ReferenceMemory

    segmenter = options.load_segmenter(
        preset,
        at_once=not consensus,
        product=product,
        prompts=prompts,
        defects=defect or (),
        sam=sam,
        adapter=adapter,
        references=references,
        threshold=threshold,
        calibration=calibration,
        roi=roi,
        device=device,
        models_dir=models_dir,
        exported=exported,
        compiled=compiled,
    )
    if save_references:
        if not isinstance(segmenter.memory, ReferenceMemory):
            raise UsageError(
                f"preset {segmenter.preset.name} compares windows of its references, which are not kept in a "
                "file; leave out --save-references"
            )
        keep_references(segmenter.memory, save_references)
    if consensus:
        voting = batch([path for path in found.photos if path.exists()], segmenter.preset)
        segmenter = segmenter.with_memory(voting.memory(segmenter.clip, segmenter.preset, segmenter.words))
    keeping = Keeping(station, out, segmenter)

    def both(step: Step) -> None:
        keeping.step(step)
        progress.step(step)

    try:
        with Progress() as progress, keeping:
            summary = inspect_photos(
                segmenter,
                paths,
                out,
                maps=maps,
                overlays=overlays,
                bit_depth=bit_depth,
                overwrite=overwrite,
                on_step=both,
                streams=share_cores(segmenter),
                engine=chosen,
            )
    except KeyboardInterrupt:
        typer.echo(f"clipsam: what is done is kept in {out}; the same command goes on from there", err=True)
        raise
    words = (
        json.dumps(summary.as_dict() | keeping.as_dict()) if as_json else in_words(summary) + keeping.words
    )
    typer.echo(words)
    return exit_code(summary, fail_on_defect)


def _tell_video(video: Path, frames: int) -> None:
    typer.echo(f"clipsam: {frames} frames of {video}", err=True)


def _check(
    references: Path | None, save_references: Path | None, consensus: bool, calibration: Path | None
) -> None:
    if calibration and consensus:
        raise UsageError(
            "with --consensus scores depend on the other photos of the batch, so no --calibration holds for "
            "them; use --references instead"
        )
    if references and consensus:
        raise UsageError("both --references and --consensus are given; choose one of them")
    if save_references and not references:
        raise UsageError("--save-references keeps what --references shows; give that too")


def _engine(name: str, workers: int | None) -> Engine | None:
    if name == "ray":
        from clipsam.runs.ray_engine import RayEngine

        return RayEngine(workers)
    if name != "local":
        raise UsageError(f"there is no engine {name!r}; choose local or ray")
    if workers is not None:
        raise UsageError("--workers is for --engine ray; give both, or neither")
    return None


def exit_code(summary: RunSummary, fail_on_defect: bool) -> int:
    """The exit code of a run. A defect outweighs an unreadable photo: it is what the option was given for."""
    if len(summary.errors) == len(summary.rows):
        return NOTHING_DONE
    if fail_on_defect and summary.suspicious:
        return DEFECTIVE
    return SOME_UNREADABLE if summary.errors else 0


def in_words(summary: RunSummary) -> str:
    """The summary for a person: counts, the suspicious photos, the errors, where things are."""
    lines = [_counts(summary)]
    if summary.suspicious:
        lines += ["", f"{_verdict(summary)}, the highest score first:"]
    for row in summary.suspicious[:LISTED]:
        types = ", ".join(dict.fromkeys(region["defect"] for region in row["regions"]))
        lines.append(f"  {row['score']:.3f}  {row['path']}  {types}".rstrip())
    lines += _more(len(summary.suspicious))
    if summary.drift:
        lines += ["", f"drift: {summary.drift}"]
    if summary.errors:
        lines += ["", "not readable:"]
    for row in summary.errors[:LISTED]:
        lines.append(f"  {row['error']['kind']}: {row['error']['message']}")
    lines += _more(len(summary.errors))
    if summary.skipped:
        lines += [
            "",
            f"passed over: {len(summary.skipped)} that are no photos, or were met twice (see --json)",
        ]
    lines += ["", f"results: {summary.folder}", f"a page to look at: clipsam report {summary.folder}"]
    # File names need not be valid Unicode, and a terminal would choke on them.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode("utf-8")


def _counts(summary: RunSummary) -> str:
    counts = [f"{len(summary.rows)} photos", f"{len(summary.suspicious)} {_verdict(summary)}"]
    if summary.errors:
        counts.append(f"{len(summary.errors)} not readable")
    if summary.resumed:
        counts.append(f"{summary.resumed} done before")
    speed = f" in {summary.seconds:.1f} s ({summary.photos_per_second:.1f} photos/s)"
    return ", ".join(counts) + (speed if summary.resumed < len(summary.rows) else "")


def _verdict(summary: RunSummary) -> str:
    calibrated = any(row.get("is_defective") is not None for row in summary.rows)
    return "defective" if calibrated else "suspicious"


def _more(count: int) -> list[str]:
    return [f"  and {count - LISTED} more"] if count > LISTED else []
