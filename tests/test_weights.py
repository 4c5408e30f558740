"""Loading: models of hub cache, pack and folder come out as they went in; everything else is refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_hub
import torch
from tiny_hub import ARCHITECTURE, CLIP, MEAN, SAM, SAM2, STD, TAG

from clipsam.errors import WeightsError
from clipsam.packs import PackedModel, record_files, write_index
from clipsam.presets import ClipSpec, SamSpec
from clipsam.weights import load_clip, load_sam


@pytest.fixture(scope="module", autouse=True)
def built_in(tmp_path_factory):
    tiny_hub.register_tiny_clip(tmp_path_factory.mktemp("configs"))


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CLIPSAM_MODELS", raising=False)
    return tmp_path / "hub"


def same(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = model.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def mine(folder: Path, **changes) -> ClipSpec:
    return ClipSpec("mine", folder=str(folder), **changes)


def test_clip_of_the_hub_cache(tmp_path, hub_cache):
    tiny_hub.put_into_cache(hub_cache, CLIP.repo, tiny_hub.write_clip(tmp_path / "published"))
    parts = load_clip(CLIP)
    assert same(parts.model, tiny_hub.clip_model())
    assert (parts.mean, parts.std) == (tuple(MEAN), tuple(STD))
    assert parts.model.visual.preprocess_cfg["mean"] == parts.mean
    assert parts.image_size == (32, 32)
    assert parts.name == "tiny.openai"
    assert parts.weights_hash == hashlib.sha256(tiny_hub.clip_bytes()).hexdigest()
    assert not parts.model.training
    assert parts.tokenizer(["a scratched bottle"]).shape == (1, 77)


def test_bare_weights_take_mean_and_std_of_the_tag(tmp_path, hub_cache):
    """What open_clip's own download leaves: only the weights. Its default would be OpenAI's constants."""
    tiny_hub.put_into_cache(hub_cache, CLIP.repo, tiny_hub.write_clip(tmp_path / "published", config=None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = load_clip(CLIP)
    assert (parts.mean, parts.std) == (TAG["mean"], TAG["std"])
    assert parts.model.visual.preprocess_cfg["std"] == TAG["std"]
    assert same(parts.model, tiny_hub.clip_model())


def test_mean_and_std_are_never_guessed(tmp_path):
    folder = tiny_hub.write_clip(tmp_path / "own", {"model_cfg": ARCHITECTURE})
    with pytest.raises(WeightsError, match="nothing says with which mean and std mine was trained"):
        load_clip(mine(folder))
    tiny_hub.write_clip(folder, {"model_cfg": ARCHITECTURE, "preprocess_cfg": {"mean": 0.5, "std": 0.5}})
    with pytest.raises(WeightsError, match="expected three numbers"):
        load_clip(mine(folder))


def activations(model: torch.nn.Module) -> set[bool]:
    from open_clip.transformer import QuickGELU

    blocks = (*model.visual.transformer.resblocks, *model.transformer.resblocks)
    return {isinstance(block.mlp.gelu, QuickGELU) for block in blocks}


def test_activation_is_that_of_the_training(tmp_path):
    plain = {**ARCHITECTURE, "quick_gelu": False}
    folder = tiny_hub.write_clip(
        tmp_path / "own", {"model_cfg": plain, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    )
    assert activations(load_clip(mine(folder, quick_gelu=None)).model) == {False}
    assert activations(load_clip(mine(folder, quick_gelu=False)).model) == {False}
    assert activations(load_clip(mine(folder, quick_gelu=True)).model) == {True}
    tiny_hub.write_clip(folder)
    assert activations(load_clip(mine(folder, quick_gelu=None)).model) == {True}
    with pytest.raises(
        WeightsError, match=r"gives quick_gelu=True, but mine was trained with quick_gelu=False"
    ):
        load_clip(mine(folder, quick_gelu=False))


def test_siglip_2_reads_lower_case_and_64_tokens_with_the_tokenizer_beside_it(tmp_path, monkeypatch):
    """A tiny tower and text tower in the form of open_clip's SigLIP 2, under a name of its own."""
    import open_clip
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    real = open_clip.get_model_config("ViT-L-16-SigLIP2-512")
    assert real["text_cfg"]["context_length"] == 64
    assert real["text_cfg"]["tokenizer_kwargs"] == {"clean": "canonicalize"}
    tower = {
        "timm_model_name": "vit_tiny_patch16_224",
        "image_size": 32,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    text = {**real["text_cfg"], "vocab_size": 6, "width": 192, "heads": 3, "layers": 1}
    config = {**real, "embed_dim": 192, "vision_cfg": {**real["vision_cfg"], **tower}, "text_cfg": text}
    (tmp_path / "tiny-siglip2.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-siglip2.json")
    colours = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-siglip2", {"webli": colours})
    model = open_clip.create_model("tiny-siglip2", load_weights=False, pretrained_text=False)
    folder = tmp_path / "siglip2"
    folder.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
    spec = ClipSpec(
        "siglip2", folder=str(folder), architecture="tiny-siglip2", tag="webli", own_tokenizer=True
    )
    with pytest.raises(WeightsError, match=r"tokenizer\.json is missing"):
        load_clip(spec)
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3, "scratched": 4, "bottle": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>").save_pretrained(folder)
    parts = load_clip(spec)
    tokens = parts.tokenizer(["A scratched, Bottle."])
    assert tokens.tolist() == [[3, 4, 5] + [0] * 61]
    assert parts.model.encode_text(tokens).shape == (1, 192)
    assert parts.mean == (0.5,) * 3


def test_the_embedded_pair_s_kind_loads_from_its_folder(tmp_path):
    """A timm tower of this package and a tokenizer in files, as CLIP-nano has them."""
    from open_clip import CLIP as OpenClip
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    import clipsam.nano.tower  # noqa: F401

    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2, "a": 3, "scratch": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tower = {
        "timm_model_name": "clipsam_nano_16",
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 64,
    }
    text = {
        "context_length": 8,
        "vocab_size": 5,
        "hf_tokenizer_name": "local",
        "width": 8,
        "heads": 1,
        "layers": 1,
    }
    config = {
        "embed_dim": 8,
        "vision_cfg": tower,
        "text_cfg": {**text, "pad_id": 0, "eos_id": 1, "pool_type": "eos"},
    }
    model = OpenClip(**json.loads(json.dumps(config)))
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": MEAN, "std": STD}})
    )
    from safetensors.torch import save_file

    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(
        folder
    )
    parts = load_clip(mine(folder))
    assert same(parts.model, model)
    assert parts.tokenizer(["a scratch"])[0, :3].tolist() == [3, 4, 0]


