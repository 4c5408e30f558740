"""`clipsam train nano`: train the embedded pair from the rendered corpus, or draw a contact sheet of that
corpus.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path

import typer


class Half(StrEnum):
    """Which of the pair to train."""

    both = "both"
    clip = "clip"
    sam = "sam"


train = typer.Typer(help="Train models on the rendered corpus.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(train, name="train")


@train.callback()
def _train() -> None:
    """Train models on the rendered corpus."""


@train.command()
def nano(
    out: Path = typer.Option(Path("nano-training"), help="Folder of checkpoints, logs and weights."),
    config: Path | None = typer.Option(
        None, help="Recipe as TOML; see the model card for the shipped weights'."
    ),
    only: Half = typer.Option(Half.both, help="Train both models, or one of them."),
    device: str | None = typer.Option(None, help="Torch device; the GPU where there is one by default."),
    preview: Path | None = typer.Option(
        None, help="Draw a contact sheet of the corpus to this file and stop."
    ),
    seed: int = typer.Option(0, help="Seed of the contact sheet."),
    as_json: bool = typer.Option(False, "--json", help="Print the result as JSON."),
) -> None:
    """Train CLIP-nano and SAM-nano. Run it again after a kill: it goes on from its last checkpoint."""
    if preview is not None:
        from clipsam.nano.corpus.compose import draw_preview

        draw_preview(preview, seed=seed)
        typer.echo(json.dumps({"preview": str(preview)}) if as_json else f"contact sheet: {preview}")
        return
    import torch

    from clipsam.nano.recipe import read_recipe
    from clipsam.nano.train_clip import train_clip
    from clipsam.nano.train_sam import train_sam

    clip, sam = read_recipe(config)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    done = {}
    if only in (Half.both, Half.clip):
        done["clip"] = str(train_clip(clip, out, place))
    if only in (Half.both, Half.sam):
        done["sam"] = str(train_sam(sam, out, place))
    typer.echo(json.dumps(done) if as_json else "\n".join(f"{name}: {where}" for name, where in done.items()))
