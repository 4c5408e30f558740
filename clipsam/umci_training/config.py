"""How UMCI is trained, as a TOML file with the tables [umci] and [training].

Every key is a field of `UmciSettings` or `UmciTraining`; what a file leaves out keeps its default. A protocol
file of `eval/protocols` may hold both tables beside its own keys. Knows nothing of models.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from clipsam.protocol import EvalProtocol, load_protocol, shipped_protocols
from clipsam.tomlfile import TomlFile, describe
from clipsam.umci import UmciSettings

GIGABYTE = 10**9


@dataclass(frozen=True)
class UmciTraining:
    """How UMCI is trained. "Left open": not known from the paper, so the default is a choice made here."""

    epochs: int = 6
    batch: int = 8
    peak: float = 1e-4
    """Learning rate of Adam."""
    warmup: int = 0
    """Steps in which the rate rises. Left open."""
    fall: float = 0.0
    """Last share of all steps in which the rate falls. Left open."""
    weight_decay: float = 0.0
    averaging: float = 0.0
    """Of the weights over steps; 0 keeps the last ones. Left open."""
    largest_gradient: float = 1.0
    """Norm to which gradients are cut. Left open."""
    gamma: float = 2.0
    """Exponent of the focal loss. Left open; 2 is its authors' (arXiv 1708.02002)."""
    balance: float = 0.0
    """Above 0: in place of both losses cross-entropy, in which the defects of a photo count as that share of
    it, however large they are. Left open."""
    stride: int = 4
    """Masks are compared in cells of that many px of the resized picture. Left open."""
    covered: float = 0.25
    """Share of a cell that is defective from which the cell is. Left open."""
    holdout: float = 0.1
    """Share of the pictures that is not trained on, and sets the offset of the map."""
    pictures: int = 1000
    """How many pictures `--dataset rendered` has, each defective one with its flawless twin."""
    named: bool = True
    """Whether sentences name the product; else they say "object", in training and in use (as AnomalyCLIP,
    arXiv 2310.18961). Left open."""
    cache_gb: float = 8.0
    """What the features may take on disk; pictures beyond that are encoded again in every epoch."""
    checkpoint_every: int = 100
    seed: int = 1


Table = TypeVar("Table", UmciSettings, UmciTraining)


@dataclass(frozen=True)
class UmciConfig:
    """Both tables, and the protocol beside them: preset, prompts and how photos are seen."""

    umci: UmciSettings
    training: UmciTraining
    protocol: EvalProtocol


def read_config(name_or_path: str | Path | None) -> UmciConfig:
    """Read a file or a shipped protocol, or return the defaults.

    Raises `PromptError` with file, line and key for a fault in the tables, `UsageError` for one beside them.
    """
    if name_or_path is None:
        return UmciConfig(UmciSettings(), UmciTraining(), EvalProtocol())
    file = TomlFile.read(shipped_protocols().get(str(name_or_path), Path(name_or_path)))
    umci, training = _table(file, "umci", UmciSettings()), _table(file, "training", UmciTraining())
    return UmciConfig(umci, training, load_protocol(file.path))


def _table(file: TomlFile, name: str, default: Table) -> Table:
    if name not in file.data:
        return default
    file.allow((name,), [field.name for field in fields(default)])
    return replace(default, **{key: _fitting(file, (name, key), default) for key in file.data[name]})


def _fitting(file: TomlFile, key: tuple[str, str], default: object) -> Any:
    """The value in the type of the default: a whole number, a number, true or false, or whole numbers."""
    model, value = getattr(default, key[1]), file.get(key)
    if isinstance(model, tuple):
        if not (isinstance(value, list) and all(type(item) is int for item in value)):
            raise file.error(key, describe(value), "a list of whole numbers")
        return tuple(value)
    if type(value) is type(model):
        return value
    if isinstance(model, float) and type(value) is int:
        return float(value)
    kinds = {bool: "true or false", int: "a whole number", float: "a number"}
    raise file.error(key, describe(value), kinds[type(model)])