def test_clip_parts_fit_the_encoder(tmp_path):
    from clipsam.clip import ClipEncoder

    parts = load_clip(mine(tiny_hub.write_clip(tmp_path / "own")))
    encoder = ClipEncoder(
        parts.model,
        parts.tokenizer,
        mean=parts.mean,
        std=parts.std,
        name=parts.name,
        weights_hash=parts.weights_hash,
        device="cpu",
        dtype="float32",
        cache_dir=tmp_path / "cache",
    )
    assert encoder.encode_pixels(torch.rand(1, 3, 32, 48)).patches.shape == (1, 2, 3, 8)
    assert encoder.encode_sentences(["a bottle", "a cracked bottle"]).shape == (2, 8)


def test_sam_of_the_hub_cache(tmp_path, hub_cache):
    published = tiny_hub.write_sam(tmp_path / "published")
    tiny_hub.put_into_cache(hub_cache, SAM.repo, published)
    parts = load_sam(SAM)
    assert type(parts.model).__name__ == "SamModel"
    assert same(parts.model, tiny_hub._sam_models()[0])
    assert type(parts.processor).__name__ == "SamProcessor"
    assert parts.processor.image_processor.size["longest_edge"] == 64
    assert parts.weights_hash == hashlib.sha256((published / "model.safetensors").read_bytes()).hexdigest()
    assert not parts.model.training
    assert {p.dtype for p in parts.model.parameters()} == {torch.float32}


def test_sam_parts_fit_the_refiner(tmp_path):
    import numpy as np

    from clipsam.sam import SamRefiner
    from clipsam.settings import SamSettings

    parts = load_sam(SamSpec("mine", folder=str(tiny_hub.write_sam(tmp_path / "own"))))
    refiner = SamRefiner(
        parts.model,
        parts.processor,
        name=parts.name,
        weights_hash=parts.weights_hash,
        device="cpu",
        dtype="float32",
    )
    assert (refiner.name, refiner.weights_hash) == ("mine", parts.weights_hash)
    pixels = np.zeros((40, 60, 3), np.uint8)
    assert refiner.refine(pixels, (), np.zeros((40, 60), np.float32), SamSettings()) == ()


def test_sharded_sam(tmp_path):
    folder = tiny_hub.write_sam(tmp_path / "own", max_shard_size="50KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    parts = load_sam(SamSpec("mine", folder=str(folder)))
    assert same(parts.model, tiny_hub._sam_models()[0])
    assert len(parts.weights_hash) == 64


def test_sam2_as_published_is_a_video_model(tmp_path, hub_cache, capfd):
    published = tiny_hub.write_sam2(tmp_path / "published")
    assert json.loads((published / "config.json").read_text())["model_type"] == "sam2_video"
    tiny_hub.put_into_cache(hub_cache, SAM2.repo, published)
    capfd.readouterr()
    parts = load_sam(SAM2)
    assert capfd.readouterr().err == ""  # no bars, no remark about video weights
    assert type(parts.model).__name__ == "Sam2Model"
    video = tiny_hub._sam_models()[1].state_dict()
    assert all(torch.equal(tensor, video[name]) for name, tensor in parts.model.state_dict().items())
    assert parts.processor.target_size == 64


def test_a_family_that_is_not_known(tmp_path):
    folder = tiny_hub.write_sam(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "sam_video"}))
    with pytest.raises(
        WeightsError, match=r"model_type 'sam_video'; expected one of: sam, sam_hq, sam2, sam2_video"
    ):
        load_sam(SamSpec("mine", folder=str(folder)))


