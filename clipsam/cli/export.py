"""`clipsam export`: a preset's image towers -> programs of OpenVINO or ONNX, run by --exported."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from clipsam.errors import UsageError

SQUARE = "512x512"


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("export")(export_command)


def export_command(
    preset: str | None = typer.Option(None, help="The pair of models; by default the best that is here."),
    target: str = typer.Option("openvino", "--format", metavar="openvino|onnx", help="What runs them."),
    int8: bool = typer.Option(
        False, "--int8", help="Matrices in eight bits, with ranges from rendered pictures: the fastest."
    ),
    bfloat16: bool = typer.Option(
        False, "--bfloat16", help="Matrices in bfloat16, where the CPU computes in it (AVX512-BF16, AMX)."
    ),
    out: Path = typer.Option(Path("clipsam-export"), metavar="DIR", help="A new folder."),
    size: list[str] | None = typer.Option(
        None,
        metavar="WIDTHxHEIGHT",
        help="Of photos to come, 512x512 unless said; may be repeated.",
    ),
    sam: bool = typer.Option(True, "--sam/--no-sam", help="Export SAM's image encoder too."),
    models_dir: Path | None = typer.Option(
        None, "--models", metavar="DIR", help="A pack of weights to look into first (else $CLIPSAM_MODELS)."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the outcome as one JSON object."),
) -> None:
    """Export the image towers for fast inspection on a CPU: clipsam inspect --exported DIR.

    nano's programs serve photos of every size. Other towers have one per size of their input; photos of equal
    aspect share them, and what another aspect needs is made when the first such photo comes, and kept in DIR.
    """
    if int8 and bfloat16:
        raise UsageError("both --int8 and --bfloat16 are given; choose one of them")
    precision = "int8" if int8 else "bfloat16" if bfloat16 else "float32"
    shapes = [_shape(text) for text in size or (SQUARE,)]
    from clipsam.programs import export
    from clipsam.programs.runtime import find_runtime
    from clipsam.segmenter import AnomalySegmenter

    find_runtime(target, precision).need_to_make(precision)  # told at once, before models are loaded
    segmenter = AnomalySegmenter.from_preset(preset, sam=sam, models_dir=models_dir, device="cpu")
    typer.echo(f"clipsam: {segmenter.choice}", err=True)
    files = export(segmenter, out, shapes, target, precision)
    told = f"{len(files)} programs in {out}; use them: clipsam inspect PHOTOS --exported {out}"
    typer.echo(json.dumps({"folder": str(out), "programs": [f.name for f in files]}) if as_json else told)


def _shape(text: str) -> tuple[int, int]:
    """Width x height in words -> (height, width)."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise UsageError(
            f"--size {text!r} is no size of a photo; expected WIDTHxHEIGHT in px, such as 1024x768"
        )
    return int(height), int(width)
