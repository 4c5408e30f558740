"""`clipsam prompts list|show|check`: which prompt files there are, what they say, what is wrong in one.

Wiring only: reading is in `clipsam/prompts.py`, remarks in `clipsam/promptcheck.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from clipsam.prompts import ProductNames, PromptEnsemble

prompts_app = typer.Typer(help="Prompt files: what is said about products.", no_args_is_help=True)

_JSON = typer.Option(False, "--json", help="Print JSON instead of text.")


def register(app: typer.Typer) -> None:
    """Add the verb `prompts` with its three commands to the command line."""
    app.add_typer(prompts_app, name="prompts")


@prompts_app.command("list")
def list_command(as_json: bool = _JSON) -> None:
    """List the shipped prompt files."""
    from clipsam.prompts import list_prompts, shipped_folder

    loaded = list_prompts()
    if as_json:
        typer.echo(json.dumps([_facts(item) for item in loaded], indent=2))
        return
    for item in loaded:
        typer.echo(f"{item.name:<12} {item.version:<5} {item.title} ({_size(item)})")
    typer.echo(f"They are in {shipped_folder()}; copy one to write your own, and pass it by --prompts FILE.")


@prompts_app.command("show")
def show_command(
    name: str = typer.Argument("industrial", help="Name of a shipped file, or path of a TOML file."),
    product: str = typer.Option("", "--product", help='The product in words; without it "object".'),
    defect: list[str] = typer.Option([], "--defect", help="Add a defect type by name; may be repeated."),
    as_json: bool = _JSON,
) -> None:
    """Print the sentences of an ensemble by defect type, or the words of a names file."""
    from clipsam.prompts import PromptEnsemble, find_prompts, read_prompts
    from clipsam.tomlfile import TomlFile

    loaded = read_prompts(TomlFile.read(find_prompts(name)))
    if isinstance(loaded, PromptEnsemble):
        _show_ensemble(loaded.with_defects(defect), product, as_json)
    elif as_json:
        typer.echo(json.dumps({**_facts(loaded), "names": dict(loaded.pairs)}, indent=2))
    else:
        _show_head(loaded)
        for category, words in loaded.pairs:
            typer.echo(f"  {category:<12} {words}")


@prompts_app.command("check")
def check_command(
    files: list[str] = typer.Argument(None, help="Names or paths; without any, every shipped file."),
    as_json: bool = _JSON,
) -> None:
    """Say what is wrong or questionable in prompt files. Exits with 1 if one of them is wrong."""
    from clipsam.prompts import shipped_names

    reports = [_report(name) for name in files or shipped_names()]
    if as_json:
        typer.echo(json.dumps(reports, indent=2))
    else:
        for report in reports:
            _print_report(report)
    if not all(report["ok"] for report in reports):
        raise typer.Exit(1)


def _report(name: str) -> dict[str, Any]:
    from clipsam.errors import PromptError
    from clipsam.promptcheck import check_prompts

    try:
        remarks = check_prompts(name)
    except PromptError as error:
        return {"file": name, "ok": False, "error": str(error), "warnings": []}
    return {"file": name, "ok": True, "error": None, "warnings": [asdict(remark) for remark in remarks]}


def _print_report(report: dict[str, Any]) -> None:
    from clipsam.promptcheck import Remark

    if report["error"]:
        typer.echo(f"{report['file']}: wrong", err=True)
        typer.echo(f"  {report['error']}", err=True)
        return
    warnings = report["warnings"]
    typer.echo(f"{report['file']}: good" + (f", {len(warnings)} warning(s)" if warnings else ""))
    for warning in warnings:
        typer.echo(f"  {Remark(**warning)}")


def _show_ensemble(ensemble: PromptEnsemble, product: str, as_json: bool) -> None:
    from clipsam.prompts import product_words

    sentences = ensemble.sentences(product)
    said = product_words(product)
    if as_json:
        facts = _facts(ensemble) | {"product": said, "hash": ensemble.hash(product), "count": sentences.count}
        facts |= {"normal": sentences.normal, "abnormal": dict(sentences.abnormal)}
        typer.echo(json.dumps(facts, indent=2))
        return
    _show_head(ensemble)
    typer.echo(f"product: {said}; {sentences.count} sentences; hash {ensemble.hash(product)}")
    for label, group in {"(normal)": sentences.normal, **sentences.abnormal}.items():
        typer.echo(f"\n{label}")
        for sentence in group:
            typer.echo(f"  {sentence}")


def _show_head(item: PromptEnsemble | ProductNames) -> None:
    typer.echo(f"{item.name} {item.version}: {item.title}" if item.title else item.name)
    for label, text in asdict(item.provenance).items():
        if text:
            typer.echo(f"{label.replace('_', ' ')}: {text}")


def _facts(item: PromptEnsemble | ProductNames) -> dict[str, Any]:
    from clipsam.prompts import PromptEnsemble

    facts: dict[str, Any] = {"name": item.name, "kind": item.kind, "path": str(item.path)}
    facts |= {"title": item.title, "version": item.version, "provenance": asdict(item.provenance)}
    if isinstance(item, PromptEnsemble):
        facts["defects"] = item.defect_names
    return facts


def _size(item: PromptEnsemble | ProductNames) -> str:
    from clipsam.prompts import PromptEnsemble

    if not isinstance(item, PromptEnsemble):
        return f"words for {len(item.pairs)} categories"
    types = len(item.defects)
    return f"{types} defect type{'s' if types > 1 else ''}, {item.sentences().count} sentences per product"
