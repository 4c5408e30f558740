"""Locations: the order of looking, incomplete places, proof against the index, and what the messages tell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_hub
from tiny_hub import CLIP, SAM

from clipsam import locations, presets
from clipsam.errors import WeightsError
from clipsam.hashes import file_sha256
from clipsam.locations import locate, need, prove, verify_present
from clipsam.packs import PackedModel, check_model, read_index, record_files, verify_pack, write_index
from clipsam.presets import PRESETS


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CLIPSAM_MODELS", raising=False)
    return tmp_path / "hub"


def sam_folder(folder: Path, content: str = "weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "sam"}')
    (folder / "processor_config.json").write_text("{}")
    (folder / "model.safetensors").write_text(content)
    return folder


def make_pack(pack: Path, name: str = SAM.name, content: str = "weights") -> Path:
    folder = sam_folder(pack / name, content)
    hash_ = file_sha256(folder / "model.safetensors")
    write_index(pack, {name: PackedModel("sam", "acme/tiny-sam@1", "MIT", hash_, record_files(folder))})
    return pack


def test_order_pack_then_hub_cache_then_folder(tmp_path, hub_cache, monkeypatch):
    spec = replace(SAM, folder=str(sam_folder(tmp_path / "own")))
    assert (locate(spec).place, locate(spec).folder) == ("folder", tmp_path / "own")
    snapshot = tiny_hub.put_into_cache(hub_cache, SAM.repo, sam_folder(tmp_path / "published"))
    assert (locate(spec).place, locate(spec).folder) == ("hub cache", snapshot)
    monkeypatch.setenv("CLIPSAM_MODELS", str(make_pack(tmp_path / "pack1")))
    assert locate(spec).folder == tmp_path / "pack1" / SAM.name
    pack = make_pack(tmp_path / "pack2")
    assert (locate(spec, pack).place, locate(spec, pack).folder) == ("pack", pack / SAM.name)


def test_a_pack_without_the_model_is_passed_over(tmp_path, hub_cache):
    tiny_hub.put_into_cache(hub_cache, SAM.repo, sam_folder(tmp_path / "published"))
    assert locate(SAM, make_pack(tmp_path / "pack", "other")).place == "hub cache"


def test_missing_says_both_ways(monkeypatch):
    with pytest.raises(WeightsError) as error:
        need(PRESETS["base"].clip)
    for part in (
        "ViT-B-16-plus-240.laion400m_e31",
        "`clipsam models pull base`",
        "pull base --to DIR",
        "CLIPSAM_MODELS",
    ):
        assert part in str(error.value)
    with pytest.raises(
        WeightsError, match=r"put open_clip_config\.json, open_clip_model\.safetensors into /some/where"
    ):
        need(presets.ClipSpec("mine", folder="/some/where"))


def test_missing_embedded_pair_is_a_broken_installation(monkeypatch, tmp_path):
    monkeypatch.setattr(locations, "EMBEDDED", tmp_path / "weights")
    with pytest.raises(WeightsError, match="part of the package: install clipsam again"):
        need(presets.SamSpec("nano-sam", folder=str(tmp_path / "weights" / "sam")))


@pytest.mark.parametrize("gone", ["config.json", "processor_config.json", "model.safetensors"])
def test_incomplete_sam_names_the_file(tmp_path, gone):
    folder = sam_folder(tmp_path / "own")
    (folder / gone).unlink()
    expected = "preprocessor_config.json" if gone.startswith("proc") else gone
    with pytest.raises(WeightsError, match=f"incomplete: {expected} is missing"):
        need(presets.SamSpec("mine", folder=str(folder)))


def test_a_pickled_sam_is_not_weights(tmp_path):
    folder = sam_folder(tmp_path / "own")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert locate(presets.SamSpec("mine", folder=str(folder))).missing == ("model.safetensors",)


def test_incomplete_clip(tmp_path):
    (tmp_path / "own").mkdir()
    assert locate(presets.ClipSpec("mine", folder=str(tmp_path / "own"))).missing == (
        "open_clip_config.json",
        "open_clip_model.safetensors",
    )


def test_missing_shards_are_named(tmp_path):
    folder = sam_folder(tmp_path / "own")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    location = locate(presets.SamSpec("mine", folder=str(folder)))
    assert location.missing == ("model-2.safetensors",)
    (folder / "model-2.safetensors").write_text("more")
    location = locate(presets.SamSpec("mine", folder=str(folder)))
    assert location.complete
    assert location.size == len("weights") + len("more")
    assert location.weights_hash not in {file_sha256(path) for path in location.weights}


def test_a_pack_that_lost_a_file_is_not_replaced_by_the_cache(tmp_path, hub_cache):
    tiny_hub.put_into_cache(hub_cache, SAM.repo, sam_folder(tmp_path / "published"))
    pack = make_pack(tmp_path / "pack")
    (pack / SAM.name / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"pack.*incomplete: model\.safetensors is missing"):
        need(SAM, pack)


def test_prove_refuses_a_changed_and_an_unlisted_file(tmp_path):
    pack = make_pack(tmp_path / "pack")
    prove(need(SAM, pack))
    (pack / SAM.name / "stranger.safetensors").write_text("x")
    with pytest.raises(WeightsError, match=r"stranger\.safetensors is unlisted against pack\.json"):
        prove(need(SAM, pack))
    (pack / SAM.name / "stranger.safetensors").unlink()
    (pack / SAM.name / "model.safetensors").write_text("w3ights")
    with pytest.raises(WeightsError, match=r"model\.safetensors is changed against pack\.json"):
        prove(need(SAM, pack))


def test_verify_pack_sees_every_kind_of_difference(tmp_path):
    pack = make_pack(tmp_path / "pack")
    assert {check.state for check in verify_pack(pack)} == {"ok"}
    (pack / SAM.name / "model.safetensors").write_text("w3ights")
    (pack / SAM.name / "config.json").unlink()
    (pack / SAM.name / "notes.txt").write_text("x")
    states = {check.file: (check.state, check.differs) for check in verify_pack(pack)}
    assert states == {
        "model.safetensors": ("changed", True),
        "config.json": ("missing", True),
        "processor_config.json": ("ok", False),
        "notes.txt": ("unlisted", True),
    }


def test_verify_reads_the_bytes_again(tmp_path, monkeypatch):
    """A change that keeps size and time is invisible to the remembered hash and visible to verify."""
    import os

    pack = make_pack(tmp_path / "pack")
    weights = pack / SAM.name / "model.safetensors"
    times = (weights.stat().st_atime_ns, weights.stat().st_mtime_ns)
    weights.write_text("w3ights")
    os.utime(weights, ns=times)
    record = read_index(pack).models[SAM.name].files
    assert not any(check.differs for check in check_model(SAM.name, weights.parent, record, fresh=False))
    assert [check.file for check in verify_pack(pack) if check.differs] == ["model.safetensors"]


def test_broken_and_foreign_indexes(tmp_path):
    with pytest.raises(WeightsError, match="no directory"):
        verify_pack(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"holds no pack\.json"):
        verify_pack(tmp_path)
    pack = make_pack(tmp_path / "pack")
    index = json.loads((pack / "pack.json").read_text())
    files = index["models"][SAM.name]["files"]
    files["../../secret"] = files["config.json"]
    for content in ("{", "[]", '{"format": "other"}', '{"format": "clipsam-pack-1"}', json.dumps(index)):
        (pack / "pack.json").write_text(content)
        with pytest.raises(WeightsError, match="not an index of format clipsam-pack-1"):
            locate(SAM, pack)


def test_verify_present_trusts_the_hub_s_declared_hashes(tmp_path, hub_cache, monkeypatch):
    sam = replace(PRESETS["base"].sam, repo=SAM.repo)
    preset = replace(PRESETS["base"], sam=sam)
    monkeypatch.setattr(locations, "PRESETS", {"base": preset})
    assert verify_present() == []
    snapshot = tiny_hub.put_into_cache(hub_cache, SAM.repo, sam_folder(tmp_path / "published"))
    states = {check.file: check.state for check in verify_present()}
    assert states == {
        "model.safetensors": "ok",
        "config.json": "unproven",
        "processor_config.json": "unproven",
    }
    (snapshot / "model.safetensors").resolve().write_text("w3ights")
    assert [check.file for check in verify_present() if check.differs] == ["model.safetensors"]


def test_only_a_snapshot_of_the_asked_revision_counts(tmp_path, hub_cache):
    tiny_hub.put_into_cache(hub_cache, SAM.repo, sam_folder(tmp_path / "published"))
    assert locate(replace(SAM, revision="v2")) is None
    assert locate(replace(SAM, revision=tiny_hub.COMMIT)).place == "hub cache"
    assert locate(CLIP) is None
