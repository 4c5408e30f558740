"""`clipsam eval`: a dataset -> metrics.json, metrics.csv and a table.

Wiring and words only: the work is done in `clipsam/evaluate.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipsam.cli._options import Compiled, Device, Exported, ModelsDir
from clipsam.errors import UsageError

if TYPE_CHECKING:
    from clipsam.datasets import Dataset
    from clipsam.evaluate import Evaluation
    from clipsam.protocol import EvalProtocol


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("eval")(evaluate_command)


def evaluate_command(
    dataset: str = typer.Option(
        ..., metavar="mvtec|visa|btad|mpdd|folder|csv", help="How the data are laid out."
    ),
    root: Path = typer.Option(..., metavar="DIR", help="Where they are; for csv the file."),
    category: list[str] = typer.Option([], help="Only this category; may be repeated."),
    product: list[str] = typer.Option(
        [], metavar="CATEGORY=WORDS", help="What a category shows, in words; may be repeated."
    ),
    out: Path = typer.Option(
        Path("clipsam-eval"),
        metavar="DIR",
        help="Where figures go. Categories that are finished there are kept.",
    ),
    preset: str | None = typer.Option(None, help="The pair of models; by default the best that is here."),
    prompts: str | None = typer.Option(
        None, metavar="FILE|NAME", help="Another prompt file; see clipsam prompts."
    ),
    defect: list[str] = typer.Option([], help="Look for this type too; may be repeated."),
    sam: bool | None = typer.Option(
        None, "--sam/--no-sam", help="Refine with SAM (default), or CLIP's map alone."
    ),
    adapter: Path | None = typer.Option(
        None, metavar="FILE", help="A map of clipsam train umci instead of the text map."
    ),
    references: str | None = typer.Option(
        None,
        metavar="NUMBER|DIR",
        help="Compare with so many good training photos of each category, or with those in DIR.",
    ),
    consensus: bool = typer.Option(
        False, "--consensus", help="The test photos of a category are each other's reference (batch track)."
    ),
    protocol: str = typer.Option(
        "photo", metavar="FILE|NAME", help="How to score; options given here go before it."
    ),
    resolution: int | None = typer.Option(
        None, min=0, help="Compare pixels as squares of this side; 0: at each photo's own size."
    ),
    track: str | None = typer.Option(
        None,
        help="Whose published figures stand beside: training-free, aux, batch. By default aux for nano, "
        "which is trained on rendered masks, and with an adapter, else training-free.",
    ),
    dump_maps: bool = typer.Option(False, "--dump-maps", help="Write every map as float TIFF to OUT/maps."),
    figures: bool = typer.Option(
        True, "--figures/--no-figures", help="Draw curves and bars per type of defect to OUT/figures."
    ),
    perturb: list[str] = typer.Option(
        [],
        metavar="NAME[=STRENGTH]",
        help="Also on changed photos: rotation, hue, saturation, brightness, noise, blur, jpeg; repeatable.",
    ),
    ablate: list[str] = typer.Option(
        [],
        metavar="AXIS[=A;B]",
        help="Also with one part changed at a time: prompts, attention, sam, strategy, selection, crop, "
        "edges, fusion, weighting, edge-weight, edge-guide; may be repeated.",
    ),
    limit: int | None = typer.Option(
        None, min=1, help="A quick sample: at most so many photos per type of defect, and as many good ones."
    ),
    leave_out_faulty: bool = typer.Option(
        False, "--leave-out-faulty", help="Score without the photos whose files have faults."
    ),
    workers: int = typer.Option(1, min=1, help="Processes that share the photos."),
    models_dir: ModelsDir = None,
    exported: Exported = None,
    compiled: Compiled = False,
    device: Device = None,
    overwrite: bool = typer.Option(False, "--overwrite", help="Forget what is finished in --out."),
    as_json: bool = typer.Option(False, "--json", help="Print the figures as JSON instead of tables."),
) -> None:
    """Measure on a dataset with masks: AUROC, PRO, AP and F1-max per category and as mean, coarse and fused.

    Read in place; mistakes in the layout are listed before the first photo is scored. Call it again to go
    on after an interruption: finished categories are kept.
    """
    from clipsam.comparison import ablations, compare, perturbed
    from clipsam.dataset_check import check_dataset, without_faults
    from clipsam.datasets import open_dataset
    from clipsam.evaluate import evaluate
    from clipsam.evaluation_table import TRACKS
    from clipsam.protocol import load_protocol
    from clipsam.scoring import SegmenterRecipe

    if exported and any(axis.partition("=")[0] == "attention" for axis in ablate):
        raise UsageError(
            "the programs of --exported attend in one way, and --ablate attention varies it; leave out one"
        )
    if track is not None and track not in TRACKS:
        raise UsageError(f"track '{track}' is unknown; expected one of {', '.join(TRACKS)}.")
    chosen = _with_options(load_protocol(protocol), preset, prompts, sam, resolution)
    data = open_dataset(dataset, root, category).called(_products(product))
    data = data if limit is None else data.limited(limit)
    _say(_contents(data))
    problems = check_dataset(data)
    for problem in problems:
        if leave_out_faulty or not problem.is_fault:  # other faults are listed by the refusal
            _say(str(problem))
    _check_adapter(adapter, data, protocol, chosen.trained_on)
    recipe = SegmenterRecipe(
        chosen.method(models_dir) if chosen.stages or chosen.proxy else chosen.preset,
        chosen.prompts,
        tuple(defect),
        chosen.sam,
        adapter=adapter,
        device=device,
        models_dir=models_dir,
        exported=exported,
        compiled=compiled,
        references=references or chosen.references,
        consensus=consensus or (chosen.consensus and not references),
    )
    variations = [*ablations(recipe, ablate), *perturbed(recipe, perturb)]
    options: dict[str, Any] = {
        "resolution": chosen.resolution,
        "overwrite": overwrite,
        "problems": problems,
        "leave_out_faulty": leave_out_faulty,
        "workers": workers,
        "on_photo": _progress(without_faults(data, problems) if leave_out_faulty else data),
    }
    result = evaluate(recipe, data, out=out, dump_maps=dump_maps, figures=figures, **options)
    comparison = compare(variations, data, base=result, out=out, **options) if variations else None
    if as_json:
        extra = {"comparison": comparison.means} if comparison else {}
        typer.echo(json.dumps(result.to_dict() | extra))
        return
    _print(result, track, out)
    if comparison:
        typer.echo(f"\n{comparison.to_text()}")


def _with_options(
    protocol: EvalProtocol, preset: str | None, prompts: str | None, sam: bool | None, resolution: int | None
) -> EvalProtocol:
    from dataclasses import replace

    given: dict[str, Any] = {"preset": preset, "prompts": prompts, "sam": sam, "resolution": resolution}
    given = {name: value for name, value in given.items() if value is not None}
    if resolution == 0:
        given["resolution"] = None
    return replace(protocol, **given)


def _check_adapter(adapter: Path | None, data: Dataset, protocol: str, trained_on: str | None) -> None:
    """Refuse an adapter that has seen what it is to be tested on, or another than the protocol wants."""
    if adapter is None:
        if trained_on is not None:
            raise UsageError(
                f"the protocol '{protocol}' needs an adapter trained on {trained_on}; train it with: clipsam "
                f"train umci --dataset {trained_on} --root DIR --config {protocol} --out FILE, and pass "
                "--adapter FILE"
            )
        return
    from clipsam.adapter import read_card

    seen = read_card(adapter)["data"]
    if trained_on is not None and seen["kind"] != trained_on:
        raise UsageError(
            f"{adapter} was trained on {seen['kind']}; expected one trained on {trained_on}, as the protocol "
            f"'{protocol}' says"
        )
    both = sorted({category.name for category in data.categories} & set(seen.get("categories", ())))
    if both and (seen["kind"], seen["name"]) == (data.kind, data.name):
        raise UsageError(
            f"{adapter} was trained on {', '.join(both)} of {data.name}; expected to be tested on what it "
            "has not seen: choose others with --category, or another dataset"
        )


def _products(pairs: list[str]) -> dict[str, str]:
    products = {}
    for pair in pairs:
        name, sign, words = pair.partition("=")
        if not (name.strip() and sign and words.strip()):
            raise UsageError(
                f"--product '{pair}' makes no sense; expected CATEGORY=WORDS, such as screw='ball screw'."
            )
        products[name.strip()] = words.strip()
    return products


def _contents(data: Dataset) -> str:
    photos = sum(len(category.samples) for category in data.categories)
    absent = f"; absent: {', '.join(data.absent)}" if data.absent else ""
    return f"{data.title}: {len(data.categories)} categories, {photos} test photos{absent}"


def _progress(data: Dataset) -> Callable[[str, int], None]:
    totals = {category.name: len(category.samples) for category in data.categories}
    step = 1 if sys.stderr.isatty() else 50

    def tell(category: str, done: int) -> None:
        if done % step == 0 or done == totals[category]:
            end = "\r" if sys.stderr.isatty() and done < totals[category] else "\n"
            print(f"clipsam: {category} {done}/{totals[category]}", file=sys.stderr, end=end, flush=True)

    return tell


def _print(result: Evaluation, track: str | None, out: Path) -> None:
    from clipsam.evaluation_table import beside_published, to_text

    typer.echo(to_text(result))
    published = beside_published(result, track or _track(result))
    if published:
        typer.echo(f"\n{published}")
    typer.echo(f"\nmetrics.json, metrics.csv: {out}")


def _track(result: Evaluation) -> str:
    """What the method has seen: nano was trained on masks, though on rendered ones, an adapter on those of
    other photos; the others on none.
    """
    methods = [entry["method"] for entry in result.categories.values()]
    saw_masks = all(method.get("preset") == "nano" or method.get("adapter") for method in methods)
    return "aux" if saw_masks else "training-free"


def _say(text: str) -> None:
    typer.echo(f"clipsam: {text}", err=True)
