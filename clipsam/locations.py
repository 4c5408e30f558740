"""Locations: where a model's files lie on this machine, whether they are all there, and unchanged.

Input: a specification of a model. Output: a `Location`. The order of looking: a pack (argument, else
$CLIPSAM_MODELS), the hub cache, the specification's own folder (the embedded pair). Reads names and hashes;
knows nothing of torch, and never touches the network (`clipsam/pull.py` does).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsam import hub
from clipsam.errors import WeightsError
from clipsam.hashes import file_sha256, files_sha256
from clipsam.packs import INDEX, FileCheck, PackedModel, check_model, read_index
from clipsam.presets import EMBEDDED, PRESETS, ClipSpec, ModelSpec

CLIP_CONFIG = "open_clip_config.json"
CLIP_WEIGHTS = (  # in open_clip's own order of preference inside a local-dir
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
SAM_CONFIG = "config.json"
SAM_WEIGHTS = "model.safetensors"
SAM_SHARDS = "model.safetensors.index.json"
SAM_PROCESSOR = ("preprocessor_config.json", "processor_config.json")  # of transformers 4, and since 5


@dataclass(frozen=True)
class Location:
    """Where a model lies. `place`: `pack`, `hub cache`, `embedded` or `folder`; `missing`: files it lacks."""

    spec: ModelSpec
    place: str
    folder: Path
    missing: tuple[str, ...] = ()
    record: PackedModel | None = None  # from the index of the pack

    @property
    def complete(self) -> bool:
        return not self.missing

    @property
    def weights(self) -> tuple[Path, ...]:
        """The weights file, or the shards, that are loaded."""
        return _clip_weights(self.folder) if _is_open_clip(self.spec) else _sam_weights(self.folder)

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the weights file (of several: see `files_sha256`)."""
        return files_sha256(self.weights)

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(path.stat().st_size for path in self.weights if path.is_file())

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that loading needs, weights first."""
        extra: tuple[str, ...] = (SAM_CONFIG, SAM_SHARDS, *SAM_PROCESSOR)
        if isinstance(self.spec, ClipSpec):
            # Most built-in architectures have open_clip's own tokenizer; other configs may name files beside.
            own = self.spec.own_tokenizer or not self.spec.architecture
            config = (CLIP_CONFIG,) if _is_open_clip(self.spec) else (SAM_CONFIG, SAM_SHARDS)
            extra = (*config, *TOKENIZER_FILES) if own else config
        return self.weights + tuple(self.folder / name for name in extra if (self.folder / name).is_file())


def pack_folder(models_dir: str | Path | None = None) -> Path | None:
    """The pack to look into first: the argument, else $CLIPSAM_MODELS, else None.

    `WeightsError` if that directory does not exist.
    """
    chosen = models_dir or os.environ.get("CLIPSAM_MODELS")
    if not chosen:
        return None
    folder = Path(chosen).expanduser()
    if not folder.is_dir():
        origin = "--models" if models_dir else "CLIPSAM_MODELS"
        raise WeightsError(
            f"{origin} names {folder}, which is no directory; expected a pack made by `clipsam models pull`"
        )
    return folder


def locate(spec: ModelSpec, models_dir: str | Path | None = None) -> Location | None:
    """Where the model lies: the first complete place, else the first incomplete one, else None.

    What the index of a pack lists is taken from the pack or not at all, so that a damaged pack is noticed.
    """
    places = []
    for place in _places(spec, models_dir):
        if place.complete or place.record is not None:
            return place
        places.append(place)
    return places[0] if places else None


def need(spec: ModelSpec, models_dir: str | Path | None = None) -> Location:
    """Like `locate`, for a model that must be there; the `WeightsError` says which command brings it."""
    location = locate(spec, models_dir)
    if location is None:
        raise WeightsError(f"the weights of {spec.name} are not on this machine; {remedy(spec)}")
    if not location.complete:
        lacking = " and ".join(location.missing)
        raise WeightsError(
            f"{spec.name} in {location.folder} is incomplete: {lacking} is missing; {remedy(spec)}"
        )
    return location


def prove(location: Location) -> None:
    """Compare the files with the index of their pack, if any; `WeightsError` on the first that differs."""
    if location.record is None:
        return
    for check in check_model(location.spec.name, location.folder, location.record.files, fresh=False):
        if check.differs:
            raise WeightsError(
                f"{location.folder / check.file} is {check.state} against {INDEX} "
                f"(recorded {check.expected or 'nothing'}, found {check.found or 'nothing'}); "
                f"{remedy(location.spec)}"
            )


def verify_present(models_dir: str | Path | None = None) -> list[FileCheck]:
    """Read every byte of every preset's model that is on this machine and compare it with what was recorded.

    Records are the index of a pack, or in the hub cache the hash that the hub declares; else: `unproven`.
    """
    specs = dict.fromkeys(spec for preset in PRESETS.values() for spec in preset.models)
    checks: list[FileCheck] = []
    for location in filter(None, (locate(spec, models_dir) for spec in specs)):
        if location.record is not None:
            name = location.spec.name
            checks += check_model(name, location.folder, location.record.files, fresh=True)
        else:
            checks += [_check_alone(location, file) for file in location.files if file.is_file()]
            checks += [FileCheck(location.spec.name, file, "missing") for file in location.missing]
    return checks


def remedy(spec: ModelSpec) -> str:
    """What brings the weights of `spec`, as the end of a sentence."""
    if spec.kind == "proxy" and spec.repo:
        return (
            f"fetch {spec.repo} into the hub cache (`hf download {spec.repo}`), or put its files into "
            f"{spec.name} of the folder that --models or CLIPSAM_MODELS names"
        )
    if spec.repo:
        preset = next((preset.name for preset in PRESETS.values() if spec in preset.models), "PRESET")
        return (
            f"fetch it with `clipsam models pull {preset}`, or, if this machine has no internet, make a pack "
            f"elsewhere with `clipsam models pull {preset} --to DIR` and give it as --models DIR or "
            "CLIPSAM_MODELS=DIR"
        )
    if EMBEDDED in Path(spec.folder).parents:
        return "it is part of the package: install clipsam again"
    files = (
        (CLIP_CONFIG, CLIP_WEIGHTS[0]) if spec.kind == "clip" else (SAM_CONFIG, SAM_PROCESSOR[0], SAM_WEIGHTS)
    )
    return f"put {', '.join(files)} into {spec.folder or spec.name}"


def read_json(path: Path) -> dict[str, Any]:
    """A model's JSON file; `WeightsError` if it is missing, broken or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as JSON ({error}); fetch the model again") from error
    if not isinstance(content, dict):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}; expected an object; fetch the model again"
        )
    return content


