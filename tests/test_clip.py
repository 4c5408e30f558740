"""ClipEncoder: units, sizes, precision, sentences and their cache, folders, real architectures on random
weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clip import DIM, IMAGE, PATCH, TOWERS, save_tiny_clip, tiny_encoder, tiny_model

from clipsam.clip import ClipEncoder, hash_parameters
from clipsam.errors import TowerError, UsageError, WeightsError

SENTENCES = ["a photo of a flawless bottle.", "a photo of a bottle with a scratch.", "a bottle"]


@pytest.mark.parametrize("tower", TOWERS)
def test_features_are_float32_unit_vectors_for_any_size_in_whole_patches(tower: str) -> None:
    encoder = tiny_encoder(tower)
    features = encoder.encode_pixels(torch.rand(3, 3, 3 * PATCH, 6 * PATCH))
    assert features.patches.shape == (3, 3, 6, encoder.dim)
    assert features.pooled.shape == (3, encoder.dim)
    assert features.patches.dtype == features.pooled.dtype == torch.float32
    torch.testing.assert_close(features.patches.norm(dim=-1), torch.ones(3, 3, 6))
    torch.testing.assert_close(features.pooled.norm(dim=-1), torch.ones(3))


def test_describes_itself() -> None:
    encoder = tiny_encoder()
    assert (encoder.patch_size, encoder.image_size, encoder.depth, encoder.dim) == (
        PATCH,
        (IMAGE, IMAGE),
        4,
        DIM,
    )
    assert encoder.name == "native"


def test_pooled_equals_open_clips_encode_image() -> None:
    pixels = torch.rand(2, 3, IMAGE, IMAGE)
    model = tiny_model()
    encoder = tiny_encoder(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    normalised = (pixels - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(
        3, 1, 1
    )
    with torch.no_grad():
        expected = model.encode_image(normalised, normalize=True)
    torch.testing.assert_close(encoder.encode_pixels(pixels).pooled, expected, atol=1e-5, rtol=0)


def test_a_batch_gives_what_its_pictures_give_alone() -> None:
    encoder, pixels = tiny_encoder("timm"), torch.rand(3, 3, 2 * PATCH, 4 * PATCH)
    batch = encoder.encode_pixels(pixels).patches
    alone = torch.cat([encoder.encode_pixels(picture[None]).patches for picture in pixels])
    torch.testing.assert_close(batch, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", TOWERS)
def test_bfloat16_stays_close_to_float32(tower: str) -> None:
    pixels = torch.rand(1, 3, 3 * PATCH, 4 * PATCH)
    exact = tiny_encoder(tower).encode_pixels(pixels)
    rough = tiny_encoder(tower, dtype="bfloat16").encode_pixels(pixels)
    assert rough.patches.dtype == torch.float32
    for a, b in ((exact.patches, rough.patches), (exact.pooled, rough.pooled)):
        assert (a * b).sum(dim=-1).min() > 0.999
        assert not torch.equal(a, b), "bfloat16 was not used"


@pytest.mark.parametrize("tower", ["native", "timm"])
def test_bfloat16_halves_the_matrices_of_the_image_tower(tower: str) -> None:
    visual = tiny_encoder(tower, dtype="bfloat16").model.visual
    sizes = dict.fromkeys((torch.float32, torch.bfloat16), 0)
    for parameter in visual.parameters():
        sizes[parameter.dtype] += parameter.numel()
    assert sizes[torch.bfloat16] > 10 * sizes[torch.float32]


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(UsageError, match="float32, bfloat16"):
        tiny_encoder(dtype="int8")


@pytest.mark.parametrize("size", [(PATCH + 1, PATCH), (0, PATCH)])
def test_sizes_that_are_no_whole_patches_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="multiples of 8 px"):
        tiny_encoder().encode_pixels(torch.rand(1, 3, *size))


def test_sentences_keep_their_order_and_equal_open_clips(tmp_path: Path) -> None:
    encoder = tiny_encoder(cache_dir=tmp_path)
    repeated = [SENTENCES[2], SENTENCES[0], SENTENCES[2]]
    embeddings = encoder.encode_sentences(repeated)
    with torch.no_grad():
        expected = encoder.model.encode_text(encoder.tokenizer(repeated), normalize=True)
    torch.testing.assert_close(embeddings, expected, atol=1e-5, rtol=0)


def test_many_sentences_go_through_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder(cache_dir=tmp_path)
    sizes: list[int] = []
    encode = encoder.model.encode_text
    monkeypatch.setattr(
        encoder.model, "encode_text", lambda tokens: sizes.append(len(tokens)) or encode(tokens)
    )
    assert encoder.encode_sentences([f"sentence {i}" for i in range(150)]).shape == (150, DIM)
    assert sizes == [64, 64, 22]


def _mute(encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(tokens: Any) -> None:
        raise AssertionError("the text tower ran")

    monkeypatch.setattr(encoder.model, "encode_text", refuse)


def test_sentences_are_remembered_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the cache folder should be")
    encoder = tiny_encoder(cache_dir=blocked)  # cannot be written: still works
    first = encoder.encode_sentences(SENTENCES)
    _mute(encoder, monkeypatch)
    torch.testing.assert_close(encoder.encode_sentences(SENTENCES[::-1]), first.flip(0), atol=0, rtol=0)


def test_sentences_are_remembered_on_disk_for_the_same_weights_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tiny_encoder(cache_dir=tmp_path).encode_sentences(SENTENCES)
    again = tiny_encoder(cache_dir=tmp_path)
    _mute(again, monkeypatch)
    torch.testing.assert_close(again.encode_sentences(SENTENCES), first, atol=0, rtol=0)
    other = tiny_encoder(seed=1, cache_dir=tmp_path).encode_sentences(SENTENCES)
    assert not torch.allclose(other, first)
    assert len(list((tmp_path / "sentences").iterdir())) == 2, "one file per weights, no leftovers"


def test_a_damaged_cache_file_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = tiny_encoder(cache_dir=tmp_path).encode_sentences(SENTENCES)
    (file,) = (tmp_path / "sentences").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    torch.testing.assert_close(tiny_encoder(cache_dir=tmp_path).encode_sentences(SENTENCES), first)
    again = tiny_encoder(cache_dir=tmp_path)
    _mute(again, monkeypatch)
    again.encode_sentences(SENTENCES)


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path / "here"))
    tiny_encoder().encode_sentences(SENTENCES)
    assert len(list((tmp_path / "here" / "sentences").glob("*.safetensors"))) == 1


def test_no_sentences_are_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        tiny_encoder().encode_sentences([])


@pytest.mark.parametrize("tower", ["native", "siglip"])
def test_a_folder_gives_the_encoder_that_was_saved(tower: str, tmp_path: Path) -> None:
    encoder = ClipEncoder.from_dir(save_tiny_clip(tmp_path / "my-clip", tower), cache_dir=tmp_path)
    reference = tiny_encoder(tower, cache_dir=tmp_path / "other")
    pixels = torch.rand(1, 3, 3 * PATCH, 5 * PATCH)
    torch.testing.assert_close(encoder.encode_pixels(pixels).patches, reference.encode_pixels(pixels).patches)
    torch.testing.assert_close(encoder.encode_sentences(SENTENCES), reference.encode_sentences(SENTENCES))
    assert encoder.name == "my-clip"
    assert len(encoder.weights_hash) == 64


@pytest.mark.parametrize("missing", ["open_clip_config.json", "open_clip_model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(missing: str, tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    (folder / missing).unlink()
    with pytest.raises(WeightsError, match="clip"):
        ClipEncoder.from_dir(folder)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = save_tiny_clip(tmp_path / "clip")
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(WeightsError):
        ClipEncoder.from_dir(folder)


def test_hash_of_parameters_sees_one_changed_number() -> None:
    model = tiny_model()
    before = hash_parameters(model)
    assert before == hash_parameters(tiny_model())
    with torch.no_grad():
        model.visual.proj[0, 0] += 1e-6
    assert hash_parameters(model) != before


def test_resnets_of_open_clip_are_refused() -> None:
    with pytest.raises(TowerError, match="no patch tokens"):
        ClipEncoder.random("RN50")


def test_random_names_what_is_unknown() -> None:
    with pytest.raises(UsageError, match="no model 'ViT-Z'"):
        ClipEncoder.random("ViT-Z")


def _run(name: str, seed: int, size: tuple[int, int], grid: tuple[int, int], dim: int) -> ClipEncoder:
    state = torch.get_rng_state()
    encoder = ClipEncoder.random(name, seed)
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers were disturbed"
    features = encoder.encode_pixels(torch.rand(1, 3, *size))
    assert features.patches.shape == (1, *grid, dim)
    assert torch.isfinite(features.patches).all()
    return encoder


def test_vit_b_16_plus_240_on_random_weights() -> None:
    encoder = _run("ViT-B-16-plus-240", 0, (96, 144), (6, 9), 640)
    assert (encoder.patch_size, encoder.image_size, encoder.depth) == (16, (240, 240), 12)


@pytest.mark.slow
def test_vit_l_14_336_on_random_weights() -> None:
    encoder = _run("ViT-L-14-336", 0, (224, 336), (16, 24), 768)
    assert (encoder.patch_size, encoder.image_size, encoder.depth) == (14, (336, 336), 24)
    assert ClipEncoder.random("ViT-L-14-336", 0).weights_hash == encoder.weights_hash


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ViT-B-16-SigLIP",
        "ViT-B-16-SigLIP2",
        "MobileCLIP2-B",
        "EVA02-B-16",
        "PE-Core-T-16-384",
        "ViTamin-S",
        "MobileCLIP-B",
        "coca_ViT-B-32",
    ],
)
def test_other_families_pool_as_open_clip_does(name: str) -> None:
    import open_clip

    model = open_clip.create_model(name, load_weights=False, pretrained_text=False).eval()
    pixels = torch.rand(
        1,
        3,
        *(
            [model.visual.image_size] * 2
            if isinstance(model.visual.image_size, int)
            else model.visual.image_size
        ),
    )
    with torch.no_grad():
        expected = model.encode_image(pixels, normalize=True)
    encoder = ClipEncoder(model, lambda _: None, mean=(0, 0, 0), std=(1, 1, 1), name=name, weights_hash="")
    torch.testing.assert_close(encoder.encode_pixels(pixels).pooled, expected, atol=1e-4, rtol=0)
    patch = encoder.patch_size
    assert encoder.encode_pixels(torch.rand(2, 3, 5 * patch, 9 * patch)).patches.shape == (
        2,
        5,
        9,
        encoder.dim,
    )
