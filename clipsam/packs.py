"""Packs: a directory of models for machines without internet, with an index that proves every file.

    DIR/pack.json                    format, versions; per model: source, licence, weights hash, files
    DIR/ViT-L-14-336.openai/         an open_clip local-dir
    DIR/sam-vit-huge/                as written by transformers' save_pretrained

Input and output: directories and `PackIndex`. Knows nothing of the hub or of how models are loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from clipsam.errors import WeightsError
from clipsam.hashes import file_sha256

INDEX = "pack.json"
FORMAT = "clipsam-pack-1"


@dataclass(frozen=True)
class PackedFile:
    """What the index records of one file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class PackedModel:
    """What the index records of one model; `files` by name inside the model's folder."""

    kind: str
    source: str
    licence: str
    weights_hash: str
    files: Mapping[str, PackedFile]
    folder: str = ""  # inside the pack; empty: the model's name

    def __post_init__(self) -> None:
        for name in (self.folder, *self.files):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} leads out of the pack")


@dataclass(frozen=True)
class PackIndex:
    """The content of `pack.json`."""

    models: Mapping[str, PackedModel] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileCheck:
    """One file against its record.

    `state`: `ok`, `changed`, `missing`, `unlisted` (in the folder, not in the index), `unproven` (no record).
    """

    model: str
    file: str
    state: str
    expected: str = ""
    found: str = ""

    @property
    def differs(self) -> bool:
        return self.state not in {"ok", "unproven"}


def read_index(pack: Path) -> PackIndex | None:
    """The index of a pack, None if the directory has none; `WeightsError` if it cannot be understood."""
    path = pack / INDEX
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"format {content['format']!r}")
        return PackIndex(
            {name: _model(entry) for name, entry in content["models"].items()}, content["versions"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path} is not an index of format {FORMAT} ({error}); "
            "make the pack again with `clipsam models pull PRESET --to DIR`"
        ) from error


def write_index(pack: Path, models: Mapping[str, PackedModel]) -> None:
    """Write `pack.json` for `models`, whole or not at all."""
    content = {
        "format": FORMAT,
        "versions": _versions(),
        "models": {name: asdict(models[name]) for name in sorted(models)},
    }
    scratch = pack / f"{INDEX}.{os.getpid()}"
    scratch.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    os.replace(scratch, pack / INDEX)


def index_pair(pack: Path, source: str, licence: str) -> None:
    """Make a pack of a training's folder: `clip/` and `sam/` become the models `nano-clip` and `nano-sam`."""
    models = {}
    for kind, weights in (("clip", "open_clip_model.safetensors"), ("sam", "model.safetensors")):
        files = record_files(pack / kind) if (pack / kind).is_dir() else {}
        if weights not in files:
            raise WeightsError(
                f"{pack / kind} holds no {weights}; expected a finished training of the embedded pair"
            )
        models[f"nano-{kind}"] = PackedModel(kind, source, licence, files[weights].sha256, files, folder=kind)
    write_index(pack, models)


def record_files(folder: Path) -> dict[str, PackedFile]:
    """Hash and size of every file of a model's folder, by name; hidden files are left out."""
    return {
        path.name: PackedFile(file_sha256(path), path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.is_file() and not path.name.startswith(".")
    }


def check_model(
    name: str, folder: Path, recorded: Mapping[str, PackedFile], *, fresh: bool
) -> list[FileCheck]:
    """Compare a model's folder with its record, file by file; `fresh` re-reads every byte."""
    checks = []
    for file, record in recorded.items():
        path = folder / file
        found = file_sha256(path, fresh=fresh) if path.is_file() else ""
        state = "missing" if not found else "ok" if found == record.sha256 else "changed"
        checks.append(FileCheck(name, file, state, record.sha256, found))
    present = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    strangers = sorted(file for file in present if file not in recorded and not file.startswith("."))
    return checks + [FileCheck(name, file, "unlisted") for file in strangers]


def verify_pack(pack: Path) -> list[FileCheck]:
    """Compare every model of a pack with its index, reading every byte; `WeightsError` if it is no pack."""
    if not pack.is_dir():
        raise WeightsError(
            f"there is no directory {pack}; expected a pack made by `clipsam models pull PRESET --to DIR`"
        )
    index = read_index(pack)
    if index is None:
        raise WeightsError(
            f"{pack} holds no {INDEX}, so nothing proves its files; "
            "expected a pack made by `clipsam models pull PRESET --to DIR`"
        )
    return [
        check
        for name, model in index.models.items()
        for check in check_model(name, pack / (model.folder or name), model.files, fresh=True)
    ]


def _model(entry: dict) -> PackedModel:
    files = {file: PackedFile(**record) for file, record in entry["files"].items()}
    return PackedModel(**{**entry, "files": files})


def _versions() -> dict[str, str]:
    versions = {}
    for package in ("clipsam", "open_clip_torch", "transformers", "torch", "safetensors"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
