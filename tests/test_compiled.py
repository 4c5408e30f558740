"""Compiled towers: equal to the eager ones, from several threads too, and loaded by the next process."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from fake_segmenter import FakeSegmenter
from tiny_clip import tiny_encoder
from tiny_sam import FAMILIES, tiny, tiny_refiner
from torch._dynamo.utils import counters
from typer.testing import CliRunner

from clipsam.bench import bench_segmenter
from clipsam.cli import app
from clipsam.clip import ClipEncoder
from clipsam.compiled import Compiled, compile_towers, eagerly
from clipsam.errors import UsageError
from clipsam.nano.corpus.compose import render
from clipsam.sam import SamRefiner
from clipsam.sam_backends import backend_of, parts
from clipsam.scoring import SegmenterRecipe
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import HeatmapSettings

SQUARE = HeatmapSettings(attention="v-v", sizes=(32,), square=True)  # one shape: each costs seconds
PIXELS = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PHOTO = np.random.default_rng(0).integers(0, 255, (40, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("CLIPSAM_CACHE", str(folder))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(Path(tempfile.gettempdir()) / "torchinductor_someone"))
        with torch._inductor.config.patch(cpp_cache_precompile_headers=False):  # pays for many graphs only
            yield folder
        torch.compiler.reset()


@pytest.fixture(scope="module")
def clip(cache: Path) -> ClipEncoder:
    clip = tiny_encoder("native")
    compile_towers(clip, None, SQUARE)
    return clip


@pytest.fixture
def untranslated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs as torch finds them, run one operation after the other: no code is made, which takes seconds."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "unused")


def features(clip: ClipEncoder) -> torch.Tensor:
    return clip.encode_pixels(PIXELS, "v-v").patches


def levels(sam: SamRefiner) -> torch.Tensor:
    with torch.inference_mode():
        return sam._embed(PHOTO).features.levels[0]


def made() -> tuple[int, int]:
    """How many graphs were compiled in this process, and how many of them were found on the disk."""
    return counters["inductor"]["fxgraph_cache_miss"], counters["inductor"]["fxgraph_cache_hit"]


def test_features_equal_those_of_the_eager_tower_and_no_more_is_compiled(clip):
    graphs = counters["stats"]["unique_graphs"]
    assert graphs > 0
    torch.testing.assert_close(features(clip), features(tiny_encoder("native")), atol=2e-6, rtol=0)
    assert counters["stats"]["unique_graphs"] == graphs


def test_eagerly_runs_no_compiled_code(clip, monkeypatch):
    called: list[object] = []
    block = type(clip.tower.blocks[0])
    eager = block.ffn
    monkeypatch.setattr(block, "ffn", lambda self, tokens: called.append(self) or eager(self, tokens))
    eagerly(lambda: features(clip))()
    assert len(called) == clip.depth


def test_what_no_code_was_made_for_runs_as_ever(clip):
    graphs = counters["stats"]["unique_graphs"]
    batch = torch.rand(3, 3, 32, 40)
    found, eager = (each.encode_pixels(batch, "v-v").patches for each in (clip, tiny_encoder("native")))
    torch.testing.assert_close(found, eager, atol=0, rtol=0)
    assert counters["stats"]["unique_graphs"] == graphs


def test_several_threads_get_the_same(clip):
    alone = features(clip)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: features(clip), range(16)))
    for answer in answers:
        torch.testing.assert_close(answer, alone, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("tower", "attention", "dtype"), [("eva", "k-k", "float32"), ("native", "windows", "bfloat16")]
)
def test_other_towers_ways_of_attending_and_dtypes(untranslated, tower, attention, dtype):
    settings = HeatmapSettings(attention=attention, sizes=(64,), windows=(2,))
    encoder, eager = tiny_encoder(tower, dtype=dtype), tiny_encoder(tower, dtype=dtype)
    compile_towers(encoder, None, settings)
    graphs = counters["stats"]["unique_graphs"]
    windows = attention == "windows"
    for shape in ((48, 64), (64, 64), (64, 40)):
        pixels = torch.rand(1, 3, *shape)
        one, other = (
            each.encode_windows(pixels, (2,)) if windows else each.encode_pixels(pixels, attention)
            for each in (encoder, eager)
        )
        torch.testing.assert_close(one.patches, other.patches, atol=2e-6, rtol=0)
        torch.testing.assert_close(one.pooled, other.pooled, atol=2e-6, rtol=0)
    assert counters["stats"]["unique_graphs"] == graphs


@pytest.mark.parametrize("family", ["sam", "sam2"])
def test_sam_finds_the_same(untranslated, family):
    clip, sam = tiny_encoder("native"), copy.deepcopy(tiny_refiner(family))
    compile_towers(clip, sam, SQUARE)
    assert all(isinstance(layer.forward, Compiled) for layer in parts(sam.model, sam.backend))
    graphs = counters["stats"]["unique_graphs"]
    torch.testing.assert_close(levels(sam), levels(tiny_refiner(family)), atol=2e-5, rtol=0)
    assert counters["stats"]["unique_graphs"] == graphs


def test_code_is_kept_in_the_cache_folder_and_found_there_again(clip, cache):
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(cache / "compiled")
    kept = {path for path in cache.rglob("*") if path.suffix in (".so", ".cpp")}
    assert any(path.suffix == ".so" for path in kept)
    torch.compiler.reset()  # as a new process starts, without what is in memory
    misses, hits = made()
    compile_towers(tiny_encoder("native", seed=1), None, SQUARE)  # other weights: the code is the same
    assert made()[0] == misses
    assert made()[1] > hits
    assert {path for path in cache.rglob("*") if path.suffix in (".so", ".cpp")} == kept


def test_a_folder_that_the_user_names_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path / "ours"))
    Compiled(tiny_encoder("native").tower.blocks[0], "passed", dynamic=True)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert not (tmp_path / "ours").exists()


def test_a_cache_folder_that_cannot_be_made_stops_nothing(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")  # and put back, whatever torch does
    Compiled(tiny_encoder("native").tower.blocks[0], "passed", dynamic=True)
    assert not os.environ.get("TORCHINDUCTOR_CACHE_DIR", "").startswith(str(tmp_path))


def test_compiled_towers_travel_to_other_processes(untranslated):
    clip, sam = tiny_encoder("native"), copy.deepcopy(tiny_refiner())
    compile_towers(clip, sam, SQUARE)
    there_clip, there_sam = pickle.loads(pickle.dumps((clip.tower.blocks, sam.model)))
    block, layer = there_clip[0], there_sam.vision_encoder.layers[0]
    assert isinstance(block.passed, Compiled)
    assert isinstance(layer.forward, Compiled)
    assert block.passed._made_of[0] is block  # bound to what travelled, not to what stayed
    assert layer.forward._made_of[0] is layer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_of_every_sam(family):
    model, _ = tiny(family)
    found = parts(model, backend_of(model, family))
    assert len(found) == {"sam2": 5, "edgetam": 0}.get(family, 2)


@pytest.mark.parametrize("tower", ["native", "native-custom", "timm", "eva", "siglip"])
def test_the_parts_of_a_tower_are_its_blocks(tower):
    found = tiny_encoder(tower).tower.parts()
    assert len(found) == 4
    assert all(callable(getattr(owner, name)) for owner, name in found)


def test_nano_compiles_its_stem_too():
    segmenter = AnomalySegmenter.from_preset("nano", device="cpu", sam=False)
    assert [name for _, name in segmenter.clip.tower.parts()] == ["stages", "rare", "forward", "forward"]
    assert not segmenter.compiled
    assert "compiled" not in segmenter.manifest()


def test_the_manifest_says_it_and_a_calibration_goes_on_to_hold():
    from clipsam.calibrate import bound

    segmenter = AnomalySegmenter.from_preset("nano", device="cpu", sam=False)
    plain = segmenter.manifest()
    segmenter.compiled = True
    assert segmenter.manifest() == plain | {"compiled": True}
    assert bound(segmenter.manifest()) == bound(plain)


@pytest.fixture
def no_compiler() -> Iterator[None]:
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        yield


def test_without_a_compiler_it_is_one_sentence(no_compiler):
    with pytest.raises(UsageError, match="takes a C\\+\\+ compiler, and none was found"):
        AnomalySegmenter.from_preset("nano", device="cpu", compiled=True)


def test_what_the_compiler_says_is_one_sentence(monkeypatch):
    from torch._dynamo.exc import BackendCompilerFailed

    def fail(*_: object) -> None:
        raise BackendCompilerFailed(
            lambda: None,
            RuntimeError("C++ compile error\n\nx.cpp:1: fatal error: Python.h: no such file"),
            None,
        )

    monkeypatch.setattr("clipsam.compiled._warm_up", fail)
    with pytest.raises(
        UsageError,
        match=r"cannot compile the image towers here \(x.cpp:1: fatal error: Python.h.*\); it takes",
    ):
        compile_towers(tiny_encoder("native"), None, SQUARE)


def test_what_excludes_each_other_is_refused_before_weights_are_read(monkeypatch):
    monkeypatch.setattr(ClipEncoder, "from_spec", None)
    with pytest.raises(UsageError, match="programs of there run in place of the towers"):
        AnomalySegmenter.from_preset("nano", device="cpu", compiled=True, exported="there")


@pytest.mark.parametrize(
    "verb", ["watch .", "serve --port 0 --no-keep", "bench --rounds 1 --size 64", "calibrate ."]
)
def test_other_verbs_hand_it_on(tmp_path, monkeypatch, no_compiler, verb):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    for number in range(2):
        Image.fromarray(PHOTO + number).save(tmp_path / f"{number}.png")
    words = [*verb.split(), "--preset", "nano", "--device", "cpu", "--compile"]
    words += ["--false-alarms", "0.5"] if "calibrate" in verb else []
    found = CliRunner().invoke(app, words)
    assert isinstance(found.exception, UsageError)
    assert "takes a C++ compiler" in str(found.exception)


def test_an_evaluation_and_a_bench_hand_it_on(monkeypatch, no_compiler):
    with pytest.raises(UsageError, match="takes a C"):
        SegmenterRecipe("nano", device="cpu", compiled=True).build()
    monkeypatch.setattr("clipsam.bench.random_clip", lambda *_, **__: tiny_encoder("native"))
    monkeypatch.setattr("clipsam.bench._here", lambda *_: False)
    with pytest.raises(UsageError, match="takes a C"):
        bench_segmenter("base", random_weights=True, sam=False, device="cpu", compiled=True)


def test_a_worker_compiles_what_travelled_to_it_for_its_own_threads():
    from clipsam.runs.pictures import PictureOptions
    from clipsam.runs.ray_worker import Attempts, Worker

    threads: list[int] = []

    class Travelled(FakeSegmenter):
        compiled = True

        def compile(self) -> None:
            threads.append(torch.get_num_threads())

    before = torch.get_num_threads()
    try:
        Worker(Travelled, Attempts(), PictureOptions(), threads=before + 1)
    finally:
        torch.set_num_threads(before)
    assert threads == [before + 1]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_maps_of_nano_equal_the_eager_ones_for_photos_of_every_aspect(cache, dtype):
    eager = AnomalySegmenter.from_preset("nano", product="part", device="cpu", dtype=dtype)
    segmenter = AnomalySegmenter.from_preset("nano", product="part", device="cpu", dtype=dtype, compiled=True)
    graphs = counters["stats"]["unique_graphs"]
    for seed, shape in ((11, (320, 320)), (12, (320, 210)), (13, (150, 320)), (14, (700, 100))):
        photo = render(seed, *shape, p_normal=0.0).image
        one, other = eager.segment(photo), segmenter.segment(photo)
        near = 1e-4 if dtype == "float32" else 0.05
        np.testing.assert_allclose(other.coarse_map, one.coarse_map, atol=near)
        np.testing.assert_allclose(other.anomaly_map, one.anomaly_map, atol=near)
    assert counters["stats"]["unique_graphs"] == graphs  # nothing was left to compile


@pytest.mark.slow
def test_inspect_compiles_once_on_a_machine(tmp_path):
    from PIL import Image

    Image.fromarray(render(11, 320, 320, p_normal=0.0).image).save(tmp_path / "part.png")
    place = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    place["CLIPSAM_CACHE"] = str(tmp_path / "cache")
    command = [
        sys.executable,
        "-m",
        "clipsam",
        "inspect",
        "part.png",
        "--preset",
        "nano",
        "--no-sam",
        "--compile",
    ]
    kept = []
    for run in ("one", "two"):
        done = subprocess.run(
            [*command, "--out", run],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=place,
        )
        assert "about a minute the first time" in done.stderr
        assert json.loads((tmp_path / run / "run.json").read_text())["compiled"] is True
        kept.append(set((tmp_path / "cache").rglob("*.so")))
    assert kept[0]
    assert kept[0] == kept[1]
