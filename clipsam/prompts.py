"""Prompts as data: TOML files of states and templates become sentences about a flawless and a flawed product.

Input: a shipped name ("industrial") or a path, and the product in words. Output: `Sentences`. Keys of a file:
`kind` ("ensemble" or "names"), `title`, `version`, `[provenance]` (source, licence, tuned_on, note); then
`normal_states`, `templates` and one `[[defect]]` (name, states) per type, or `[names]` (category = words);
all explained at the top of `prompts/industrial.toml`. Knows nothing of CLIP.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from clipsam.errors import PromptError
from clipsam.tomlfile import Key, TomlFile, close_match, describe

DEFAULT_PROMPTS = "industrial"
SLOT = "{}"  # where a template takes its state and a state its product

_KINDS = ("ensemble", "names")
_ENSEMBLE_KIND = "kind 'ensemble' (states and templates)"
_NAMES_KIND = "kind 'names' (what categories are called)"
_COMMON_KEYS = ("kind", "title", "version", "provenance")
_ENSEMBLE_KEYS = (*_COMMON_KEYS, "normal_states", "templates", "defect")
_NAMES_KEYS = (*_COMMON_KEYS, "names")
_PROVENANCE_KEYS = ("source", "licence", "tuned_on", "note")
_DEFECT_KEYS = ("name", "states")
_INLINE_STATES = ("{} with %", "% on the {}", "{} damaged by %")  # of a type without a file; % is its name


@dataclass(frozen=True)
class Provenance:
    """Where the words come from, their licence, and the data on which they were chosen; empty if not said."""

    source: str = ""
    licence: str = ""
    tuned_on: str = ""
    note: str = ""


@dataclass(frozen=True)
class DefectType:
    """One type of defect: its name, and states that describe a product (`{}`) with it or the defect."""

    name: str
    states: tuple[str, ...]


@dataclass(frozen=True)
class Sentences:
    """Complete sentences about one product, in the file's order: normal ones, and abnormal ones by defect."""

    normal: tuple[str, ...]
    abnormal: Mapping[str, tuple[str, ...]]

    def __hash__(self) -> int:
        return hash((self.normal, frozenset(self.abnormal.items())))

    @property
    def count(self) -> int:
        """Number of sentences, repeated ones included."""
        return len(self.normal) + sum(map(len, self.abnormal.values()))


@dataclass(frozen=True)
class PromptEnsemble:
    """States x templates: everything that is said about a product. Immutable.

    Templates hold `{}` exactly once, states at most once, and no other braces; there is at least one defect
    type, and their names are distinct; else `PromptError`.
    """

    name: str
    normal_states: tuple[str, ...]
    templates: tuple[str, ...]
    defects: tuple[DefectType, ...]
    title: str = ""
    version: str = ""
    provenance: Provenance = field(default_factory=Provenance)
    path: Path | None = None

    kind = "ensemble"

    def __post_init__(self) -> None:
        groups = {"normal_states": self.normal_states, "templates": self.templates}
        groups |= {f"states of '{defect.name}'": defect.states for defect in self.defects}
        for label, texts in groups.items():
            _check_texts(f"prompts '{self.name}', {label}", texts, is_template=label == "templates")
        names = self.defect_names
        if not names or len(set(names)) < len(names):
            raise PromptError(f"prompts '{self.name}': found defect types {names}; expected distinct ones.")

    @property
    def defect_names(self) -> tuple[str, ...]:
        """The names of the defect types, in order."""
        return tuple(defect.name for defect in self.defects)

    def sentences(self, product: str = "object") -> Sentences:
        """Fill templates with states, and states with the product in words; an empty one is called "object".

        Order: states as in the file, and for each state the templates as in the file.
        """
        words = product_words(product)
        return Sentences(
            normal=_fill(self.templates, self.normal_states, words),
            abnormal={defect.name: _fill(self.templates, defect.states, words) for defect in self.defects},
        )

    def hash(self, product: str = "object") -> str:
        """Return the SHA-256 (hex) of the exact sentences in their order, with their defect types."""
        sentences = self.sentences(product)
        exact = json.dumps([sentences.normal, list(sentences.abnormal.items())])
        return hashlib.sha256(exact.encode()).hexdigest()

    def with_defects(self, names: Iterable[str]) -> PromptEnsemble:
        """Add defect types by name, at the end; types that are there already stay as they are.

        A name that `industrial.toml` knows brings its states along, any other gets generic ones, such as
        "{} with oil stain". To look for the named types alone, call `only` on the result. Case and outer
        blanks do not matter.
        """
        present = set(self.defect_names)
        wanted = [name for name in dict.fromkeys(map(_defect_name, names)) if name not in present]
        if not wanted:
            return self
        known = {defect.name: defect for defect in load_prompts(DEFAULT_PROMPTS).defects}
        added = tuple(known.get(name) or _inline_defect(name) for name in wanted)
        return replace(self, defects=self.defects + added)

    def only(self, names: Iterable[str]) -> PromptEnsemble:
        """Keep the named defect types alone, in the ensemble's order; an unknown name is a `PromptError`."""
        wanted = set(map(_defect_name, names))
        for name in sorted(wanted.difference(self.defect_names)):
            expected = f"some of {', '.join(self.defect_names)}{close_match(name, self.defect_names)}"
            raise PromptError(f"prompts '{self.name}': found no defect type '{name}'; expected {expected}")
        return replace(self, defects=tuple(defect for defect in self.defects if defect.name in wanted))


