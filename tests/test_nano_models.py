"""The embedded pair with fresh weights, written and read back by the code of the big models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipsam.clip import ClipEncoder
from clipsam.errors import UsageError
from clipsam.nano import models
from clipsam.nano.clicks import framed
from clipsam.nano.tokenizer import train_tokenizer
from clipsam.nano.train_clip import encode_text, normalised
from clipsam.presets import ClipSpec, SamSpec
from clipsam.regions import RegionSettings, region_prompts
from clipsam.sam import SamRefiner, SamSettings
from clipsam.weights import load_clip, load_sam

SENTENCES = ["a flawless bottle", "a bottle with a scratch", "a photo of a cracked torvik"]
HEIGHT, WIDTH = 64, 96


def rounded(model):
    """The same model with the weights that a float16 file holds, so that copies can be compared exactly."""
    model.load_state_dict(
        {k: v.half().float() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    )
    return model.eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A fresh CLIP-nano, its tokenizer, and the folder it was saved to."""
    tokenizer = train_tokenizer(SENTENCES * 5, vocab_size=300)
    config = models.clip_config(len(tokenizer), tokenizer.pad_token_id, tokenizer.eos_token_id)
    torch.manual_seed(0)
    model = models.build_clip(config)
    for name, value in model.visual.named_buffers():  # as after a training: norms that have seen pictures
        if "running" in name:
            value.uniform_(0.5, 1.5)
    folder = tmp_path_factory.mktemp("nano") / "clip"
    models.save_clip(rounded(model), config, tokenizer, folder)
    return model, tokenizer, folder


@pytest.fixture(scope="module")
def encoder(clip, tmp_path_factory):
    return ClipEncoder.from_dir(clip[2], cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    torch.manual_seed(0)
    model = rounded(models.build_sam())
    folder = tmp_path_factory.mktemp("nano") / "sam"
    models.save_sam(model, folder)
    return model, folder


def test_clip_comes_back_with_its_weights_and_its_normalisation(clip):
    parts = load_clip(ClipSpec("nano", folder=str(clip[2])))
    assert (parts.mean, parts.std, parts.image_size) == (models.MEAN, models.STD, (256, 256))
    expected, found = clip[0].state_dict(), parts.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_encoder_reads_the_saved_tokenizer(clip, encoder):
    _, tokenizer, _ = clip
    options = {"padding": "max_length", "truncation": True, "max_length": models.CONTEXT}
    expected = tokenizer(SENTENCES, return_tensors="pt", **options).input_ids
    assert torch.equal(encoder.tokenizer(SENTENCES), expected)


def test_sentences_are_those_of_the_training(clip, encoder):
    model, tokenizer, _ = clip
    with torch.no_grad():
        expected = encode_text(model, tokenizer, SENTENCES, "cpu")
    assert torch.allclose(encoder.encode_sentences(SENTENCES), expected, atol=1e-5)


def test_plain_features_are_those_of_the_training(clip, encoder, pixels):
    model, _, _ = clip
    bytes_ = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    with torch.no_grad():
        tokens = model.visual.trunk.forward_features(normalised(bytes_))
        patches = F.normalize(model.visual.head(tokens), dim=-1)
        pooled = F.normalize(model.visual.head(tokens.mean(dim=1)), dim=-1)
    found = encoder.encode_pixels(bytes_.permute(0, 3, 1, 2) / 255, "plain")
    assert torch.allclose(found.patches.flatten(1, 2), patches, atol=1e-4)
    assert torch.allclose(found.pooled, pooled, atol=1e-4)


@pytest.mark.parametrize("attention", ["plain", "v-v"])
@pytest.mark.parametrize(("height", "width"), [(HEIGHT, WIDTH), (96, 48), (16, 16)])
def test_any_size_in_whole_patches(encoder, pixels, attention, height, width):
    resized = F.interpolate(pixels, (height, width))
    features = encoder.encode_pixels(resized, attention)
    assert features.patches.shape == (2, height // 16, width // 16, 128)
    assert torch.allclose(features.patches.norm(dim=-1), torch.ones(()), atol=1e-5)


def test_modes_differ_in_patches_and_agree_on_the_whole(encoder, pixels):
    plain, dense = (encoder.encode_pixels(pixels, mode) for mode in ("plain", "v-v"))
    assert not torch.allclose(plain.patches, dense.patches, atol=1e-3)
    assert torch.equal(plain.pooled, dense.pooled)


def test_broken_patches_are_refused(encoder):
    with pytest.raises(UsageError, match="multiples of 16"):
        encoder.encode_pixels(torch.zeros(1, 3, 64, 70))


def test_flat_pictures_give_numbers(encoder):
    assert encoder.encode_pixels(torch.zeros(1, 3, 32, 32)).patches.isfinite().all()


def test_sam_comes_back_with_its_weights(sam):
    found = load_sam(SamSpec("nano", folder=str(sam[1]))).model.state_dict()
    expected = sam[0].state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_sam_refines_a_photo_that_is_not_square(sam):
    parts = load_sam(SamSpec("nano", folder=str(sam[1])))
    photo = np.random.default_rng(0).integers(0, 256, (120, 80, 3), dtype=np.uint8)
    coarse = np.zeros((120, 80), np.float32)
    coarse[30:50, 20:60] = 0.9
    prompts = region_prompts(coarse, RegionSettings())
    asked = SamSettings(min_agreement=0, swallow=1e6)
    masks = SamRefiner(**vars(parts)).refine(photo, prompts, coarse, asked)
    assert {mask.kind for mask in masks} == {"points", "box", "box+points"}
    for mask in masks:
        height, width = mask.probability.shape
        assert 0 <= mask.x0 <= mask.x0 + width <= 80
        assert 0 <= mask.y0 <= mask.y0 + height <= 120


@pytest.mark.parametrize("size", [(120, 80), (200, 300), (500, 400)])
def test_training_frames_pictures_as_the_processor_does(size):
    photo = np.random.default_rng(0).integers(0, 256, (size[0] // 10, size[1] // 10, 3), dtype=np.uint8)
    photo = photo.repeat(10, axis=0).repeat(10, axis=1)
    seen = models.sam_processor()(images=photo, return_tensors="pt")["pixel_values"][0]
    trained = normalised(framed(photo, [photo[..., 0] > 100], models.SAM_SIZE / max(size))[0][None])[0]
    assert seen.shape == trained.shape == (3, models.SAM_SIZE, models.SAM_SIZE)
    assert (seen - trained).abs().max() < 0.05


def test_half_precision_keeps_shared_tensors_once_and_integers_whole():
    class Two(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
            self.second.weight = self.first.weight
            self.norm = torch.nn.BatchNorm1d(3)

    state = models.half_precision(Two())
    assert "first.weight" in state
    assert "second.weight" not in state
    assert state["second.bias"].dtype == torch.float16
    assert state["norm.num_batches_tracked"].dtype == torch.int64
    assert all(tensor.is_contiguous() for tensor in state.values())


def test_files_are_small(clip, sam):
    size = sum(f.stat().st_size for folder in (clip[2], sam[1]) for f in folder.iterdir())
    assert size < 25e6
