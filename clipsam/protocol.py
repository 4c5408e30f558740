"""EvalProtocol: how a dataset is scored, read from a TOML file so that two people score it alike.

Input: the name of a shipped protocol (`eval/protocols/*.toml`) or a path. Output: `EvalProtocol`. Knows
nothing of datasets and models beyond their names.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clipsam.errors import UsageError


@dataclass(frozen=True)
class EvalProtocol:
    """What a table must say about how it was made. None leaves a choice to the caller's defaults."""

    title: str = ""
    split: str = "test"  # the only one there is: nothing is trained
    resolution: int | None = (
        None  # side in px of the compared square; None (in files "photo"): the photo's own size
    )
    preset: str | None = None
    prompts: str | None = None
    sam: bool = True


_EXPECTED = {
    "title": (str, "a text"),
    "split": (str, 'the text "test"'),
    "resolution": (int, 'a side in px, or "photo"'),
    "preset": (str, "the name of a preset"),
    "prompts": (str, "the name or path of a prompt file"),
    "sam": (bool, "true or false"),
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
    for key, value in values.items():
        _check(path, key, value)
    return EvalProtocol(**values)


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


def _check(path: Path, key: str, value: Any) -> None:
    if key not in _EXPECTED:
        known = ", ".join(field.name for field in fields(EvalProtocol))
        raise UsageError(f"{path}: the key '{key}' is unknown; expected one of {known}.")
    kind, words = _EXPECTED[key]
    fits = type(value) is kind and (key != "split" or value == "test")
    if not fits:
        raise UsageError(f"{path}: the key '{key}' is {value!r}; expected {words}.")
