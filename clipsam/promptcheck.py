"""What is questionable in a prompt file that loads: repetitions, contradictions, silence about its origin.

Input: a shipped name or a path. Output: `Remark`s with line and key. A file that does not load is a
`PromptError` of `prompts.py`. Knows no CLIP, so it cannot say whether a sentence works.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipsam.prompts import PromptEnsemble, find_prompts, read_prompts
from clipsam.tomlfile import Key, TomlFile, name_key

MANY_SENTENCES = 1000  # beyond this, encoding the sentences takes longer than inspecting many photos
MANY_WORDS = 30  # beyond this, the usual context of 77 tokens is in danger (rare words take several)
_TWICE = "'{}' stands here twice and weighs double"


@dataclass(frozen=True)
class Remark:
    """Something questionable in a prompt file: its line (None: the whole file), its key, and what it is."""

    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}, {self.key}: {self.message}" if self.line else f"{self.key}: {self.message}"


def check_prompts(name_or_path: str | Path) -> tuple[Remark, ...]:
    """Load a prompt file of either kind, return what is questionable; `PromptError` if it is wrong."""
    file = TomlFile.read(find_prompts(name_or_path))
    loaded = read_prompts(file)
    remarks = _silent_provenance(file)
    if isinstance(loaded, PromptEnsemble):
        remarks += _repeated(file, loaded) + _too_much(file, loaded)
    return tuple(sorted(remarks, key=lambda remark: remark.line or 0))


def _silent_provenance(file: TomlFile) -> list[Remark]:
    missing = [key for key in ("source", "licence", "tuned_on") if not file.get(("provenance", key))]
    if not missing:
        return []
    message = f"does not say {', '.join(missing)}; results should name where the words come from"
    return [Remark(file.line(("provenance",)), "[provenance]", message)]


def _lists(ensemble: PromptEnsemble) -> list[tuple[Key, str, tuple[str, ...]]]:
    """Every list of states: its key, what it describes, and the states."""
    defects = [
        (("defect", index, "states"), f"'{defect.name}'", defect.states)
        for index, defect in enumerate(ensemble.defects)
    ]
    return [(("normal_states",), "a normal product", ensemble.normal_states), *defects]


def _repeated(file: TomlFile, ensemble: PromptEnsemble) -> list[Remark]:
    """Find templates and states that stand twice, and states that describe two things."""
    remarks = []
    seen: set[str] = set()
    for item, template in enumerate(ensemble.templates):
        if template in seen:
            remarks.append(_remark(file, ("templates",), item, _TWICE.format(template)))
        seen.add(template)
    owners: dict[str, str] = {}
    for key, what, states in _lists(ensemble):
        for item, state in enumerate(states):
            owner = owners.setdefault(state, what)
            if state in states[:item]:
                remarks.append(_remark(file, key, item, _TWICE.format(state)))
            elif owner != what:
                message = f"'{state}' also describes {owner}; the two cannot be told apart by it"
                remarks.append(_remark(file, key, item, message))
    return remarks


def _too_much(file: TomlFile, ensemble: PromptEnsemble) -> list[Remark]:
    sentences = ensemble.sentences()
    remarks = []
    if sentences.count > MANY_SENTENCES:
        message = f"{sentences.count} sentences per product; more than {MANY_SENTENCES} are slow to encode"
        remarks.append(_remark(file, ("templates",), None, message))
    texts = [*sentences.normal, *(text for group in sentences.abnormal.values() for text in group)]
    longest = max(texts, key=lambda text: len(text.split()))
    if len(longest.split()) > MANY_WORDS:
        message = f"'{longest}' has {len(longest.split())} words; text towers may cut it off"
        remarks.append(_remark(file, ("templates",), None, message))
    return remarks


def _remark(file: TomlFile, key: Key, item: int | None, message: str) -> Remark:
    return Remark(file.line(key, item), name_key(key), message)
