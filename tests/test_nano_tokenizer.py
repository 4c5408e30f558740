from __future__ import annotations

import numpy as np
import pytest

from clipsam.nano.models import CONTEXT
from clipsam.nano.tokenizer import SPECIAL, frayed, train_tokenizer

SENTENCES = ["a photo of a flawless bottle", "a photo of a bottle with a scratch", "a cracked bottle"] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(SENTENCES, vocab_size=300)


def test_same_sentences_give_the_same_tokenizer(tokenizer):
    assert train_tokenizer(SENTENCES, vocab_size=300).get_vocab() == tokenizer.get_vocab()


def test_vocabulary_is_bounded_and_begins_with_the_special_tokens(tokenizer):
    assert len(tokenizer) <= 300
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == list(SPECIAL)
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_sentence_begins_ends_and_is_padded_on_the_right(tokenizer):
    ids = tokenizer("a bottle", padding="max_length", max_length=CONTEXT).input_ids
    end = ids.index(tokenizer.eos_token_id)
    assert len(ids) == CONTEXT
    assert ids[0] == tokenizer.bos_token_id
    assert ids[end + 1 :] == [tokenizer.pad_token_id] * (CONTEXT - end - 1)


def test_cut_sentence_still_ends(tokenizer):
    ids = tokenizer("bottle " * 100, truncation=True, max_length=CONTEXT).input_ids
    assert len(ids) == CONTEXT
    assert ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("word", ["torvik", "größe", "瓶", "🔩", "x-37/b"])
def test_any_product_name_has_tokens_of_its_own(tokenizer, word):
    ids = tokenizer(word).input_ids
    assert len(ids) > 2
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == word


def test_case_and_compatibility_forms_do_not_matter(tokenizer):
    assert tokenizer("A Bottle").input_ids == tokenizer("a bottle").input_ids
    assert tokenizer("a ｂottle").input_ids == tokenizer("a bottle").input_ids


def test_words_of_the_corpus_are_shorter_than_their_bytes(tokenizer):
    assert len(tokenizer("bottle").input_ids) == 3


def test_whole_words_have_the_tokens_of_the_tokenizer(tokenizer):
    words = ["a photo of a CRACKED bottle", "größe 瓶", "bottle " * 100]
    expected = tokenizer(
        words, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
    )
    assert frayed(tokenizer, words, 0.0, np.random.default_rng(0)).equal(expected.input_ids)


def test_cut_words_keep_their_letters_and_repeat_with_the_seed(tokenizer):
    words = ["a photo of a cracked bottle with a scratch"] * 20
    first, again = (frayed(tokenizer, words, 0.5, np.random.default_rng(3)) for _ in range(2))
    assert first.equal(again)
    assert len({tuple(row) for row in first.tolist()}) > 10
    assert {tokenizer.decode(row, skip_special_tokens=True).strip() for row in first} == {words[0]}
