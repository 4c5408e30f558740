"""What differs between two sets of settings, in words: "key was 1 and is 2".

Input: two nested dictionaries of JSON types. Output: one phrase for each leaf that differs. Knows nothing of
what the settings are for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SHOWN = 4  # differences that are told; the rest is counted
LONGEST = 24  # characters of a value


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """A phrase for each leaf that differs, by its dotted name; one that is absent counts as null."""
    old, new = _flat(before), _flat(after)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return [f"{key} was {_short(old.get(key))} and is {_short(new.get(key))}" for key in changed]


def in_short(phrases: list[str]) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(phrases) - SHOWN} more" if len(phrases) > SHOWN else ""
    return ", ".join(phrases[:SHOWN]) + more


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    return {
        key: leaf for name in value for key, leaf in _flat(value[name], f"{prefix}.{name}".strip(".")).items()
    }


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]}...{text[-1]}"
