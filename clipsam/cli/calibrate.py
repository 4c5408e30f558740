"""`clipsam calibrate`: photos of good parts -> a calibration file with a promised false-alarm rate.

Wiring and words only: the work is done in `clipsam/calibrate.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipsam.cli import _options as options
from clipsam.errors import CalibrationError, PhotoError

if TYPE_CHECKING:
    from clipsam.calibrate import Calibration, MissRate

SOME_UNREADABLE = 2


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("calibrate")(calibrate_command)


def calibrate_command(
    good: list[str] = typer.Argument(
        ..., metavar="GOOD_DIR...", help="Photos of good parts: folders, files or glob patterns."
    ),
    product: options.Product = "object",
    false_alarms: str = typer.Option(
        "1%", metavar="RATE", help="The share of good parts that may be called defective, such as 1% or 0.01."
    ),
    out: Path = typer.Option(Path("clipsam-calibration.json"), metavar="FILE", help="Where to."),
    bad: list[str] | None = typer.Option(
        None, metavar="DIR", help="Photos of known bad parts, to learn what is missed; may be repeated."
    ),
    prompts: options.Prompts = None,
    defect: options.Defects = None,
    preset: options.PresetName = None,
    references: Path | None = typer.Option(
        None,
        metavar="DIR|FILE",
        help="Photos of flawless parts to compare with, other ones than GOOD_DIR, or a file of them.",
    ),
    roi: options.RoiFile = None,
    sam: options.Sam = True,
    adapter: options.AdapterFile = None,
    models_dir: options.ModelsDir = None,
    exported: options.Exported = None,
    compiled: options.Compiled = False,
    device: options.Device = None,
    bit_depth: options.BitDepth = None,
    as_json: bool = typer.Option(False, "--json", help="Print the outcome as one JSON object."),
) -> int:
    """Set thresholds that good parts exceed at most as often as asked: inspect then says OK or defective.

    Take photos of good parts as the line makes them, in no chosen order, none of them left out. 1% takes at
    least 99. Use the file with clipsam inspect --calibration FILE and the same options.

    Exit codes: 0 done, 1 refused, 2 done but some photos were not readable.
    """
    from clipsam.calibrate import calibrate, without_references
    from clipsam.calibration_files import check_writable, save_calibration
    from clipsam.conformal import rate_of, threshold_rank
    from clipsam.runs.inspection import photos_to_inspect

    rate = rate_of(false_alarms)
    found = list(photos_to_inspect(good).photos)
    photos, shared = without_references(found, references)
    if shared and not photos:
        raise CalibrationError(
            f"all {len(shared)} good photos are references too, and what is compared with itself says "
            "nothing; give other photos of good parts, or fewer references"
        )
    threshold_rank(len(photos), rate)  # too few are told at once, and not after the models were loaded
    bad_photos = list(photos_to_inspect(bad).photos) if bad else []
    check_writable(out)

    segmenter = options.load_segmenter(
        preset,
        product=product,
        prompts=prompts,
        defects=defect or (),
        sam=sam,
        adapter=adapter,
        references=references,
        roi=roi,
        device=device,
        models_dir=models_dir,
        exported=exported,
        compiled=compiled,
    )
    errors: list[PhotoError] = []
    with _bar(len(photos) + len(bad_photos)) as bar:
        calibration = calibrate(
            segmenter,
            photos,
            rate,
            bad=bad_photos,
            bit_depth=bit_depth,
            on_photo=bar.update,
            on_error=errors.append,
        )
    save_calibration(calibration, out)
    counts = {
        "not readable": len(errors),
        "references too": len(shared),
        "copies of others": len(photos)
        + len(bad_photos)
        - len(errors)
        - len(calibration.good)
        - len(calibration.bad),
    }
    if as_json:
        told = [{"kind": error.kind, "message": str(error)} for error in errors]
        typer.echo(json.dumps({"file": str(out), **calibration.facts(), "left_out": counts, "errors": told}))
    else:
        typer.echo(in_words(calibration, counts, errors, out))
    return SOME_UNREADABLE if errors else 0


def in_words(calibration: Calibration, counts: dict[str, int], errors: list[PhotoError], out: Path) -> str:
    """The outcome for a person."""
    lines = [f"{len(calibration.good)} good photos of {calibration.product!r}"]
    left_out = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
    lines[0] += f"; left out: {left_out}" if left_out else ""
    lines += [f"  {error}" for error in errors[:10]]
    lines += ["", *calibration.promise, ""]
    if calibration.missed and calibration.unmarked:
        lines += [
            f"Of known bad parts, {_in_words(calibration.missed)} pass; "
            f"{_in_words(calibration.unmarked)} have no pixel flagged.",
            "",
        ]
    lines += [f"calibration {calibration.id}: {out}", f"use it: clipsam inspect ... --calibration {out}"]
    # File names need not be valid Unicode, and a terminal would choke on them.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode("utf-8")


def _in_words(misses: MissRate) -> str:
    low, high = misses.interval
    return (
        f"{misses.missed} of {misses.count} ({100 * misses.rate:.1f} %, "
        f"95 % interval {100 * low:.1f} to {100 * high:.1f} %)"
    )


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="photo", file=sys.stderr, disable=not sys.stderr.isatty())
