"""The recipe of the embedded pair: a TOML file with the tables [clip] and [sam] -> the two training
configurations.

Every key is a field of `ClipTraining` or `SamTraining`; what a file leaves out keeps its default, and the
defaults are what the model card compares the shipped weights with. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from clipsam.nano.train_clip import ClipTraining
from clipsam.nano.train_sam import SamTraining
from clipsam.tomlfile import TomlFile, describe

Training = TypeVar("Training", ClipTraining, SamTraining)


def read_recipe(path: Path | None) -> tuple[ClipTraining, SamTraining]:
    """Read a recipe, or return the default one. Raises `PromptError` naming file, line and key."""
    if path is None:
        return ClipTraining(), SamTraining()
    file = TomlFile.read(path)
    file.allow((), ("clip", "sam"))
    return _table(file, "clip", ClipTraining()), _table(file, "sam", SamTraining())


def _table(file: TomlFile, name: str, default: Training) -> Training:
    if name not in file.data:
        return default
    file.allow((name,), [field.name for field in fields(default)])
    changes = {key: _fitting(file, (name, key), value, default) for key, value in file.data[name].items()}
    return replace(default, **changes)


def _fitting(file: TomlFile, key: tuple[str, str], value: Any, default: object) -> Any:
    """Return the value in the type of the default; whole numbers serve where fractions are due."""
    model = getattr(default, key[1])
    if isinstance(model, tuple):
        sizes = isinstance(value, list) and value and all(_is_size(item) for item in value)
        if not sizes:
            raise file.error(key, describe(value), "a list of [height, width], each a multiple of 16")
        return tuple((height, width) for height, width in value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (isinstance(model, int) and not isinstance(value, int)):
        kind = "a whole number" if isinstance(model, int) else "a number"
        raise file.error(key, describe(value), f"{kind}, such as {model}")
    return type(model)(value)


def _is_size(item: object) -> bool:
    return (
        isinstance(item, list)
        and len(item) == 2
        and all(isinstance(side, int) and side > 0 and side % 16 == 0 for side in item)
    )
