"""The small tokenizer of CLIP-nano: byte-level BPE over the words of the corpus, so that any product name has
tokens.

Input: sentences. Output: a transformers fast tokenizer that pads on the right and ends each sentence with
`<eos>`.
"""

from __future__ import annotations

from collections.abc import Iterable

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
