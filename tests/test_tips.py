"""TIPSv2 through transformers: the same tokens, pooled embedding and sentences as its own model gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from clipsam.attention import ATTENTION_MODES
from clipsam.clip import ClipEncoder
from clipsam.errors import WeightsError
from clipsam.locations import locate
from clipsam.presets import ClipSpec
from clipsam.towers import attend

pytest.importorskip("transformers.models.tipsv2")

WORDS = {"<pad>": 0, "<unk>": 1, "a": 2, "scratched": 3, "bottle": 4}
SENTENCES = ["a bottle", "A scratched Bottle", " ".join(["a bottle"] * 50)]


def tiny_tips() -> Any:
    from transformers import Tipsv2Config, Tipsv2Model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Tipsv2Config(
            vision_config={
                "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 3, "image_size": 32,
                "patch_size": 8, "num_register_tokens": 2,
            },
            text_config={
                "vocab_size": 5, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2,
            },
        )  # fmt: skip
        model = Tipsv2Model(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tips")
    tiny_tips().save_pretrained(path)
    words = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>").save_pretrained(path)
    return path


@pytest.fixture
def encoder(folder: Path, tmp_path: Path) -> ClipEncoder:
    return ClipEncoder.from_spec(spec(folder), cache_dir=tmp_path)


def spec(folder: Path) -> ClipSpec:
    return ClipSpec("tips", folder=str(folder), library="transformers", own_tokenizer=True)


def pictures(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_patches_and_the_whole_are_transformers_own(encoder: ClipEncoder, size: tuple[int, int]) -> None:
    found = tiny_tips().vision_model(pixel_values=pictures(*size))
    ours = encoder.encode_pixels(pictures(*size), "plain")
    patches = F.normalize(found.last_hidden_state[:, 3:], dim=-1).unflatten(1, (size[0] // 8, size[1] // 8))
    torch.testing.assert_close(ours.patches, patches, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.pooled, F.normalize(found.pooler_output, dim=-1), atol=1e-5, rtol=0)


def test_blocks_are_rebuilt_from_their_pieces(encoder: ClipEncoder) -> None:
    start = encoder.tower.embed(pictures())
    tokens = start.tokens
    for block in start.blocks:
        q, k, v = (block.heads(tokens, part) for part in ("q", "k", "v"))
        rebuilt = block.ffn(tokens + block.merge(attend(q, k, v)))
        torch.testing.assert_close(rebuilt, block(tokens), atol=1e-5, rtol=1e-5)
        tokens = block(tokens)


def test_every_mode_that_needs_no_other_encoder_runs_and_differs(encoder: ClipEncoder) -> None:
    modes = [name for name, mode in ATTENTION_MODES.items() if not mode.proxy]
    found = [encoder.encode_pixels(pictures(), mode).patches for mode in modes]
    for i, one in enumerate(found):
        assert all((one - other).abs().max() > 1e-4 for other in found[i + 1 :])
    assert encoder.encode_windows(pictures(), (2,)).windows[0].shape == (2, 3, 3, 24)


def test_sentences_are_lower_case_cut_at_64_and_padding_does_not_count(encoder: ClipEncoder) -> None:
    ids = [[2, 4], [2, 3, 4], [2, 4] * 32]
    model = tiny_tips().text_model
    expected = torch.cat([model(input_ids=torch.tensor([row])).pooler_output for row in ids])
    ours = encoder.encode_sentences(SENTENCES)
    torch.testing.assert_close(ours, F.normalize(expected, dim=-1), atol=1e-5, rtol=0)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    import shutil

    part = shutil.copytree(folder, tmp_path / "part")
    (part / "tokenizer.json").unlink()
    location = locate(spec(part))
    assert location is not None
    assert location.missing == ("tokenizer.json",)
    (folder_of_another := tmp_path / "other").mkdir()
    for path in folder.iterdir():
        shutil.copy(path, folder_of_another)
    config = (folder_of_another / "config.json").read_text()
    (folder_of_another / "config.json").write_text(config.replace('"tipsv2"', '"clip"'))
    with pytest.raises(WeightsError, match="model_type 'clip'; expected one of: tipsv2"):
        ClipEncoder.from_spec(spec(folder_of_another))