def test_sam_with_missing_tensors_is_refused(tmp_path):
    folder = tiny_hub.write_sam(tmp_path / "own")
    tiny_hub.drop_tensor(folder / "model.safetensors", "mask_decoder.iou_token.weight")
    with pytest.raises(
        WeightsError, match=r"1 tensors are missing, mask_decoder\.iou_token\.weight among them"
    ):
        load_sam(SamSpec("mine", folder=str(folder)))


@pytest.mark.parametrize("damage", ["truncated", "other shapes", "not json"])
def test_damaged_clip(tmp_path, damage):
    folder = tiny_hub.write_clip(tmp_path / "own")
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "other shapes":
        config.write_text(config.read_text().replace('"embed_dim": 8', '"embed_dim": 9'))
    else:
        config.write_text(config.read_text()[:-3])
    with pytest.raises(WeightsError, match=r"own.*cannot be (loaded|read)") as error:
        load_clip(mine(folder))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700


def test_truncated_sam(tmp_path):
    folder = tiny_hub.write_sam(tmp_path / "own")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"mine in .*own cannot be loaded"):
        load_sam(SamSpec("mine", folder=str(folder)))


class Bomb:
    """Unpickling this makes a file: the proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path):
    folder = tiny_hub.write_clip(tmp_path / "own")
    (folder / "open_clip_model.safetensors").unlink()
    evil = folder / "open_clip_pytorch_model.bin"
    torch.save({"visual.proj": Bomb(tmp_path / "ran")}, evil)
    for _ in range(2):
        with pytest.raises(WeightsError, match="damaged, or a pickle that could run code"):
            load_clip(mine(folder))
        evil.write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))  # and the format of old
    assert not (tmp_path / "ran").exists()
    pickle.loads(evil.read_bytes()).close()
    assert (tmp_path / "ran").exists()  # it would have run


def test_a_pickle_of_tensors_is_accepted(tmp_path):
    folder = tiny_hub.write_clip(tmp_path / "own")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save(tiny_hub.clip_model().state_dict(), folder / "open_clip_pytorch_model.bin")
    assert same(load_clip(mine(folder)).model, tiny_hub.clip_model())


def test_tampered_pack_is_not_loaded(tmp_path):
    pack = tmp_path / "pack"
    folder = tiny_hub.write_clip(pack / CLIP.name)
    files = record_files(folder)
    hash_ = files["open_clip_model.safetensors"].sha256
    write_index(pack, {CLIP.name: PackedModel("clip", "acme/tiny-clip@1", "MIT", hash_, files)})
    assert load_clip(CLIP, pack).weights_hash == hash_
    weights = folder / "open_clip_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # a valid file of slightly other weights
    weights.write_bytes(content)
    with pytest.raises(WeightsError, match=r"open_clip_model\.safetensors is changed against pack\.json"):
        load_clip(CLIP, pack)
    with pytest.raises(WeightsError, match="not on this machine"):
        load_clip(replace(CLIP, name="other"), pack)


def test_loading_works_offline_and_never_asks_the_network(tmp_path):
    """A fresh process whose sockets refuse, with its own HF_HOME; then under HF_HUB_OFFLINE too."""
    for repo, folder in (
        (SAM.repo, tiny_hub.write_sam(tmp_path / "sam")),
        (CLIP.repo, tiny_hub.write_clip(tmp_path / "clip")),
    ):
        tiny_hub.put_into_cache(tmp_path / "home" / "hub", repo, folder)
    code = """
import socket, sys
def refuse(*args, **kwargs): raise SystemExit("the network was asked")
socket.getaddrinfo = socket.create_connection = refuse
sys.path.insert(0, sys.argv[1])
import huggingface_hub.constants, pathlib, tiny_hub
from clipsam.weights import load_clip, load_sam
tiny_hub.register_tiny_clip(pathlib.Path(sys.argv[2]))
for offline in (False, True):
    huggingface_hub.constants.HF_HUB_OFFLINE = offline
    print(load_clip(tiny_hub.CLIP).name, load_sam(tiny_hub.SAM).name)
"""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CLIPSAM_"))}
    environment = {**inherited, "HF_HOME": str(tmp_path / "home"), "CLIPSAM_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["tiny.openai", "tiny-sam"] * 2, done.stderr
