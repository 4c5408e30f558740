"""Options that verbs with a warm segmenter share, and the segmenter that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from clipsam.segmenter import AnomalySegmenter

Product = Annotated[str, typer.Option(help="What the photos show, in a few words, such as 'bottle'.")]
Prompts = Annotated[
    str | None, typer.Option(metavar="FILE|NAME", help="Another prompt file; see clipsam prompts.")
]
Defects = Annotated[list[str] | None, typer.Option(help="Look for this type too; may be repeated.")]
PresetName = Annotated[str | None, typer.Option(help="The pair of models; by default the best that is here.")]
References = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|FILE",
        help="Photos of flawless parts to compare with, or a file that keeps what they show.",
    ),
]
Sam = Annotated[bool, typer.Option("--sam/--no-sam", help="Refine with SAM, or keep CLIP's map as it is.")]
AdapterFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A map of clipsam train umci instead of the text map.")
]
Threshold = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Where the anomaly map becomes a region; the preset's by default."),
]
CalibrationFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Thresholds of clipsam calibrate: OK or defective, with a promised rate."
    ),
]
RoiFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Where to look: polygons per product (.json), or a mask image."),
]
ModelsDir = Annotated[
    Path | None,
    typer.Option(
        "--models", metavar="DIR", help="A pack of weights to look into first (else $CLIPSAM_MODELS)."
    ),
]
Exported = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Run the image towers by the programs of clipsam export.")
]
Compiled = Annotated[
    bool,
    typer.Option("--compile", help="Let torch compile the image towers: a minute once, then seconds."),
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU by default where there is one.")
]
BitDepth = Annotated[
    int | None,
    typer.Option(min=9, max=32, help="Used bits of 16-bit grey and float photos, such as 12, if not all."),
]
Maps = Annotated[str, typer.Option(metavar="png16|tiff|none", help="How anomaly maps are kept.")]
Overlays = Annotated[
    bool, typer.Option("--overlays/--no-overlays", help="Keep the photos with their regions drawn in.")
]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|URL|none",
        help="The station's database; $CLIPSAM_STORE or a file in your data folder by default.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]


def load_segmenter(preset: str | None, *, at_once: bool = False, **setup: Any) -> AnomalySegmenter:
    """The segmenter that the options describe, which `AnomalySegmenter.from_preset` explains; says on stderr
    which pair of models it is. `at_once`: several photos will be segmented at once, see `share_cores`.
    """
    from clipsam.cli._threads import leave_a_core, split_cores
    from clipsam.devices import usable_device
    from clipsam.segmenter import AnomalySegmenter

    leave_a_core()
    if at_once and setup.get("compiled") and usable_device(setup.get("device")) == "cpu":
        split_cores()  # before: code is compiled for a number of threads
    segmenter = AnomalySegmenter.from_preset(preset, **setup)
    typer.echo(f"clipsam: {segmenter.choice}", err=True)
    return segmenter
