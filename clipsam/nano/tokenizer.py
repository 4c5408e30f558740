"""The small tokenizer of CLIP-nano: byte-level BPE over the words of the corpus, so that any product name has
tokens.

Input: sentences. Output: a transformers fast tokenizer that pads on the right and ends each sentence with
`<eos>`; and their tokens with some words cut in two, for training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from clipsam.nano.models import CONTEXT

SPECIAL = ("<pad>", "<bos>", "<eos>")


def train_tokenizer(sentences: Iterable[str], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Train a lower-casing byte-level BPE tokenizer of at most `vocab_size` entries; the same sentences give
    the same one.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        model_max_length=CONTEXT,
        padding_side="right",
    )


def frayed(
    tokenizer: PreTrainedTokenizerFast, sentences: Sequence[str], share: float, rng: np.random.Generator
) -> torch.Tensor:
    """Token ids [n, CONTEXT] of sentences in which a `share` of the words is cut in two at random places.

    So "crack" keeps its meaning in "cracking", a word that training never uses. As BPE-dropout does
    (Provilkov et al. 2020, arXiv 1910.13267), but the same for the same `rng`.
    """
    backend = tokenizer.backend_tokenizer
    rows = torch.full((len(sentences), CONTEXT), int(tokenizer.pad_token_id))
    for row, sentence in zip(rows, sentences, strict=True):
        words = backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(sentence))
        parts = [part for word, _ in words for part in _cut(word, share, rng)]
        ids = [token.id for part in parts for token in backend.model.tokenize(part)][: CONTEXT - 2]
        ids = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def _cut(word: str, share: float, rng: np.random.Generator) -> tuple[str, ...]:
    """The word, or its two parts; its first character is the blank before it."""
    if len(word) < 4 or rng.random() >= share:
        return (word,)
    place = int(rng.integers(2, len(word)))
    return word[:place], word[place:]
