"""EvalProtocol: how a dataset is scored, and by which method, from a TOML file: two people then do it alike.

Input: the name of a shipped protocol (`eval/protocols/*.toml`) or a path. Output: `EvalProtocol`. The tables
[heatmap], [regions], [sam_settings] and [fusion] hold fields of the classes in `settings.py` and change the
preset. Knows nothing of datasets and models beyond their names.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from clipsam.errors import UsageError
from clipsam.presets import Preset, ProxySpec, choose_preset
from clipsam.settings import (
    ConsensusSettings,
    FusionSettings,
    HeatmapSettings,
    LayerSettings,
    ReferenceSettings,
    RegionSettings,
    SamSettings,
)


@dataclass(frozen=True)
class EvalProtocol:
    """What a table must say about how it was made. None leaves a choice to the caller's defaults."""

    title: str = ""
    split: str = "test"  # the only one that is scored
    resolution: int | None = (
        None  # side in px of the compared square; None (in files "photo"): the photo's own size
    )
    preset: str | None = None
    prompts: str | None = None
    sam: bool = True
    trained_on: str | None = None  # the dataset that an adapter must have been trained on; None: no adapter
    umci: dict[str, Any] | None = None  # these two are read by `clipsam train umci --config`
    training: dict[str, Any] | None = None
    references: str | None = None  # a number of good training photos per category, or a folder of photos
    consensus: bool = False  # the test photos of a category are each other's reference
    proxy: str | None = (
        None  # a folder, or a repository on the hub, of the second encoder for attention "proxy"
    )
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # the tables, by name

    def method(self, models_dir: str | Path | None = None) -> Preset:
        """The preset of this protocol, or the best that is here, with the fields of the tables in place."""
        preset = choose_preset(self.preset, models_dir).preset
        changed: dict[str, Any] = {
            stage: replace(getattr(preset, stage), **values) for stage, values in self.stages.items()
        }
        if self.proxy is not None:
            name, is_folder = Path(self.proxy).name, Path(self.proxy).is_dir()
            changed["proxy"] = (
                ProxySpec(name, folder=self.proxy) if is_folder else ProxySpec(name, repo=self.proxy)
            )
        return replace(preset, **changed)


_STAGES: dict[str, type] = {
    "heatmap": HeatmapSettings,
    "regions": RegionSettings,
    "sam_settings": SamSettings,
    "fusion": FusionSettings,
    "layers": LayerSettings,
    "reference_settings": ReferenceSettings,
    "consensus_settings": ConsensusSettings,
}
_EXPECTED = {
    "title": (str, "a text"),
    "split": (str, 'the text "test"'),
    "resolution": (int, 'a side in px, or "photo"'),
    "preset": (str, "the name of a preset"),
    "prompts": (str, "the name or path of a prompt file"),
    "sam": (bool, "true or false"),
    "references": (str, "a number or a folder, in quotes"),
    "consensus": (bool, "true or false"),
    "proxy": (str, "a folder, or a repository on the hub"),
    "trained_on": (str, 'a kind of dataset, or "rendered"'),
    "umci": (dict, "a table"),
    "training": (dict, "a table"),
}


def load_protocol(name_or_path: str | Path) -> EvalProtocol:
    """Read a protocol by shipped name or path; `UsageError` says file, key and what was expected."""
    path = _find(name_or_path)
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as a protocol: {error}") from error
    if values.get("resolution") == "photo":
        del values["resolution"]
    stages = {key: _stage(path, key, values.pop(key)) for key in _STAGES if key in values}
    for key, value in values.items():
        _check(path, key, value)
    return EvalProtocol(**values, stages=stages)


def shipped_protocols() -> dict[str, Path]:
    """Names and paths of the shipped protocols, in an installed package or beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "_eval" / "protocols", package.parent / "eval" / "protocols"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


def _find(name_or_path: str | Path) -> Path:
    shipped = shipped_protocols()
    path = shipped.get(str(name_or_path), Path(name_or_path))
    if not path.is_file():
        raise UsageError(
            f"found no protocol '{name_or_path}'; expected a TOML file or one of {', '.join(shipped)}."
        )
    return path


def _stage(path: Path, table: str, values: Any) -> dict[str, Any]:
    """Fields of one stage, lists as tuples; `UsageError` for a key or value that it does not have."""
    if not isinstance(values, dict):
        raise UsageError(f"{path}: the key '{table}' is {values!r}; expected a table [{table}].")
    defaults = _STAGES[table]()
    found = {}
    for key, value in values.items():
        if key not in (known := vars(defaults)):
            raise UsageError(f"{path}: [{table}] has no key '{key}'; expected one of {', '.join(known)}.")
        value = tuple(value) if isinstance(value, list) else value
        kinds = {bool: (bool,), int: (int,), float: (int, float), type(None): (int,)}
        expected = kinds.get(type(known[key]), (type(known[key]),))
        if type(value) not in expected:
            words = "a list" if expected == (tuple,) else expected[-1].__name__
            raise UsageError(f"{path}: [{table}] {key} is {value!r}; expected {words}.")
        found[key] = value
    try:
        replace(defaults, **found)
    except UsageError as error:
        raise UsageError(f"{path}: [{table}] {error}") from error
    return found


def _check(path: Path, key: str, value: Any) -> None:
    if key not in _EXPECTED:
        known = ", ".join([*_EXPECTED, *(f"[{stage}]" for stage in _STAGES)])
        raise UsageError(f"{path}: the key '{key}' is unknown; expected one of {known}.")
    kind, words = _EXPECTED[key]
    fits = type(value) is kind and (key != "split" or value == "test")
    if not fits:
        raise UsageError(f"{path}: the key '{key}' is {value!r}; expected {words}.")
