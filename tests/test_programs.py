"""Exported image towers: equal to the eager ones, bound to their weights, one file for all sizes of nano."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_clip import tiny_encoder
from torch import nn
from typer.testing import CliRunner

from clipsam.bench import bench_segmenter
from clipsam.cli import app
from clipsam.cli import export as cli_export
from clipsam.errors import MissingExtra, UsageError, WeightsError
from clipsam.nano.corpus.compose import render
from clipsam.programs import CARD, attach, export
from clipsam.programs import folder as folders
from clipsam.programs.folder import Programs
from clipsam.programs.modules import ClipPrograms, DenseTower
from clipsam.programs.runtime import find_runtime
from clipsam.programs.tracing import trace
from clipsam.scoring import SegmenterRecipe
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import HeatmapSettings

pytest.importorskip("openvino", reason="needs pip install 'clipsam[openvino]'")
MODULES = {"openvino": "openvino", "onnx": "onnxruntime", "int8": "nncf"}  # by extra


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


def assert_equal_maps(eager: AnomalySegmenter, exported: AnomalySegmenter) -> None:
    asked = 0
    for seed, shape in ((11, (320, 320)), (12, (320, 210)), (13, (150, 320))):
        photo = render(seed, *shape, p_normal=0.0).image
        one, other = eager.segment(photo), exported.segment(photo)
        np.testing.assert_allclose(other.coarse_map, one.coarse_map, atol=1e-4)
        np.testing.assert_allclose(other.anomaly_map, one.anomaly_map, atol=1e-4)
        asked += bool(one.regions)
    assert asked  # SAM's encoder was compared too


def test_maps_of_the_export_equal_those_of_the_towers_themselves(pair):
    assert_equal_maps(*pair)


def test_the_programs_run_and_not_the_towers(pair, monkeypatch):
    exported = pair[1]

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("the tower ran")

    monkeypatch.setattr(exported.clip, "dense", refuse)
    monkeypatch.setattr("clipsam.sam.embed", refuse)
    assert exported.segment(render(11, 320, 320, p_normal=0.0).image).score > 0
    assert exported.manifest()["programs"] == {"backend": "openvino", "precision": "float32"}
    assert "programs" not in pair[0].manifest()


def test_a_segmenter_with_programs_travels_to_workers_and_answers_the_same(pair, tmp_path):
    photo = render(11, 320, 320, p_normal=0.0).image
    here, travelled = pair[1].segment(photo), pickle.loads(pickle.dumps(pair[1]))
    assert not travelled.clip.programs.programs._loaded  # compiled programs stay where they are
    there = travelled.segment(photo)
    assert travelled.clip.programs.programs._loaded
    np.testing.assert_array_equal(there.anomaly_map, here.anomaly_map)
    assert there.score == here.score
    assert [region.box_xyxy for region in there.regions] == [region.box_xyxy for region in here.regions]
    assert travelled.manifest() == pair[1].manifest()
    lost = pickle.loads(pickle.dumps(pair[1]))
    lost.clip.programs.programs.folder = tmp_path / "elsewhere"
    with pytest.raises(WeightsError, match=r"no .*elsewhere on this machine.*every machine"):
        lost.segment(photo)


def test_one_program_serves_all_sizes_of_nano(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "clip.bin", "clip.xml", CARD, "sam-384x384.bin", "sam-384x384.xml",
    ]  # fmt: skip


def test_programs_of_many_sizes_do_not_fill_the_memory(pair, monkeypatch):
    monkeypatch.setattr(folders, "KEPT", 2)
    programs = pair[1].clip.programs.programs
    for width in (64, 80, 96, 64):
        patches, _ = programs(torch.rand(1, 3, 64, width))
        assert patches.shape[1:3] == (4, width // 16)
    assert list(programs._loaded) == [(64, 96), (64, 64)]


def tiny(backend: str, precision: str, folder: Path, family: str, settings: HeatmapSettings):
    """An encoder and its programs."""
    pytest.importorskip(MODULES[backend])
    clip = tiny_encoder(family)
    runtime = find_runtime(backend, precision)
    programs = Programs(folder, "clip", DenseTower(clip, settings), clip.weights_hash, runtime, precision)
    return clip, ClipPrograms(programs, settings)


@pytest.mark.parametrize("backend", ["openvino", "onnx"])
@pytest.mark.parametrize(("family", "attention"), [("native", "v-v"), ("timm", "plain"), ("eva", "k-k")])
def test_other_towers_and_ways_of_attending_at_a_size_that_comes_up(
    tmp_path, backend, family, attention, caplog
):
    settings = HeatmapSettings(attention=attention, layers=(2, 4))
    clip, programs = tiny(backend, "float32", tmp_path, family, settings)
    pixels = torch.rand(2, 3, 40, 56)
    eager = clip.encode_pixels(pixels, attention, layers=(2, 4))
    clip.programs = programs
    found = clip.encode_pixels(pixels, attention, layers=(2, 4))
    assert "making the program of clip for 56x40 px" in caplog.text
    for one, other in zip((eager.patches, eager.pooled, *eager.layers),
                          (found.patches, found.pooled, *found.layers), strict=True):  # fmt: skip
        torch.testing.assert_close(other, one, atol=1e-4, rtol=0)
    torch.testing.assert_close(clip.encode_pixels(pixels, "value").patches.shape, eager.patches.shape)
    assert [path.stem for path in tmp_path.iterdir() if path.suffix != ".bin"] == ["clip-40x56"]


def test_int8_stays_near_and_is_not_float32(tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    monkeypatch.setattr(folders, "PICTURES", 4)
    settings = HeatmapSettings(attention="plain", sizes=(48,))
    clip, programs = tiny("openvino", "int8", tmp_path, "timm", settings)
    pixels = torch.from_numpy(render(3, 40, 56).image).permute(2, 0, 1)[None] / 255
    eager = clip.encode_pixels(pixels, "plain").patches
    clip.programs = programs
    cosines = (clip.encode_pixels(pixels, "plain").patches * eager).sum(dim=-1)
    assert 0.97 < cosines.min() < 0.99999
    assert "FakeQuantize" in (tmp_path / "clip-40x56.xml").read_text()


@pytest.mark.slow
def test_maps_of_onnx_equal_those_of_the_towers_themselves(tmp_path, pair):
    pytest.importorskip("onnxruntime")
    files = export(nano(), tmp_path / "nano", [(320, 320)], "onnx")
    assert [path.name for path in files] == ["clip.onnx", "sam-384x384.onnx"]
    assert_equal_maps(pair[0], nano(exported=tmp_path / "nano"))


@pytest.mark.slow
def test_int8_of_nano_says_nearly_the_same(tmp_path, pair):
    pytest.importorskip("nncf")
    export(nano(), tmp_path / "nano", [(320, 320)], precision="int8")
    exported = nano(exported=tmp_path / "nano")
    assert exported.manifest()["programs"]["precision"] == "int8"
    for seed in (11, 12, 13):
        photo = render(seed, 320, 320, p_normal=0.0).image
        one, other = pair[0].segment(photo).coarse_map, exported.segment(photo).coarse_map
        assert 0 < np.abs(other - one).mean() < 0.03
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.97


class Maps(nn.Module):
    """Patches cut in one step, a norm over the channels of a map, and convolutions of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.norm = nn.Conv2d(3, 5, 8, stride=8), nn.LayerNorm(5)
        self.near, self.wide = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 4, 2, stride=2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        maps = self.norm(self.cut(pixels).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.wide(self.near(maps))


@pytest.mark.parametrize("step", [None, 16])
def test_what_runtimes_are_slow_at_is_traced_in_another_form(step):
    module = Maps().requires_grad_(False)
    traced = trace(module, None if step else (32, 48), step)
    operations = [node for node in traced.graph.nodes if node.op == "call_function"]
    assert sum("conv2d" in str(node.target) for node in operations) == 2  # patches are a matrix product
    assert sum("linear" in str(node.target) for node in operations) == 1
    (norm,) = (node for node in operations if "layer_norm" in str(node.target))
    assert norm.meta["val"].ndim == 3
    pixels = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(traced.module()(pixels), module(pixels), atol=1e-6, rtol=0)


def test_other_weights_are_refused(folder, tmp_path, pair):
    clip = tiny_encoder("native")
    settings = pair[0].preset.heatmap
    with pytest.raises(WeightsError, match="exported from other weights of clip"):
        attach(folder, clip, None, settings)
    card = json.loads((folder / CARD).read_text()) | {"weights": {"clip": clip.weights_hash, "sam": None}}
    (tmp_path / CARD).write_text(json.dumps(card))
    for kind in ("xml", "bin"):  # a program under a card of other weights
        (tmp_path / f"clip-256x256.{kind}").write_bytes((folder / f"clip.{kind}").read_bytes())
    attach(tmp_path, clip, None, settings)
    with pytest.raises(WeightsError, match=r"clip-256x256\.xml was exported from other weights"):
        clip.encode_pixels(torch.rand(1, 3, 256, 256), "plain")


def test_onnx_programs_of_other_weights_are_refused(tmp_path):
    settings = HeatmapSettings(attention="plain")
    _, programs = tiny("onnx", "float32", tmp_path, "native", settings)
    programs.programs.make((40, 56))
    programs.programs.weights_hash = "f" * 64
    with pytest.raises(WeightsError, match=r"clip-40x56\.onnx was exported from other weights"):
        programs(torch.rand(1, 3, 40, 56))


def test_what_cannot_be_used_is_said(folder, tmp_path, pair):
    with pytest.raises(WeightsError, match="expected a folder of clipsam export"):
        nano(exported=tmp_path)
    with pytest.raises(UsageError, match="found cpu and bfloat16"):
        nano(exported=folder, dtype="bfloat16")
    with pytest.raises(UsageError, match="new or empty folder"):
        export(pair[0], folder, [(320, 320)])
    with pytest.raises(UsageError, match="expected one of: openvino, onnx"):
        export(pair[0], tmp_path / "new", [(320, 320)], "tensorrt")
    with pytest.raises(UsageError, match="programs of ONNX are never in bfloat16"):
        export(pair[0], tmp_path / "new", [(320, 320)], "onnx", "bfloat16")
    with pytest.raises(UsageError, match="leave out --random-weights, or --exported"):
        bench_segmenter("nano", random_weights=True, exported=folder)
    with pytest.raises(UsageError, match="'512' is no size"):
        cli_export._shape("512")
    assert cli_export._shape("640x480") == (480, 640)
    assert not (tmp_path / "new").exists()


def test_a_cpu_without_bfloat16_says_so(monkeypatch):
    import openvino

    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32", "INT8"])
    with pytest.raises(UsageError, match="does not compute in bfloat16"):
        find_runtime("openvino", "bfloat16").need_to_make("bfloat16")


@pytest.mark.parametrize(
    ("extra", "backend", "precision"),
    [("openvino", "openvino", "float32"), ("int8", "openvino", "int8"), ("onnx", "onnx", "float32")],
)
def test_without_the_extra_the_install_line_is_said(tmp_path, monkeypatch, extra, backend, precision):
    monkeypatch.setitem(sys.modules, MODULES[extra], None)
    with pytest.raises(MissingExtra, match=rf"pip install 'clipsam\[{extra}\]'"):
        find_runtime(backend, precision).need_to_make(precision)


def test_running_needs_less_than_making(monkeypatch):
    pytest.importorskip("onnxruntime")
    for module in ("nncf", "onnxscript"):
        monkeypatch.setitem(sys.modules, module, None)
    find_runtime("openvino", "int8").need_to_run("int8")
    find_runtime("onnx", "float32").need_to_run("float32")
    with pytest.raises(MissingExtra):
        find_runtime("onnx", "float32").need_to_make("float32")


def test_contradictions_on_the_command_line(folder):
    for words, said in (
        ("export --int8 --bfloat16", "both --int8 and --bfloat16"),
        (
            f"eval --dataset folder --root . --exported {folder} --ablate attention",
            "varies it; leave out one",
        ),
    ):
        found = CliRunner().invoke(app, words.split())
        assert isinstance(found.exception, UsageError)
        assert said in str(found.exception)


@pytest.mark.parametrize("verb", ["watch .", "serve --port 0 --no-keep", "bench --rounds 1 --size 64"])
def test_other_verbs_hand_the_folder_on(tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none").mkdir()
    found = CliRunner().invoke(app, [*verb.split(), "--preset", "nano", "--exported", "none"])
    assert isinstance(found.exception, WeightsError)
    assert "expected a folder of clipsam export" in str(found.exception)


def test_an_evaluation_takes_the_folder(folder):
    assert SegmenterRecipe("nano", exported=folder).build().manifest()["programs"]["backend"] == "openvino"


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