@dataclass(frozen=True)
class ProductNames:
    """What the categories of one dataset are called: pairs of (category, words) in the file's order."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    title: str = ""
    version: str = ""
    provenance: Provenance = field(default_factory=Provenance)
    path: Path | None = None

    kind = "names"

    def words(self, category: str) -> str:
        """Return the words for a category (a folder of the dataset); an unknown one is a `PromptError`."""
        table = dict(self.pairs)
        if category not in table:
            expected = f"one of {', '.join(table)}{close_match(category, table)}"
            raise PromptError(f"{self.name}: found no category '{category}'; expected {expected}")
        return table[category]


def product_words(product: str) -> str:
    """Return a product as sentences call it: blanks tidied, and "object" where nothing is left."""
    return " ".join(product.split()) or "object"


def shipped_folder() -> Path:
    """Return the folder of the shipped prompt files: in an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / "_prompts", package.parent / "prompts"):
        if (folder / f"{DEFAULT_PROMPTS}.toml").is_file():
            return folder
    raise PromptError(f"{package}: the shipped prompt files are missing; install clipsam again.")


def shipped_names() -> tuple[str, ...]:
    """Return the names of the shipped prompt files, the default first."""
    names = sorted(path.stem for path in shipped_folder().glob("*.toml"))
    return tuple(sorted(names, key=lambda name: name != DEFAULT_PROMPTS))


def list_prompts() -> tuple[PromptEnsemble | ProductNames, ...]:
    """Load every shipped prompt file: ensembles first, the default at the top, then names."""
    loaded = [read_prompts(TomlFile.read(find_prompts(name))) for name in shipped_names()]
    return tuple(sorted(loaded, key=lambda item: _KINDS.index(item.kind)))


def find_prompts(name_or_path: str | Path) -> Path:
    """Return the path of a prompt file: a text that is a shipped name means that file, else it is a path."""
    names = shipped_names()
    if isinstance(name_or_path, str) and name_or_path in names:
        return shipped_folder() / f"{name_or_path}.toml"
    path = Path(name_or_path)
    if not os.path.exists(path):  # False, unlike Path.exists, for a text that cannot be a path
        expected = f"a TOML file or one of {', '.join(names)}{close_match(str(name_or_path), names)}"
        raise PromptError(f"found no prompt file '{name_or_path}'; expected {expected}")
    return path


def load_prompts(name_or_path: str | Path = DEFAULT_PROMPTS) -> PromptEnsemble:
    """Load an ensemble by shipped name or path; a wrong file is a `PromptError` with file, line and key."""
    file = TomlFile.read(find_prompts(name_or_path))
    loaded = read_prompts(file)
    if isinstance(loaded, ProductNames):
        raise file.error(("kind",), _NAMES_KIND, _ENSEMBLE_KIND)
    return loaded


def load_names(name_or_path: str | Path) -> ProductNames:
    """Load the names of a dataset's categories by shipped name or path; errors as in `load_prompts`."""
    file = TomlFile.read(find_prompts(name_or_path))
    loaded = read_prompts(file)
    if isinstance(loaded, PromptEnsemble):
        raise file.error(("kind",), _ENSEMBLE_KIND, _NAMES_KIND)
    return loaded


def product_name(dataset: str, category: str) -> str:
    """Return what a dataset's category is called in words: ("mvtec", "metal_nut") gives "metal nut"."""
    return load_names(dataset).words(category)


def read_prompts(file: TomlFile) -> PromptEnsemble | ProductNames:
    """Turn a parsed file of either kind into its object; a fault is a `PromptError` as in `load_prompts`."""
    kind = file.text(("kind",), default="ensemble")
    if kind not in _KINDS:
        raise file.error(("kind",), f"'{kind}'", f"one of {', '.join(_KINDS)}{close_match(kind, _KINDS)}")
    return _read_names(file) if kind == "names" else _read_ensemble(file)


