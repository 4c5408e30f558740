"""A TOML file whose errors say where they are: file, line, key, what was found and what was expected.

Input: a path. Output: `TomlFile`, with typed access to its values; every fault is a `PromptError`. `tomllib`
keeps no line numbers, so the lines of keys and table headers are found in the text. Knows nothing of prompts.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipsam.errors import PromptError

Key = tuple[str | int, ...]  # ("defect", 2, "states"): key `states` of the third [[defect]]

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.-]+)\s*\]\]?\s*(?:#.*)?$")
_ASSIGNMENT = re.compile(r"""\s*["']?([\w.-]+)["']?\s*=""")
_DECODE_LINE = re.compile(r"\(at line (\d+), column \d+\)")


def close_match(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the closest of the known words, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def describe(value: object) -> str:
    """Name a TOML value for a message: its kind, and the value itself where it is short."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if isinstance(value, str):
        return f"'{value}'" if value else "an empty text"
    return f"{type(value).__name__} {value}"


@dataclass(frozen=True)
class TomlFile:
    """A parsed TOML file and the line of each of its keys."""

    path: Path
    data: dict[str, Any]
    rows: tuple[str, ...]
    lines: dict[Key, int]

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """Read and parse a file (UTF-8, with or without a byte order mark); a fault is a `PromptError`."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            reason = "it is a folder" if path.is_dir() else (error.strerror or str(error)).lower()
            raise PromptError(f"{path}: cannot be read ({reason}); expected a TOML file.") from error
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise PromptError(f"{path}, line {line}: found bytes that are not UTF-8; save it so.") from error
        rows = tuple(text.replace("\r\n", "\n").split("\n"))
        lines = _index(rows)
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PromptError(f"{path}, {_syntax_place(str(error), rows, lines)}") from error
        return cls(path, data, rows, lines)

    def get(self, key: Key) -> Any:
        """Return the value at a key, or None."""
        value: Any = self.data
        for step in key:
            if isinstance(step, int):
                value = value[step]
            else:
                value = value.get(step) if isinstance(value, dict) else None
        return value

    def line(self, key: Key, item: int | None = None) -> int | None:
        """Return the line of a key, or of one item of its list; if it has none, of the table around it."""
        while key and key not in self.lines:
            key, item = key[:-1], None
        start = self.lines.get(key)
        return start if start is None or item is None else self._item_line(key, item)

    def _item_line(self, key: Key, item: int) -> int:
        """Walk over the quoted items of a list up to the wanted one; with escaped texts, the key's line."""
        start = self.lines[key]
        end = min((line for line in self.lines.values() if line > start), default=len(self.rows) + 1)
        body = "\n".join(self.rows[start - 1 : end - 1])
        position = 0
        for value in self.get(key)[: item + 1]:
            found = [i for i in (body.find(f"{quote}{value}{quote}", position) for quote in "\"'") if i >= 0]
            if not found:
                return start
            here = min(found)
            position = here + 1 + len(str(value))
        return start + body.count("\n", 0, here)

    def error(self, key: Key, found: str, expected: str, item: int | None = None) -> PromptError:
        """Build the error for a key: file, line, key, what was found and what was expected."""
        line = self.line(key, item)
        place = f"{self.path}, line {line}" if line else f"{self.path}"
        return PromptError(f"{place}, {name_key(key)}: found {found}; expected {expected}")

    def allow(self, table: Key, known: Sequence[str], top: Sequence[str] = ()) -> None:
        """Refuse keys that nobody reads; suggest the closest known one, or the place of a `top` key."""
        values = self.data if not table else self.get(table)
        if not isinstance(values, dict):
            raise self.error(table, describe(values), "a table")
        for name in values:
            if name not in known:
                expected = f"one of {', '.join(known)}{close_match(name, known)}"
                if table and name in top:
                    expected = "it above the first [table] of the file"
                raise self.error((*table, name), "an unknown key", expected)

    def text(self, key: Key, default: str | None = None) -> str:
        """Return a text of at least one visible character; `default`, if given, where the key is absent."""
        value = self.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value.strip():
            found = "nothing" if value is None else describe(value)
            raise self.error(key, found, "a text in quotes")
        return value.strip()

    def texts(self, key: Key) -> tuple[str, ...]:
        """Return a non-empty list of texts, outer blanks stripped."""
        value = self.get(key)
        if not isinstance(value, list) or not value:
            found = "nothing" if value is None else describe(value)
            raise self.error(key, found, "a list with at least one text in quotes")
        for index, item in enumerate(value):
            if not isinstance(item, str) or not item.strip():
                raise self.error(key, f"{describe(item)} as item {index + 1}", "a text in quotes", index)
        return tuple(item.strip() for item in value)

    def count(self, key: Key, example: str) -> int:
        """Return the number of tables in an array of tables; at least one is needed."""
        value = self.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(item, dict) for item in value):
            raise self.error(key, "nothing" if value is None else describe(value), example)
        return len(value)


def name_key(key: Key) -> str:
    """Name a key for people: key 'states' of [[defect]] 3 (counted from 1), key 'source' of [provenance]."""
    *table, last = key
    if isinstance(last, int):
        return f"[[{table[0]}]] {last + 1}"
    if len(table) == 2:
        return f"key '{last}' of [[{table[0]}]] {int(table[1]) + 1}"
    return f"key '{last}' of [{table[0]}]" if table else f"key '{last}'"


def _index(rows: Sequence[str]) -> dict[Key, int]:
    """Map each key and table header to its line, counted from 1."""
    lines: dict[Key, int] = {}
    counts: dict[str, int] = {}
    table: Key = ()
    for number, row in enumerate(rows, start=1):
        if header := _HEADER.match(row):
            name = header[2]
            table = (name,)
            if header[1] == "[[":
                table = (name, counts.get(name, 0))
                counts[name] = counts.get(name, 0) + 1
            lines.setdefault((name,), number)
            lines.setdefault(table, number)
        elif assignment := _ASSIGNMENT.match(row):
            lines.setdefault((*table, *assignment[1].split(".")), number)
    return lines


def _syntax_place(message: str, rows: Sequence[str], lines: dict[Key, int]) -> str:
    """Say where TOML itself is broken: the line, and the nearest key at or above it (a list left open)."""
    match = _DECODE_LINE.search(message)
    line = int(match[1]) if match else len(rows)
    above = [key for key, start in lines.items() if start <= line and _ASSIGNMENT.match(rows[start - 1])]
    near = f", near {name_key(max(above, key=lambda key: lines[key]))}" if above else ""
    reason = _DECODE_LINE.sub("", message).strip()
    return f'line {line}{near}: this is not TOML ({reason}); expected lines such as: key = "text"'
