"""Exported image towers: equal to the eager ones, bound to their weights, made for sizes not seen yet."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import tiny_encoder

from clipsam.cli import export as cli_export
from clipsam.errors import MissingExtra, UsageError, WeightsError
from clipsam.nano.corpus.compose import render
from clipsam.programs import CARD, ClipPrograms, DenseTower, Programs, attach, export
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import HeatmapSettings

pytest.importorskip("openvino", reason="needs pip install 'clipsam[openvino]'")


def nano(**options) -> AnomalySegmenter:
    return AnomalySegmenter.from_preset("nano", product="part", device="cpu", **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "nano"
    export(nano(), folder, [(320, 320)])
    return folder


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[AnomalySegmenter, AnomalySegmenter]:
    return nano(), nano(exported=folder)


def test_maps_of_the_export_equal_those_of_the_towers_themselves(pair):
    eager, exported = pair
    asked = 0
    for seed in (11, 12, 13):
        photo = render(seed, 320, 320, p_normal=0.0).image
        one, other = eager.segment(photo), exported.segment(photo)
        np.testing.assert_allclose(other.coarse_map, one.coarse_map, atol=1e-4)
        np.testing.assert_allclose(other.anomaly_map, one.anomaly_map, atol=1e-3)
        asked += bool(one.regions)
    assert asked  # SAM's encoder was compared too


def test_the_programs_run_and_not_the_towers(pair, monkeypatch):
    exported = pair[1]

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("the tower ran")

    monkeypatch.setattr(exported.clip, "dense", refuse)
    monkeypatch.setattr("clipsam.sam.embed", refuse)
    assert exported.segment(render(11, 320, 320, p_normal=0.0).image).score > 0
    assert exported.manifest()["programs"] == {"backend": "openvino"}
    assert "programs" not in pair[0].manifest()


def test_programs_are_made_once_per_size(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "clip-256x256.bin", "clip-256x256.xml", "clip-384x384.bin", "clip-384x384.xml",
        CARD, "sam-384x384.bin", "sam-384x384.xml",
    ]  # fmt: skip


@pytest.mark.parametrize(("family", "attention"), [("native", "v-v"), ("timm", "plain"), ("eva", "k-k")])
def test_other_towers_and_ways_of_attending_at_a_size_that_comes_up(tmp_path, family, attention, caplog):
    clip, settings = tiny_encoder(family), HeatmapSettings(attention=attention, layers=(2, 4))
    pixels = torch.rand(2, 3, 40, 56)
    eager = clip.encode_pixels(pixels, attention, layers=(2, 4))
    clip.programs = ClipPrograms(
        Programs(tmp_path, "clip", DenseTower(clip, settings), clip.weights_hash),
        settings,
    )
    found = clip.encode_pixels(pixels, attention, layers=(2, 4))
    assert "making the program of clip for 56x40 px" in caplog.text
    for one, other in zip((eager.patches, eager.pooled, *eager.layers),
                          (found.patches, found.pooled, *found.layers), strict=True):  # fmt: skip
        torch.testing.assert_close(other, one, atol=1e-4, rtol=0)
    torch.testing.assert_close(clip.encode_pixels(pixels, "value").patches.shape, eager.patches.shape)
    assert [path.name for path in tmp_path.glob("*.xml")] == ["clip-40x56.xml"]


def test_other_weights_are_refused(folder, tmp_path, pair):
    clip = tiny_encoder("native")
    settings = pair[0].preset.heatmap
    with pytest.raises(WeightsError, match="exported from other weights of clip"):
        attach(folder, clip, None, settings)
    card = json.loads((folder / CARD).read_text()) | {"weights": {"clip": clip.weights_hash, "sam": None}}
    (tmp_path / CARD).write_text(json.dumps(card))
    for name in ("clip-256x256.xml", "clip-256x256.bin"):  # a program under a card of other weights
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    attach(tmp_path, clip, None, settings)
    with pytest.raises(WeightsError, match=r"clip-256x256\.xml was exported from other weights"):
        clip.encode_pixels(torch.rand(1, 3, 256, 256), "plain")


def test_what_cannot_be_used_is_said(folder, tmp_path, pair):
    with pytest.raises(WeightsError, match="expected a folder of clipsam export"):
        nano(exported=tmp_path)
    with pytest.raises(UsageError, match="found cpu and bfloat16"):
        nano(exported=folder, dtype="bfloat16")
    with pytest.raises(UsageError, match="new or empty folder"):
        export(pair[0], folder, [(320, 320)])
    with pytest.raises(UsageError, match="'512' is no size"):
        cli_export._shape("512")
    assert cli_export._shape("640x480") == (480, 640)


def test_without_the_extra_the_install_line_is_said(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r"pip install 'clipsam\[openvino\]'"):
        nano(exported=folder)


def test_inspect_takes_the_folder(folder, tmp_path):
    from PIL import Image

    photo = tmp_path / "part.png"
    Image.fromarray(render(11, 320, 320, p_normal=0.0).image).save(photo)
    command = [
        sys.executable,
        "-m",
        "clipsam",
        "inspect",
        photo,
        "--preset",
        "nano",
        "--out",
        tmp_path / "run",
    ]
    subprocess.run([*command, "--exported", folder], check=True, capture_output=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["programs"]["backend"] == "openvino"