def _read_ensemble(file: TomlFile) -> PromptEnsemble:
    file.allow((), _ENSEMBLE_KEYS)
    provenance = _read_provenance(file, _ENSEMBLE_KEYS)
    count = file.count(("defect",), 'at least one [[defect]] table, with name = "..." and states = ["..."]')
    for index in range(count):
        file.allow(("defect", index), _DEFECT_KEYS, top=_ENSEMBLE_KEYS)
    return PromptEnsemble(
        name=file.path.stem,
        normal_states=_read_texts(file, ("normal_states",)),
        templates=_read_texts(file, ("templates",), is_template=True),
        defects=_read_defects(file, count),
        title=file.text(("title",), default=""),
        version=file.text(("version",), default=""),
        provenance=provenance,
        path=file.path,
    )


def _read_defects(file: TomlFile, count: int) -> tuple[DefectType, ...]:
    seen: dict[str, Key] = {}
    defects = []
    for index in range(count):
        key = ("defect", index, "name")
        given = file.text(key)
        name = _plain_name(given)
        if fault := _text_fault(name, slots=(0,)):
            raise file.error(key, f"'{given}'", fault)
        if name in seen:
            expected = f"another name (the first is in line {file.line(seen[name])})"
            raise file.error(key, f"'{given}' a second time", expected)
        seen[name] = key
        defects.append(DefectType(name, _read_texts(file, ("defect", index, "states"))))
    return tuple(defects)


def _read_names(file: TomlFile) -> ProductNames:
    file.allow((), _NAMES_KEYS)
    table = file.get(("names",))
    if not isinstance(table, dict) or not table:
        found = "nothing" if table is None else describe(table)
        raise file.error(("names",), found, 'a table [names] with lines such as metal_nut = "metal nut"')
    return ProductNames(
        name=file.path.stem,
        pairs=tuple((category, file.text(("names", category))) for category in table),
        title=file.text(("title",), default=""),
        version=file.text(("version",), default=""),
        provenance=_read_provenance(file, _NAMES_KEYS),
        path=file.path,
    )


def _read_provenance(file: TomlFile, top: tuple[str, ...]) -> Provenance:
    if file.get(("provenance",)) is None:
        return Provenance()
    file.allow(("provenance",), _PROVENANCE_KEYS, top)
    return Provenance(**{key: file.text(("provenance", key), default="") for key in _PROVENANCE_KEYS})


def _read_texts(file: TomlFile, key: Key, is_template: bool = False) -> tuple[str, ...]:
    texts = file.texts(key)
    for index, text in enumerate(texts):
        if fault := _text_fault(text, _slots(is_template)):
            raise file.error(key, f"'{text}'", fault, item=index)
    return texts


def _check_texts(where: str, texts: object, is_template: bool) -> None:
    """Refuse what a file could not hold, for ensembles that are built in Python."""
    if not isinstance(texts, tuple) or not texts:
        raise PromptError(f"{where}: found {texts!r}; expected a tuple with at least one text.")
    for text in texts:
        fault = _text_fault(text, _slots(is_template)) if isinstance(text, str) else "a text"
        if fault:
            raise PromptError(f"{where}: found {text!r}; expected {fault}")


def _slots(is_template: bool) -> tuple[int, ...]:
    """How often `{}` may stand in a template, or in a state."""
    return (1,) if is_template else (0, 1)


def _text_fault(text: str, slots: tuple[int, ...]) -> str | None:
    """Return what was expected of a text if its placeholders are wrong, else None."""
    rest = text.replace(SLOT, "")
    if "{" in rest or "}" in rest:
        return "no braces but {}, which stands for the product" if 1 in slots else "words without braces"
    if text.count(SLOT) in slots:
        return None
    return {(1,): "exactly one {}", (0, 1): "{} at most once", (0,): "words without braces"}[slots]


def _fill(templates: tuple[str, ...], states: tuple[str, ...], product: str) -> tuple[str, ...]:
    """Fill by plain replacement: products may hold braces or any other character."""
    filled = [state.replace(SLOT, product) for state in states]
    return tuple(template.replace(SLOT, state) for state in filled for template in templates)


def _plain_name(name: str) -> str:
    return " ".join(name.lower().split())


def _defect_name(name: str) -> str:
    """Bring the name of a defect type into the form that files use; a `PromptError` if it is no name."""
    plain = _plain_name(name)
    if not plain or _text_fault(plain, slots=(0,)):
        raise PromptError(f"found the defect name '{name}'; expected words without braces ('oil stain').")
    return plain


def _inline_defect(name: str) -> DefectType:
    return DefectType(name, tuple(state.replace("%", name) for state in _INLINE_STATES))
