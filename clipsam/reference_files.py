"""Reference memories as files: the patches, the settings and the hash of the model in one safetensors file.

Input: a `ReferenceMemory` or a path. Output: the other. A memory of another model or of other settings is
refused: its numbers would mean nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from clipsam.clip import ClipEncoder
from clipsam.errors import UsageError, WeightsError
from clipsam.memory import Grading, Scaling
from clipsam.references import ReferenceMemory, Words
from clipsam.settings import LayerSettings, ReferenceSettings

FORMAT = "clipsam-references-2"
SUFFIX = ".safetensors"


def save_references(memory: ReferenceMemory, path: str | Path) -> Path:
    """Write a memory, features in float16, in one step: nobody meets half a file."""
    path = Path(path)
    if path.suffix != SUFFIX:
        raise UsageError(f"references are kept as {SUFFIX} files, but {path} is asked for; rename it")
    tensors = {f"view.{n}": view.half().contiguous() for n, view in enumerate(memory.views)}
    for number, (mean, spread) in enumerate(memory.scaling.channels or ()):
        tensors |= {f"mean.{number}": mean.contiguous(), f"spread.{number}": spread.contiguous()}
    if memory.texts is not None:
        tensors["texts"] = memory.texts.contiguous()
    facts = {
        "words": memory.words,
        "weights": memory.encoder.weights_hash,
        "settings": _settings(memory.layers, memory.settings),
        "middle": memory.grading.middle,
        "position": memory.position,
        "photos": memory.photos,
        "photos_hash": memory.photos_hash,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    save_file(tensors, fresh, metadata={"format": FORMAT, "facts": json.dumps(facts)})
    os.replace(fresh, path)
    return path


def load_references(
    path: str | Path,
    encoder: ClipEncoder,
    layers: LayerSettings | None = None,
    settings: ReferenceSettings | None = None,
    words: Words | None = None,
) -> ReferenceMemory:
    """Read a memory that was made with this encoder under these settings, and about these words where it
    keeps what they say.

    Raises `WeightsError` for a damaged file or one of another model, `UsageError` for other settings.
    """
    path, layers, settings = Path(path), layers or LayerSettings(), settings or ReferenceSettings()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as references ({error}); make them anew") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path} holds no references; expected a file that --save-references wrote")
    facts = json.loads(metadata["facts"])
    _check(path, facts, encoder, _settings(layers, settings))
    texts = tensors.pop("texts", None)
    if texts is not None and words is not None and facts["words"] != words.hash:
        raise UsageError(
            f"{path} was made for another product or with other sentences; name the product that it was made "
            "for, or make the references anew from their photos"
        )
    count = sum(name.startswith("mean.") for name in tensors)
    channels = tuple((tensors[f"mean.{n}"], tensors[f"spread.{n}"]) for n in range(count))
    views = [tensors[f"view.{n}"].float() for n in range(len(tensors) - 2 * count)]
    return ReferenceMemory(
        encoder=encoder,
        layers=layers,
        settings=settings,
        views=tuple(views),
        scaling=Scaling(channels or None),
        grading=Grading(facts["middle"], settings.steepness),
        position=facts["position"],
        photos=facts["photos"],
        photos_hash=facts["photos_hash"],
        texts=texts,
        words=facts["words"],
    )


def _check(path: Path, facts: dict[str, Any], encoder: ClipEncoder, settings: dict[str, Any]) -> None:
    if facts["weights"] != encoder.weights_hash:
        raise WeightsError(
            f"{path} was made with other weights ({facts['weights'][:12]}) than those of {encoder.name} "
            f"({encoder.weights_hash[:12]}); make the references anew from their photos"
        )
    before = facts["settings"]
    changed = sorted(
        name for name in before.keys() | settings.keys() if before.get(name) != settings.get(name)
    )
    if changed:
        raise UsageError(
            f"{path} was made with another {', '.join(changed)}; use the preset that it was made with, "
            "or make the references anew from their photos"
        )


def _settings(layers: LayerSettings, settings: ReferenceSettings) -> dict[str, Any]:
    """Both as JSON gives them back, lists for tuples."""
    return dict(json.loads(json.dumps({**asdict(layers), **asdict(settings)})))
