"""Pull: from a hub (served here over HTTP) or what is present, into cache or pack; and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_hub
from tiny_hub import CLIP, SAM

from clipsam import hub
from clipsam.errors import UsageError, WeightsError
from clipsam.locations import locate, prove
from clipsam.packs import index_pair, read_index, verify_pack
from clipsam.presets import PRESETS, Preset
from clipsam.pull import pull
from clipsam.weights import load_clip, load_sam

PRESET = Preset("tiny", "a tiny pair", CLIP, SAM)


@pytest.fixture(scope="module", autouse=True)
def built_in(tmp_path_factory):
    tiny_hub.register_tiny_clip(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The repositories, with files that a pull must leave where they are."""
    root = tmp_path_factory.mktemp("published")
    clip, sam = tiny_hub.write_clip(root / "clip"), tiny_hub.write_sam(root / "sam")
    (clip / "open_clip_pytorch_model.bin").write_bytes(b"the same weights again")
    (clip / "model.safetensors").write_bytes(b"the image tower alone")
    (sam / "pytorch_model.bin").write_bytes(b"the same weights again")
    (sam / "README.md").write_text("a card")
    return {CLIP.repo: clip, SAM.repo: sam}


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path / "cache"))
    for name in ("CLIPSAM_MODELS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "hub"


def pull_in_a_process(endpoint: str, home: Path, *steps: dict) -> list[str]:
    """Pull several times in a fresh process, because the hub's client reads its environment at import.

    A step may hold `to` (a directory), `repo` (another one for the CLIP) and `offline`; each gives one line.
    """
    code = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from dataclasses import replace
from pathlib import Path
from tiny_hub import CLIP, SAM
from clipsam.errors import ClipsamError
from clipsam.presets import Preset
from clipsam.pull import pull
for step in json.loads(sys.argv[2]):
    os.environ["HF_HUB_OFFLINE"] = "1" if step.get("offline") else "0"
    preset = Preset("tiny", "", replace(CLIP, repo=step.get("repo", CLIP.repo)), SAM)
    try:
        print(*(one.how for one in pull(preset, Path(step["to"]) if "to" in step else None)))
    except ClipsamError as error:
        print(type(error).__name__, error)
"""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "CLIPSAM_"))}
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), json.dumps(steps)],
        env={
            **inherited,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "CLIPSAM_CACHE": str(home / "cache"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_fetch_into_the_cache_and_into_a_pack(tmp_path, published, monkeypatch):
    home, pack = tmp_path / "home", tmp_path / "pack"
    with tiny_hub.serve_hub(published) as endpoint:
        steps = [{"to": str(pack)}, {}, {"to": str(pack)}, {"offline": True}]
        assert pull_in_a_process(endpoint, home, *steps) == ["fetched fetched"] * 2 + ["present present"] * 2
    assert names(pack) == ["pack.json", "tiny-sam", "tiny.openai"]
    assert names(pack / "tiny.openai") == ["open_clip_config.json", "open_clip_model.safetensors"]
    assert names(pack / "tiny-sam") == ["config.json", "model.safetensors", "processor_config.json"]
    assert {check.state for check in verify_pack(pack)} == {"ok"}
    record = read_index(pack).models["tiny.openai"]
    assert (record.source, record.licence) == (f"acme/tiny-clip@{tiny_hub.COMMIT}", "MIT")
    assert load_clip(CLIP, pack).weights_hash == record.weights_hash
    assert read_index(pack).versions["transformers"]
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    assert locate(CLIP).place == locate(SAM).place == "hub cache"
    assert load_sam(SAM).weights_hash == read_index(pack).models["tiny-sam"].weights_hash


def test_failures_are_one_sentence_each(tmp_path, published):
    repos, pack = {**published, "acme/forged": published[CLIP.repo]}, tmp_path / "pack"
    steps = [{"repo": f"acme/{name}"} for name in ("gated", "gone", "silent")]
    steps += [{"offline": True}, {"repo": "acme/forged", "to": str(pack)}]
    with tiny_hub.serve_hub(repos) as endpoint:
        gated, gone, silent, offline, forged = pull_in_a_process(endpoint, tmp_path / "home", *steps)
    assert gated.startswith("WeightsError acme/gated is gated: accept its terms")
    assert gone.startswith("WeightsError the hub shows no acme/gone at revision 'main'")
    assert silent.startswith("WeightsError acme/silent could not be fetched (")
    assert "check the network and HTTPS_PROXY" in silent
    assert offline.startswith("WeightsError acme/tiny-clip cannot be fetched because HF_HUB_OFFLINE is set")
    assert forged.endswith(
        "open_clip_model.safetensors is not what the hub declares; delete it and pull again"
    )
    assert not (pack / CLIP.name).exists()


def test_copy_what_is_present(tmp_path, hub_cache, published):
    for repo, folder in published.items():
        tiny_hub.put_into_cache(hub_cache, repo, folder)
    said: list[str] = []
    pack = tmp_path / "pack"
    assert [one.how for one in pull(PRESET, pack, announce=said.append)] == ["copied", "copied"]
    assert [line.split()[0] for line in said] == ["copying", "copying"]
    assert not any(path.is_symlink() for path in pack.rglob("*"))
    assert {check.state for check in verify_pack(pack)} == {"ok"}
    assert read_index(pack).models["tiny-sam"].source == f"acme/tiny-sam@{tiny_hub.COMMIT}"
    assert [one.how for one in pull(PRESET, pack)] == ["present", "present"]
    # a pack of a pack keeps the source
    assert [one.how for one in pull(PRESET, tmp_path / "second", models_dir=pack)] == ["copied", "copied"]
    assert read_index(tmp_path / "second").models == read_index(pack).models


def test_pulling_again_mends_a_damaged_pack(tmp_path, hub_cache, published):
    for repo, folder in published.items():
        tiny_hub.put_into_cache(hub_cache, repo, folder)
    pack = tmp_path / "pack"
    pull(PRESET, pack)
    (pack / "tiny-sam" / "model.safetensors").write_bytes(b"cut")
    assert [one.how for one in pull(PRESET, pack)] == ["present", "copied"]
    assert {check.state for check in verify_pack(pack)} == {"ok"}


def test_a_damaged_pack_is_not_copied_on(tmp_path, hub_cache, published):
    for repo, folder in published.items():
        tiny_hub.put_into_cache(hub_cache, repo, folder)
    pull(PRESET, tmp_path / "pack")
    (tmp_path / "pack" / "tiny-sam" / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"config\.json is changed against pack\.json"):
        pull(PRESET, tmp_path / "second", models_dir=tmp_path / "pack")
    assert names(tmp_path / "second") == ["pack.json", "tiny.openai"]  # what was done before stays
    prove(locate(CLIP, tmp_path / "second"))


def test_bare_weights_get_their_config_in_the_pack(tmp_path, hub_cache):
    """So that a pack is an open_clip local-dir for anybody, with the mean and std of the tag."""
    import open_clip

    tiny_hub.put_into_cache(hub_cache, CLIP.repo, tiny_hub.write_clip(tmp_path / "bare", config=None))
    pull(replace(PRESET, sam=None), tmp_path / "pack")
    folder = tmp_path / "pack" / CLIP.name
    config = json.loads((folder / "open_clip_config.json").read_text())
    assert config["preprocess_cfg"]["mean"] == list(tiny_hub.TAG["mean"])
    assert config["model_cfg"]["quick_gelu"] is True
    _, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    assert list(preprocess.transforms[-1].mean) == list(tiny_hub.TAG["mean"])
    assert load_clip(CLIP, tmp_path / "pack").mean == tiny_hub.TAG["mean"]


def test_the_embedded_pair_is_carried_with_its_tokenizer(tmp_path):
    clip, sam = tiny_hub.write_clip(tmp_path / "clip"), tiny_hub.write_sam(tmp_path / "sam")
    (clip / "tokenizer.json").write_text("{}")
    own = Preset(
        "own",
        "",
        replace(CLIP, repo="", architecture="", folder=str(clip)),
        replace(SAM, repo="", folder=str(sam)),
    )
    assert [one.how for one in pull(own)] == ["present", "present"]
    pull(own, tmp_path / "pack")
    assert "tokenizer.json" in names(tmp_path / "pack" / CLIP.name)
    nowhere = replace(own, clip=replace(own.clip, folder=str(tmp_path / "nowhere")))
    with pytest.raises(WeightsError, match="not on the hub"):
        pull(nowhere)
    with pytest.raises(WeightsError, match="not on the hub"):
        pull(nowhere, tmp_path / "pack2")


def test_a_trained_pair_is_a_pack(tmp_path):
    with pytest.raises(WeightsError, match=r"clip holds no open_clip_model\.safetensors"):
        index_pair(tmp_path, "trained here", "Apache-2.0")
    tiny_hub.write_clip(tmp_path / "clip")
    sam = tiny_hub.write_sam(tmp_path / "sam")
    index_pair(tmp_path, "trained here", "Apache-2.0")
    assert {check.state for check in verify_pack(tmp_path)} == {"ok"}
    nano = PRESETS["nano"]
    assert locate(nano.sam, tmp_path).folder == sam
    assert load_clip(nano.clip, tmp_path).mean == tuple(tiny_hub.MEAN)
    assert [one.how for one in pull(nano, tmp_path)] == ["present", "present"]
    (sam / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"sam holds no model\.safetensors"):
        index_pair(tmp_path, "trained here", "Apache-2.0")


def test_to_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file; expected a directory"):
        pull(PRESETS["nano"], tmp_path / "file")


def test_offline_may_be_set_after_import(monkeypatch):
    assert not hub.offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.offline()
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        hub.download("acme/tiny-clip", "main", lambda names: names)


def test_disk_and_server_errors_are_told_apart():
    full = OSError(28, "No space left on device", "/disk/weights")
    assert hub._why("acme/x", "main", full) == (
        "acme/x could not be written to disk: No space left on device (/disk/weights)"
    )
    assert "no connection to the hub" in hub._why("acme/x", "main", ConnectionError("timed out\nafter 10 s"))
