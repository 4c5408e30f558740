"""What differs between two sets of settings, in words: "key was 1 and is 2".

Input: two nested dictionaries of JSON types. Output: one phrase for each value that differs. Knows nothing of
what the settings are for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

SHOWN = 4  # differences that are told; the rest is counted
LONGEST = 24  # characters of a value


def differences(before: Mapping[str, Any], after: Mapping[str, Any], within: str = "") -> list[str]:
    """A phrase for each value that differs, by its dotted name; what is absent counts as null."""
    phrases = []
    for key in sorted(before.keys() | after.keys()):
        old, new, name = before.get(key), after.get(key), f"{within}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            phrases += differences(old, new, f"{name}.")
        elif old != new:
            phrases.append(f"{name} was {_short(old)} and is {_short(new)}")
    return phrases


def in_short(phrases: list[str]) -> str:
    """The first few of them, and how many more there are."""
    more = f" and {len(phrases) - SHOWN} more" if len(phrases) > SHOWN else ""
    return ", ".join(phrases[:SHOWN]) + more


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]}...{text[-1]}"
