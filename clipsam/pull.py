"""Pull: bring a preset's models onto this machine, into the hub cache or into a pack to be carried elsewhere.

Input: a preset and perhaps a directory. Output: where each model lies now. What is on this machine already is
copied rather than fetched. Knows nothing of loading; the network is in `clipsam/hub.py`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from clipsam import hub
from clipsam.errors import UsageError, WeightsError
from clipsam.locations import (
    CLIP_CONFIG,
    CLIP_WEIGHTS,
    SAM_CONFIG,
    SAM_PROCESSOR,
    SAM_SHARDS,
    SAM_WEIGHTS,
    TOKENIZER_FILES,
    Location,
    locate,
    prove,
)
from clipsam.packs import PackedModel, check_model, read_index, record_files, write_index
from clipsam.presets import ClipSpec, ModelSpec, Preset


@dataclass(frozen=True)
class Pulled:
    """One model after a pull. `how` is `present` (nothing to do), `copied` or `fetched`."""

    spec: ModelSpec
    folder: Path
    how: str


def pull(
    preset: Preset,
    to: Path | None = None,
    models_dir: str | Path | None = None,
    announce: Callable[[str], None] = lambda line: None,
) -> list[Pulled]:
    """Bring both models of `preset`; `to` makes or extends a pack. `announce` gets a line before long steps.

    `WeightsError` if something cannot be fetched; what was done before stays, and the next call goes on.
    """
    if to is None:
        return [_into_cache(spec, models_dir, announce) for spec in preset.models]
    if to.exists() and not to.is_dir():
        raise UsageError(f"--to {to} is a file; expected a directory, which is made if it does not exist")
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"--to {to} cannot be made: {error.strerror}; expected a directory to write to"
        ) from error
    return [_into_pack(spec, to, models_dir, announce) for spec in preset.models]


def _into_cache(spec: ModelSpec, models_dir: str | Path | None, announce: Callable[[str], None]) -> Pulled:
    location = locate(spec, models_dir)
    if location is not None and location.complete:
        return Pulled(spec, location.folder, "present")
    if not spec.repo:
        raise WeightsError(f"{spec.name} is not on the hub: it is part of the package; install clipsam again")
    announce(f"fetching {spec.name} from {spec.repo} (about {spec.size / 1e6:.0f} MB)")
    folder, _ = hub.download(spec.repo, spec.revision, _chooser(spec))
    return Pulled(spec, folder, "fetched")


def _into_pack(
    spec: ModelSpec, pack: Path, models_dir: str | Path | None, announce: Callable[[str], None]
) -> Pulled:
    """Fill `pack/<name>` by way of `pack/<name>.partial`, so that a folder of that name is always whole."""
    index = read_index(pack)
    models = dict(index.models) if index else {}
    folder, scratch = pack / spec.name, pack / f"{spec.name}.partial"
    if spec.name in models and not _damaged(spec, pack, models[spec.name]):
        return Pulled(spec, pack / (models[spec.name].folder or spec.name), "present")
    source = locate(spec, models_dir)
    if source is not None and source.complete and source.folder.resolve() != folder.resolve():
        announce(f"copying {spec.name} from {source.folder}")
        prove(source)
        _copy(source, scratch)
        how, origin = "copied", _origin(source)
    elif spec.repo:
        announce(f"fetching {spec.name} from {spec.repo} (about {spec.size / 1e6:.0f} MB)")
        _, commit = hub.download(spec.repo, spec.revision, _chooser(spec), scratch)
        shutil.rmtree(scratch / ".cache", ignore_errors=True)  # the hub client's notes about the download
        how, origin = "fetched", f"{spec.repo}@{commit}"
    else:
        raise WeightsError(f"{spec.name} is not on the hub and not in {spec.folder}; install clipsam again")
    _complete_clip(spec, scratch)
    shutil.rmtree(folder, ignore_errors=True)
    scratch.rename(folder)
    weights_hash = Location(spec, "pack", folder).weights_hash
    models[spec.name] = PackedModel(spec.kind, origin, spec.licence, weights_hash, record_files(folder))
    write_index(pack, models)
    return Pulled(spec, folder, how)


def _damaged(spec: ModelSpec, pack: Path, record: PackedModel) -> bool:
    checks = check_model(spec.name, pack / (record.folder or spec.name), record.files, fresh=False)
    return any(check.differs for check in checks)


def _copy(source: Location, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    try:
        for path in source.files:
            shutil.copyfile(path, target / path.name)
    except OSError as error:
        raise WeightsError(
            f"{source.spec.name} cannot be copied to {target}: {error.strerror or error}"
        ) from error


def _origin(source: Location) -> str:
    if source.record is not None:
        return source.record.source
    # A snapshot's folder in the hub cache is named after its commit.
    return f"{source.spec.repo}@{source.folder.name}" if source.place == "hub cache" else source.place


def _complete_clip(spec: ModelSpec, folder: Path) -> None:
    """Write the config that makes bare weights an open_clip local-dir, with the mean and std of the tag."""
    if not isinstance(spec, ClipSpec) or spec.library != "open_clip" or (folder / CLIP_CONFIG).is_file():
        return
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg
    from open_clip.transform import PreprocessCfg

    of_tag = get_pretrained_cfg(spec.architecture, spec.tag)
    preprocess = {key: of_tag[key] for key in (f.name for f in fields(PreprocessCfg)) if key in of_tag}
    if not {"mean", "std"} <= preprocess.keys():
        raise WeightsError(f"open_clip knows no mean and std for {spec.architecture} with tag {spec.tag!r}")
    config = {"model_cfg": open_clip.get_model_config(spec.architecture), "preprocess_cfg": preprocess}
    (folder / CLIP_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _chooser(spec: ModelSpec) -> hub.CHOOSE:
    """Picks the files that are needed; other formats of the same weights would double the download."""

    def choose(names: Sequence[str]) -> list[str]:
        own = TOKENIZER_FILES if isinstance(spec, ClipSpec) and spec.own_tokenizer else ()
        if isinstance(spec, ClipSpec) and spec.library == "open_clip":
            weights = [name for name in CLIP_WEIGHTS if name in names][:1]
            return weights + [name for name in (CLIP_CONFIG, *own) if name in names]
        weights = (
            [SAM_WEIGHTS]
            if SAM_WEIGHTS in names
            else [n for n in names if n.endswith((".safetensors", SAM_SHARDS))]
        )
        return weights + [name for name in (SAM_CONFIG, *SAM_PROCESSOR, *own) if name in names]

    return choose
