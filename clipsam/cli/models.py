"""`clipsam models list|pull|verify`: what is on this machine, bringing the rest, proving it. Wiring only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

MODELS = Annotated[
    Path | None,
    typer.Option("--models", metavar="DIR", help="A pack to look into first (else $CLIPSAM_MODELS)."),
]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]

models = typer.Typer(
    help="Weights: what is present, fetching, packs for machines without internet.", no_args_is_help=True
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.add_typer(models, name="models")


@models.command("list")
def list_models(models_dir: MODELS = None, as_json: JSON = False) -> None:
    """Show every preset's models: present or not, size, licence, hash, where; and the default preset."""
    from clipsam.presets import PRESETS, choose_preset

    rows = [_row(name, spec, models_dir) for name, preset in PRESETS.items() for spec in preset.models]
    choice = choose_preset(None, models_dir)
    if as_json:
        typer.echo(
            json.dumps({"models": rows, "default": choice.preset.name, "reason": choice.reason}, indent=2)
        )
        return
    line = "{:<11} {:<32} {:<10} {:>9}  {:<11} {:<13} {}"
    typer.echo(line.format("preset", "model", "present", "size", "licence", "sha256", "where"))
    for row in rows:
        size = f"{row['bytes'] / 1e6:.1f} MB"
        short = (row["sha256"] or "-")[:12]
        where = row["folder"] or ""
        if row["missing"]:
            where = f"{where} lacks {', '.join(row['missing'])}"
        typer.echo(
            line.format(
                row["preset"], row["model"], row["present"], size, row["licence"], short, where
            ).rstrip()
        )
    typer.echo(f"default: {choice.reason}")


@models.command("pull")
def pull_models(
    preset: Annotated[str, typer.Argument(help="Its name in `clipsam models list`.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Make a pack here, to be carried to another machine."),
    ] = None,
    models_dir: MODELS = None,
    as_json: JSON = False,
) -> None:
    """Bring a preset's models into the hub cache, or with --to into a pack with hashes."""
    from clipsam.presets import get_preset
    from clipsam.pull import pull

    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    done = pull(get_preset(preset), to, models_dir, announce=lambda line: typer.echo(line, err=True))
    if as_json:
        rows = [{"model": one.spec.name, "how": one.how, "folder": str(one.folder)} for one in done]
        typer.echo(json.dumps({"preset": preset, "pack": str(to) if to else None, "models": rows}, indent=2))
        return
    for one in done:
        typer.echo(f"{one.spec.name}: {one.how}, {one.folder}")
    if to:
        typer.echo(f"copy {to} to the other machine, check it there with `clipsam models verify DIR`,")
        typer.echo("and give it to every command as --models DIR, or set CLIPSAM_MODELS=DIR")


@models.command("verify")
def verify_models(
    pack: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="A pack; without it, all that is present.")
    ] = None,
    as_json: JSON = False,
) -> None:
    """Read every byte and compare with the recorded hashes; exit code 1 if a file differs or is missing."""
    from clipsam.locations import verify_present
    from clipsam.packs import verify_pack

    checks = verify_pack(pack) if pack else verify_present()
    differing = sum(check.differs for check in checks)
    if as_json:
        rows = [
            {"model": c.model, "file": c.file, "state": c.state, "expected": c.expected, "found": c.found}
            for c in checks
        ]
        typer.echo(json.dumps({"ok": not differing, "files": rows}, indent=2))
    else:
        for check in checks:
            typer.echo(f"{check.state:<9} {check.model}/{check.file}  {check.found}".rstrip())
        typer.echo(f"{len(checks)} files, {differing} differing")
    if differing:
        raise typer.Exit(1)


def _row(preset: str, spec: Any, models_dir: Path | None) -> dict[str, Any]:
    from clipsam.locations import locate

    location = locate(spec, models_dir)
    whole = location is not None and location.complete
    return {
        "preset": preset,
        "model": spec.name,
        "present": "no" if location is None else location.place if whole else "incomplete",
        "folder": str(location.folder) if location else None,
        "missing": list(location.missing) if location else [],
        "bytes": location.size if location is not None and whole else spec.size,
        "licence": spec.licence,
        "source": spec.repo or "embedded",
        "sha256": location.weights_hash if location is not None and whole else None,
    }
