"""Words for rendered parts: what a flawless or a damaged product is called, in many ways, for training and
validation.

Input: a generator, a product in words, a defect type; output: lower-case sentences. The sentences of the
shipped prompt files are among them. Every type has paraphrases that only validation uses. It does not know
pictures or tokenizers.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from clipsam.nano.corpus.compose import Sample

Rng = np.random.Generator


@dataclass(frozen=True)
class Words:
    """How one defect type is called: adjectives, nouns with their article, and states kept for validation."""

    adjectives: tuple[str, ...]
    nouns: tuple[str, ...]
    held_out: tuple[str, ...]
    place: str = "on"

    def states(self) -> tuple[str, ...]:
        """All training states, each with one "{}" for the product."""
        described = [f"{word} {{}}" for word in self.adjectives]
        carrying = [f"{{}} with {noun}" for noun in self.nouns]
        located = [f"{noun} {self.place} the {{}}" for noun in self.nouns]
        return (*described, *carrying, *located)


def _load() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("words.toml").read_text("utf-8"))


def _defect_words(table: dict[str, Any]) -> dict[str, Words]:
    return {
        name: Words(tuple(w["adjectives"]), tuple(w["nouns"]), tuple(w["held_out"]), w["place"])
        for name, w in table.items()
    }


_DATA = _load()
WORDS: dict[str, Words] = _defect_words(_DATA["defects"])
"""Defect type to its words; "damage" is what any defect may be called."""
NORMAL_STATES: tuple[str, ...] = tuple(_DATA["normal_states"])
TEMPLATES: tuple[str, ...] = tuple(_DATA["templates"])
GENERIC: tuple[str, ...] = tuple(_DATA["generic"])
PRODUCTS: tuple[str, ...] = tuple(_DATA["products"])

_ENSEMBLES = ("industrial", "industrial", "winclip", "april_gan")


@lru_cache(maxsize=1)
def _shipped() -> dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, tuple[str, ...]]]]:
    """Of each shipped prompt file: templates, normal states, abnormal states by type."""
    from clipsam.prompts import load_prompts

    found = {}
    for name in set(_ENSEMBLES):
        prompts = load_prompts(name)
        found[name] = (prompts.templates, prompts.normal_states, {d.name: d.states for d in prompts.defects})
    return found


def _pick(rng: Rng, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _grammar(sentence: str) -> str:
    """Lower case, single blanks, no doubled articles, "an" before a vowel."""
    text = " ".join(sentence.lower().split())
    text = re.sub(r"\b(?:a|an|the) (?=(?:a|an|the) )", "", text)
    text = re.sub(
        r"\b(?:a|an) (?=(?:[a-z]*(?:ches|cracks|dents|cuts|holes|splashes)|dust|dirt|glue|rust)\b)", "", text
    )
    return re.sub(r"\ban? (?=[aeiou])", "an ", text)


def invented_word(rng: Rng) -> str:
    """A pronounceable word that means nothing, such as "torvik"."""
    heads, tails = (
        ["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "kr", "st", "tr"],
        ["l", "n", "r", "s", "t", "k", "x", "m", "nd", "rk"],
    )
    syllables = "".join(_pick(rng, heads) + _pick(rng, list("aeiou")) for _ in range(int(rng.integers(1, 3))))
    return syllables + _pick(rng, tails)


def product_words(rng: Rng, names: Sequence[str] = ()) -> str:
    """What a part is called in one sentence: mostly one of its own `names`, else a generic, other or invented
    word.
    """
    kind = rng.random()
    if names and kind < 0.5:
        return _pick(rng, names)
    if kind < 0.7:
        return _pick(rng, GENERIC)
    if kind < 0.9:
        return _pick(rng, PRODUCTS)
    other = invented_word(rng)
    return f"{other} {_pick(rng, GENERIC)}" if rng.random() < 0.3 else other


def normal_sentence(rng: Rng, product: str) -> str:
    """A sentence about a flawless `product`; half of them are of the shipped prompt files."""
    if rng.random() < 0.5:
        templates, normal, _ = _shipped()[_pick(rng, _ENSEMBLES)]
        return _pick(rng, templates).replace("{}", _pick(rng, normal).replace("{}", product)).lower()
    return _grammar(_pick(rng, TEMPLATES).replace("{}", _pick(rng, NORMAL_STATES).replace("{}", product)))


def defect_sentence(rng: Rng, product: str, defect: str, held_out: bool = False) -> str:
    """A sentence about a `product` with a defect of the named type.

    `held_out` takes the paraphrases that training never uses; else half of the sentences are of the shipped
    prompt files. Raises KeyError for a type that is not in WORDS.
    """
    words = WORDS[defect]
    if held_out:
        state = _pick(rng, words.held_out)
    elif rng.random() < 0.5:
        templates, _, states = _shipped()[_pick(rng, _ENSEMBLES)]
        known = states.get(defect) or _shipped()["industrial"][2][defect]
        return _pick(rng, templates).replace("{}", _pick(rng, known).replace("{}", product)).lower()
    else:
        # The first words of a type are what a user types; they come as often as all others together.
        state = f"{{}} with {words.nouns[0]}" if rng.random() < 0.2 else _pick(rng, words.states())
    return _grammar(_pick(rng, TEMPLATES).replace("{}", state.replace("{}", product)))


def caption(rng: Rng, sample: Sample) -> str:
    """One sentence about a rendered sample: flawless, or with each of its defects named."""
    return describe(rng, sample.names, [instance.defect for instance in sample.instances])


def describe(rng: Rng, names: Sequence[str], defects: Sequence[str]) -> str:
    """One sentence about a part called `names` with `defects` (none: flawless), joined by "and"."""
    product = product_words(rng, names)
    kinds = list(dict.fromkeys(defects))
    if not kinds:
        return normal_sentence(rng, product)
    if len(kinds) == 1:
        return defect_sentence(rng, product, kinds[0])
    nouns = " and ".join(_pick(rng, WORDS[kind].nouns) for kind in kinds)
    return _grammar(_pick(rng, TEMPLATES).replace("{}", f"{product} with {nouns}"))


def vocabulary_sentences(n: int, seed: int, names: Sequence[str] = ()) -> list[str]:
    """`n` sentences that use the whole vocabulary, for the training of a tokenizer.

    Held-out paraphrases are not among them: a word that only they use would get a token of its own, which
    training never sees, instead of the tokens of its parts. `names` are products to be spoken of beside the
    usual ones, such as those of `compose.product_names`.
    """
    rng = np.random.default_rng(seed)
    kinds = list(WORDS)
    sentences = []
    for index in range(n):
        product = product_words(rng, names)
        flawless = index % 4 == 0
        sentences.append(
            normal_sentence(rng, product) if flawless else defect_sentence(rng, product, _pick(rng, kinds))
        )
    return sentences
