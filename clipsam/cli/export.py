"""`clipsam export`: a preset's image towers -> OpenVINO programs that inspect runs. Wiring only."""

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
    target: str = typer.Option("openvino", "--format", help="What runs them: openvino."),
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

    One program per model and size of its input; photos of equal aspect share them. What photos of another
    aspect need is made when the first of them comes, and kept in DIR.
    """
    if target != "openvino":
        raise UsageError(f"there is no export to {target!r}; expected --format openvino")
    shapes = [_shape(text) for text in size or (SQUARE,)]
    from clipsam.programs import export
    from clipsam.segmenter import AnomalySegmenter

    segmenter = AnomalySegmenter.from_preset(preset, sam=sam, models_dir=models_dir, device="cpu")
    typer.echo(f"clipsam: {segmenter.choice}", err=True)
    files = export(segmenter, out, shapes)
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