def _places(spec: ModelSpec, models_dir: str | Path | None) -> Iterator[Location]:
    pack = pack_folder(models_dir)
    if pack is not None:
        record = _recorded(pack, spec)
        folder = pack / ((record and record.folder) or spec.name)
        if record is not None or folder.is_dir():
            yield _location(spec, "pack", folder, record)
    if spec.repo:
        keys = CLIP_WEIGHTS if _is_open_clip(spec) else (SAM_WEIGHTS, SAM_SHARDS, SAM_CONFIG)
        if snapshot := hub.cached_folder(spec.repo, spec.revision, keys):
            yield _location(spec, "hub cache", snapshot)
    if spec.folder and (folder := Path(spec.folder)).is_dir():
        place = "embedded" if EMBEDDED in folder.parents else "folder"
        yield _location(spec, place, folder, _recorded(folder.parent, spec))


def _recorded(pack: Path, spec: ModelSpec) -> PackedModel | None:
    index = read_index(pack)
    return index.models.get(spec.name) if index else None


def _location(spec: ModelSpec, place: str, folder: Path, record: PackedModel | None = None) -> Location:
    missing = _clip_missing(spec, folder) if isinstance(spec, ClipSpec) else _saved_missing(folder)
    return Location(spec, place, folder, tuple(missing), record)


def _clip_weights(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in CLIP_WEIGHTS if (folder / name).is_file())[:1]


def _is_open_clip(spec: ModelSpec) -> bool:
    return isinstance(spec, ClipSpec) and spec.library == "open_clip"


def _clip_missing(spec: ClipSpec, folder: Path) -> list[str]:
    own = [TOKENIZER_FILES[0]] if spec.own_tokenizer else []
    if not _is_open_clip(spec):
        needed = (folder / SAM_CONFIG, *_sam_weights(folder), *(folder / name for name in own))
        return [path.name for path in needed if not path.is_file()]
    missing = [name for name in own if not (folder / name).is_file()]
    missing += [] if _clip_weights(folder) else [CLIP_WEIGHTS[0]]
    # Bare weights, which is what open_clip's own downloads leave, are enough for a built-in architecture.
    return missing if spec.architecture or (folder / CLIP_CONFIG).is_file() else [CLIP_CONFIG, *missing]


def _sam_weights(folder: Path) -> tuple[Path, ...]:
    if (folder / SAM_WEIGHTS).is_file() or not (folder / SAM_SHARDS).is_file():
        return (folder / SAM_WEIGHTS,)
    shards = read_json(folder / SAM_SHARDS).get("weight_map", {})
    return tuple(folder / name for name in sorted(set(shards.values())))


def _saved_missing(folder: Path) -> list[str]:
    missing = [path.name for path in (folder / SAM_CONFIG, *_sam_weights(folder)) if not path.is_file()]
    return (
        missing if any((folder / name).is_file() for name in SAM_PROCESSOR) else [*missing, SAM_PROCESSOR[0]]
    )


def _check_alone(location: Location, path: Path) -> FileCheck:
    """A file that no index lists, against the hash that the hub declared for it, if it did."""
    expected = (hub.declared_sha256(path) if location.place == "hub cache" else None) or ""
    found = file_sha256(path, fresh=True)
    state = "unproven" if not expected else "ok" if found == expected else "changed"
    return FileCheck(location.spec.name, path.name, state, expected, found)
