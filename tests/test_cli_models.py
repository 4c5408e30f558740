"""`clipsam models list|pull|verify`, run on an app that holds this verb alone, with tiny models."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import util
from pathlib import Path

import pytest
import tiny_hub
import typer
from typer.testing import CliRunner

import clipsam
from clipsam import locations, presets
from clipsam.errors import UsageError, WeightsError
from clipsam.presets import PRESETS


@pytest.fixture(scope="module")
def app():
    """The verb's file, loaded without its package, whose import brings in every other verb."""
    spec = util.spec_from_file_location("verb_models", Path(clipsam.__file__).parent / "cli" / "models.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.callback()(lambda: None)
    module.register(app)
    return app


@pytest.fixture
def run(app):
    def run(*arguments: object, code: int = 0):
        result = CliRunner().invoke(app, ["models", *map(str, arguments)], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result.stdout

    return run


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    return tiny_hub.write_clip(root / "clip"), tiny_hub.write_sam(root / "sam")


@pytest.fixture(autouse=True)
def hub_cache(tmp_path, monkeypatch, published):
    """A machine whose embedded pair is tiny, and whose hub cache holds the base preset's pair in tiny."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path / "cache"))
    for name in ("CLIPSAM_MODELS", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    clip, sam = published
    nano = replace(
        PRESETS["nano"],
        clip=replace(PRESETS["nano"].clip, folder=str(clip)),
        sam=replace(PRESETS["nano"].sam, folder=str(sam)),
    )
    monkeypatch.setitem(PRESETS, "nano", nano)
    monkeypatch.setattr(presets, "NANO", nano)
    monkeypatch.setattr(locations, "EMBEDDED", clip.parent)
    tiny_hub.put_into_cache(tmp_path / "hub", PRESETS["base"].clip.repo, clip)
    tiny_hub.put_into_cache(tmp_path / "hub", PRESETS["base"].sam.repo, sam)
    return tmp_path / "hub"


def test_list_as_text(run):
    lines = run("list").splitlines()
    assert len(lines) == 1 + sum(len(preset.models) for preset in PRESETS.values()) + 1
    assert lines[0].split() == ["preset", "model", "present", "size", "licence", "sha256", "where"]
    assert lines[1].split()[:3] == ["nano", "nano-clip", "embedded"]
    by_model = {line.split()[1]: line for line in lines[1:9]}
    assert " hub cache " in by_model["sam-vit-base"]
    assert " no " in by_model["sam-vit-huge"]
    assert "2564.0 MB" in by_model["sam-vit-huge"]
    assert "Apache-2.0" in by_model["sam-vit-huge"]
    assert lines[-1] == "default: preset base, the best pair on this machine (hub cache)"


def test_list_as_json(run, published):
    content = json.loads(run("list", "--json"))
    assert content["default"] == "base"
    rows = {row["model"]: row for row in content["models"]}
    weights = published[1] / "model.safetensors"
    assert rows["sam-vit-base"]["bytes"] == weights.stat().st_size
    assert rows["sam-vit-base"]["sha256"] == locations.file_sha256(weights)
    assert rows["sam-vit-base"]["source"] == "facebook/sam-vit-base"
    assert rows["ViT-L-14-336.openai"]["present"] == "no"
    assert rows["ViT-L-14-336.openai"]["sha256"] is None


def test_list_says_what_is_incomplete(run, hub_cache):
    next(hub_cache.glob("*sam-vit-base/snapshots/*/processor_config.json")).unlink()
    line = next(line for line in run("list").splitlines() if " sam-vit-base " in line)
    assert " incomplete " in line
    assert line.endswith("lacks preprocessor_config.json")
    assert run("list").splitlines()[-1].startswith("default: preset nano")


def test_pack_round_trip(run, tmp_path, monkeypatch):
    pack = tmp_path / "pack"
    text = run("pull", "base", "--to", pack)
    assert "sam-vit-base: copied" in text
    assert "clipsam models verify DIR" in text
    assert json.loads(run("pull", "base", "--to", pack, "--json"))["models"][0]["how"] == "present"
    run("pull", "nano", "--to", pack)
    content = json.loads(run("verify", pack, "--json"))
    assert content["ok"] is True
    models = {file["model"] for file in content["files"]}
    assert models == {"nano-clip", "nano-sam", "sam-vit-base", "ViT-B-16-plus-240.laion400m_e31"}
    rows = json.loads(run("list", "--models", pack, "--json"))
    assert {row["present"] for row in rows["models"] if row["preset"] in {"base", "nano"}} == {"pack"}
    assert rows["reason"].endswith("(pack)")
    monkeypatch.setenv("CLIPSAM_MODELS", str(pack))
    assert json.loads(run("list", "--json"))["models"] == rows["models"]


def test_verify_a_tampered_pack(run, tmp_path):
    pack = tmp_path / "pack"
    run("pull", "base", "--to", pack)
    assert run("verify", pack).splitlines()[-1] == "5 files, 0 differing"
    weights = pack / "sam-vit-base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    (pack / "sam-vit-base" / "config.json").unlink()
    lines = run("verify", pack, code=1).splitlines()
    assert lines[-1] == "5 files, 2 differing"
    assert any(line.startswith("changed   sam-vit-base/model.safetensors") for line in lines)
    assert any(line.startswith("missing   sam-vit-base/config.json") for line in lines)
    content = json.loads(run("verify", pack, "--json", code=1))
    assert content["ok"] is False
    assert {f["file"] for f in content["files"] if f["state"] != "ok"} == {"model.safetensors", "config.json"}


def test_verify_what_is_present(run, hub_cache):
    content = json.loads(run("verify", "--json"))
    states = {(file["model"], file["file"]): file["state"] for file in content["files"]}
    assert states["sam-vit-base", "model.safetensors"] == "ok"
    assert states["nano-sam", "model.safetensors"] == "unproven"
    next(hub_cache.glob("*sam-vit-base/snapshots/*/model.safetensors")).resolve().write_bytes(b"other")
    assert "changed" in run("verify", code=1)


def test_bad_use_is_one_sentence(app, tmp_path, monkeypatch):
    def error(*arguments: object) -> Exception:
        return CliRunner().invoke(app, ["models", *map(str, arguments)]).exception

    assert isinstance(error("pull", "huge"), UsageError)
    assert isinstance(error("verify", tmp_path), WeightsError)
    assert isinstance(error("list", "--models", tmp_path / "nowhere"), WeightsError)
    (tmp_path / "file").touch()
    assert "--to" in str(error("pull", "nano", "--to", tmp_path / "file" / "pack"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    missing = error("pull", "large")
    assert isinstance(missing, WeightsError)
    assert "HF_HUB_OFFLINE is set" in str(missing)
