"""`clipsam bench`: how long a photo takes here, stage by stage, beside the bare networks. Wiring only."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from clipsam.cli._options import Compiled, Device, Exported, ModelsDir, PresetName, Sam

if TYPE_CHECKING:
    from clipsam.bench import Bench


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("bench")(bench_command)


def bench_command(
    preset: PresetName = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights",
            help="Random weights for models that are not on this machine: speed does not depend on them.",
        ),
    ] = False,
    sam: Sam = True,
    size: Annotated[int, typer.Option(min=32, metavar="PX", help="Sides of the rendered photo.")] = 1024,
    dtype: Annotated[
        str, typer.Option(metavar="float32|bfloat16", help="Of the image encoders.")
    ] = "float32",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores for the models; torch's own choice by default.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often all is measured; medians are shown.")] = 10,
    models_dir: ModelsDir = None,
    exported: Exported = None,
    compiled: Compiled = False,
    device: Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Measure the time of a photo, stage by stage, and against the bare networks in the same run."""
    from clipsam.bench import bench, bench_segmenter, part
    from clipsam.devices import compute_on
    from clipsam.runs.manifest import versions

    if threads:
        compute_on(threads)
    segmenter, drawn = bench_segmenter(
        preset,
        random_weights=random_weights,
        sam=sam,
        device=device,
        dtype=dtype,
        models_dir=models_dir,
        exported=exported,
        compiled=compiled,
    )
    for name in drawn:
        typer.echo(
            f"clipsam: {name} is not on this machine; its architecture runs with random weights", err=True
        )
    found = bench(segmenter, part(size), rounds, drawn)
    if as_json:
        manifest = segmenter.manifest() | {"versions": versions()}
        typer.echo(json.dumps(found.as_dict() | {"manifest": manifest}, indent=2))
        return
    typer.echo(table(found))


def table(found: Bench) -> str:
    """The figures for people."""
    height, width = found.size
    threads = f", {found.threads} threads" if found.device == "cpu" else ""
    how = " ".join(found.programs.values()) if found.programs else found.dtype
    how += ", compiled" if found.compiled else ""
    lines = [
        f"{found.preset}: photo of {width} x {height} px, {how}, {found.device}{threads}, "
        f"medians of {len(found.rounds)} rounds",
        "",
        f"{'stage':<14} {'ms':>9} {'share':>7}",
    ]
    lines += [f"{name:<14} {ms:>9.1f} {ms / found.segment:>7.1%}" for name, ms in found.stages.items()]
    seen = ", ".join("x".join(map(str, shape)) for shape in found.passes)
    lines += [
        f"{'segment':<14} {found.segment:>9.1f}          {found.photos_per_second:.2f} photos per second",
        "",
        f"{'bare CLIP':<14} {found.bare_clip:>9.1f}          {seen}",
    ]
    if found.sam:
        asked = f"{_count(found.embeddings, 'embedding')}, {_count(sum(found.questions), 'question')} in "
        asked += f"{_count(len(found.questions), 'pass', 'passes')} about {_count(found.regions, 'region')}"
        lines.append(f"{'bare SAM':<14} {found.bare_sam:>9.1f}          {asked}")
    lines.append(f"{'overhead':<14} {found.overhead:>9.2f}          segment / bare passes, round by round")
    if found.processor_overhead is not None:
        lines.append(f"{'':<14} {found.processor_overhead:>9.2f}          the same, by processor time")
    if found.sam:
        lines.append(f"{'':<14} {found.overhead_once:>9.2f}          beside one embedding and one question")
    if found.peak_memory_mb is not None:
        lines.append(f"{'peak memory':<14} {found.peak_memory_mb:>9} MB")
    return "\n".join(lines)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
