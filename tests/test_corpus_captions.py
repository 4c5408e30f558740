from __future__ import annotations

import numpy as np
import pytest

from clipsam.nano.corpus import captions
from clipsam.nano.corpus.defects import DEFECTS
from clipsam.prompts import load_prompts


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_drawn_type_and_every_shipped_type_has_words() -> None:
    assert {*DEFECTS, "damage"} == set(captions.WORDS)
    assert set(load_prompts("industrial").defect_names) == set(captions.WORDS)


@pytest.mark.parametrize("defect", captions.WORDS)
def test_words_are_many_and_held_out_ones_are_never_trained(defect: str) -> None:
    words = captions.WORDS[defect]
    states = words.states()
    assert len(words.adjectives) + len(words.nouns) >= 8
    assert all(state.count("{}") == 1 for state in (*states, *words.held_out))
    assert len(words.held_out) >= 2
    assert not set(words.held_out) & set(states)
    drawn = [captions.defect_sentence(rng(k), "zzz", defect) for k in range(300)]
    for state in words.held_out:
        assert not any(state.replace("{}", "zzz") in sentence for sentence in drawn)


def test_defect_sentence_names_the_product_and_the_type() -> None:
    for k in range(100):
        sentence = captions.defect_sentence(rng(k), "bottle", "scratch")
        assert "bottle" in sentence
        assert any(
            word in sentence for word in ("scratch", "scor", "scrap", "scuff", "damage", "flaw", "defect")
        )
        assert sentence == sentence.lower()
        assert "{" not in sentence


def test_held_out_sentence_takes_a_held_out_state() -> None:
    sentence = captions.defect_sentence(rng(), "bottle", "stain", held_out=True)
    assert any(state.replace("{}", "bottle") in sentence for state in captions.WORDS["stain"].held_out)


def test_unknown_type_is_refused() -> None:
    with pytest.raises(KeyError):
        captions.defect_sentence(rng(), "bottle", "no such type")


def test_sentences_of_the_default_prompts_are_drawn() -> None:
    shipped = load_prompts("industrial").sentences("bottle")
    normal = {captions.normal_sentence(rng(k), "bottle") for k in range(600)}
    cracked = {captions.defect_sentence(rng(k), "bottle", "crack") for k in range(600)}
    assert len(normal & set(shipped.normal)) > len(set(shipped.normal)) / 2
    assert len(cracked & set(shipped.abnormal["crack"])) > len(set(shipped.abnormal["crack"])) / 2


def test_articles_agree() -> None:
    for k in range(400):
        sentence = captions.describe(rng(k), ("item",), ("dent", "glue"))
        assert " a a " not in f" {sentence}"
        assert " a an " not in f" {sentence}"
        assert "the a " not in sentence
        assert not sentence.startswith(("a i", "a o", "a a"))


def test_description_of_a_flawless_part_names_no_defect() -> None:
    allowed = set(captions.NORMAL_STATES) | set(load_prompts("winclip").normal_states)
    assert "{} without defect" in allowed
    for k in range(100):
        sentence = captions.describe(rng(k), ("bottle",), ())
        assert not any(word in sentence for word in ("scratched", "cracked", "with a hole", "dirty"))


def test_product_words_use_own_names_and_others() -> None:
    words = [captions.product_words(rng(k), ("grommet",)) for k in range(300)]
    share = words.count("grommet") / len(words)
    assert 0.35 < share < 0.65
    assert len(set(words)) > 80


def test_vocabulary_is_repeatable_and_holds_every_word_but_the_held_out_ones() -> None:
    first = captions.vocabulary_sentences(12000, 3, ("grommet",))
    assert first == captions.vocabulary_sentences(12000, 3, ("grommet",))
    text = " ".join(first)
    assert "grommet" in text
    for words in captions.WORDS.values():
        missing = [noun for noun in words.nouns if noun.split()[-1] not in text]
        assert not missing
    assert "crinkled" not in text
