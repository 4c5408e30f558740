"""`clipsam train nano`: train the embedded pair from the rendered corpus, or draw a contact sheet of it.
`clipsam train umci`: train an adapter for any CLIP, on a dataset with masks or on the rendered corpus.

Wiring and words only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipsam.errors import UsageError

if TYPE_CHECKING:
    from clipsam.umci_training.config import UmciTraining
    from clipsam.umci_training.pictures import Pictures

RENDERED = "rendered"


class Half(StrEnum):
    """Which of the pair to train."""

    both = "both"
    clip = "clip"
    sam = "sam"


train = typer.Typer(help="Train the embedded models, or an adapter.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.add_typer(train, name="train")


@train.callback()
def _train() -> None:
    """Train the embedded models, or an adapter."""


@train.command()
def nano(
    out: Path = typer.Option(Path("nano-training"), help="Folder of checkpoints, logs and weights."),
    config: Path | None = typer.Option(
        None, help="Recipe as TOML; see the model card for the shipped weights'."
    ),
    only: Half = typer.Option(Half.both, help="Train both models, or one of them."),
    start: Path | None = typer.Option(
        None,
        metavar="DIR",
        help="Begin from the weights in DIR/clip and DIR/sam, as an earlier --out has them.",
    ),
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
        done["clip"] = str(train_clip(clip, out, place, _half(start, "clip")))
    if only in (Half.both, Half.sam):
        done["sam"] = str(train_sam(sam, out, place, _half(start, "sam")))
    typer.echo(json.dumps(done) if as_json else "\n".join(f"{name}: {where}" for name, where in done.items()))


def _half(start: Path | None, name: str) -> Path | None:
    """The folder of one model's weights among those to begin from."""
    if start is not None and not any((start / name).glob("*model.safetensors")):
        raise UsageError(
            f"{start / name} holds no weights; expected a folder that an earlier --out has written"
        )
    return start and start / name


@train.command()
def umci(
    dataset: str = typer.Option(
        RENDERED,
        metavar="rendered|mvtec|visa|btad|mpdd|folder|csv",
        help="What to train on: rendered pictures, or a dataset's test photos and masks.",
    ),
    root: Path | None = typer.Option(None, metavar="DIR", help="Where the dataset is; for csv the file."),
    category: list[str] = typer.Option([], help="Only this category; may be repeated."),
    preset: str | None = typer.Option(None, help="Whose CLIP to adapt; by default the best that is here."),
    prompts: str | None = typer.Option(
        None, metavar="FILE|NAME", help="Another prompt file; see clipsam prompts."
    ),
    config: str | None = typer.Option(
        None, metavar="FILE|NAME", help="TOML with [umci] and [training], or a protocol that has them."
    ),
    out: Path = typer.Option(Path("umci.safetensors"), metavar="FILE", help="The adapter's file."),
    models_dir: Path | None = typer.Option(
        None, "--models", metavar="DIR", help="A pack of weights to look into first (else $CLIPSAM_MODELS)."
    ),
    device: str | None = typer.Option(None, help="Torch device; the GPU where there is one by default."),
    as_json: bool = typer.Option(False, "--json", help="Print the adapter's card as JSON."),
) -> None:
    """Train UMCI, ClipSAM's adapter, for a CLIP that stays as it is; use it with --adapter FILE.

    Run it again after a kill: it goes on from its last checkpoint, in FILE.training beside its log.
    """
    from clipsam.umci_training.config import read_config

    chosen = read_config(config)
    if (dataset == RENDERED) != (root is None):
        raise UsageError(
            f"--dataset {dataset} {'takes no' if root else 'needs'} --root; expected --dataset {RENDERED} "
            "alone, or a kind of dataset with the folder it is in"
        )
    import torch

    from clipsam.adapter import Bond, WordMaps
    from clipsam.clip import ClipEncoder
    from clipsam.hashes import cache_folder
    from clipsam.prompts import load_prompts
    from clipsam.umci_training.config import GIGABYTE
    from clipsam.umci_training.features import Features
    from clipsam.umci_training.train import train_umci

    protocol = replace(chosen.protocol, preset=preset or chosen.protocol.preset)
    pair = protocol.method(models_dir)
    typer.echo(f"clipsam: preset {pair.name}", err=True)
    ensemble = load_prompts(prompts or protocol.prompts or pair.prompts)
    pictures = _pictures(dataset, root, category, chosen.training, max(pair.heatmap.sizes))
    encoder = ClipEncoder.from_spec(
        pair.clip,
        models_dir=models_dir,
        device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    features = Features(
        encoder,
        pictures,
        levels=chosen.umci.levels(encoder.depth),
        sizes=pair.heatmap.sizes,
        stride=chosen.training.stride,
        limit=round(chosen.training.cache_gb * GIGABYTE),
        folder=cache_folder() / "features",
        words=WordMaps(encoder, ensemble, pair.heatmap) if chosen.umci.prior else None,
        square=pair.heatmap.square or not chosen.umci.prior,
    )
    features.fill(_told(len(pictures)))
    card = train_umci(
        encoder,
        ensemble,
        features,
        settings=chosen.umci,
        config=chosen.training,
        bond=Bond.of(encoder, ensemble, pair.heatmap, chosen.umci),
        threshold=pair.pixel_threshold,
        out=out,
    )
    found = card["training"]["held_out"]
    words = f"adapter: {out} (pixel AP {found['pixel_ap']:.3f} on its own held-out pictures)"
    typer.echo(json.dumps({"adapter": str(out), **card}) if as_json else words)


def _pictures(
    dataset: str, root: Path | None, category: list[str], config: UmciTraining, side: int
) -> Pictures:
    from clipsam.datasets import open_dataset
    from clipsam.umci_training.pictures import DatasetPictures, RenderedPictures

    if root is None:
        if category:
            raise UsageError(f"--dataset {RENDERED} has no categories; leave --category out")
        return RenderedPictures(config.pictures, config.seed, side)
    return DatasetPictures(open_dataset(dataset, root, category), config.seed)


def _told(total: int) -> Callable[[int], None]:
    """Say now and then how many pictures the tower has seen."""

    def tell(done: int) -> None:
        if done % 100 == 0 or done == total:
            print(f"clipsam: features of {done}/{total} pictures", file=sys.stderr, flush=True)

    return tell
