"""`clipsam eval` from the command line, with a segmenter without models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_evaluate import DarkSegmenter
from tiny_dataset import draw_category
from typer import Typer
from typer.testing import CliRunner

from clipsam import scoring
from clipsam.cli.eval import register
from clipsam.errors import RunError, UsageError
from clipsam.perturbations import PERTURBATIONS

app = Typer()
app.callback()(lambda: None)
register(app)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(
        scoring.SegmenterRecipe, "build", lambda recipe: DarkSegmenter(sam=recipe.sam or None)
    )
    scoring._loaded.cache_clear()
    draw_category(tmp_path / "data/bottle", 1)
    return tmp_path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["eval", *(str(a) for a in arguments)], catch_exceptions=False)


def test_mvtec_with_one_category(root: Path) -> None:
    result = run("--dataset", "mvtec", "--root", root / "data", "--out", root / "out", "--dump-maps")
    assert result.exit_code == 0
    assert "absent: cable, capsule" in result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["bottle", "fused"] in [line[:2] for line in lines]
    assert ["mean", "coarse"] in [line[:2] for line in lines]
    assert "ms per photo: clip 250.0" in result.stdout
    written = json.loads((root / "out/metrics.json").read_text())
    assert len(written["dataset"]["absent"]) == 14
    assert (root / "out/maps/fused/bottle/test/good/000.tiff").exists()


def test_json_and_options(root: Path) -> None:
    result = run(
        "--dataset", "folder", "--root", root / "data", "--out", root / "out", "--json", "--no-sam",
        "--resolution", 32, "--product", "bottle=green bottle",
    )  # fmt: skip
    content = json.loads(result.stdout)
    assert list(content["mean"]) == ["coarse"]
    assert content["scoring"]["resolution"] == "32x32"
    assert content["categories"]["bottle"]["method"]["product"] == "green bottle"


def test_an_option_goes_before_the_protocol(root: Path) -> None:
    common = ("--dataset", "folder", "--root", root / "data", "--json", "--protocol", "winclip")
    assert json.loads(run(*common, "--out", root / "a").stdout)["scoring"]["resolution"] == "240x240"
    free = json.loads(run(*common, "--out", root / "b", "--resolution", 0, "--sam").stdout)
    assert free["scoring"]["resolution"] == "photo"
    assert list(free["mean"]) == ["fused", "coarse"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--track", "mixed"], "expected one of training-free"),
        (["--product", "bottle"], "expected CATEGORY=WORDS"),
        (["--product", "screw=x"], "no category screw"),
        (["--category", "cable"], "no category cable"),
        (["--protocol", "mine"], "found no protocol"),
    ],
)
def test_wrong_options(root: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run("--dataset", "folder", "--root", root / "data", "--out", root / "out", *arguments)


def test_perturbations_are_compared(root: Path) -> None:
    common = ("--dataset", "folder", "--root", root / "data", "--out", root / "out", "--perturb", "noise=60")
    result = run(*common)
    assert "noise=60" in result.stdout
    assert "as it is" in result.stdout
    assert list(json.loads(run(*common, "--json").stdout)["comparison"]) == ["as it is", "noise=60"]


def test_all_seven_perturbations_and_a_sample(root: Path) -> None:
    names = ["rotation", "hue", "saturation", "brightness", "noise", "blur", "jpeg"]
    assert list(PERTURBATIONS) == names
    options = [word for name in names for word in ("--perturb", name)]
    common = ("--dataset", "folder", "--root", root / "data", "--out", root / "out")
    result = run(*common, "--limit", 2, *options)
    rows = [line.split()[0].split("=")[0] for line in result.stdout.splitlines() if "=" in line.split(" ")[0]]
    assert rows == names
    assert "6 test photos" in result.stderr
    assert "a sample: at most 2 photos per type of defect" in result.stdout
    with pytest.raises(RunError, match="another dataset"):
        run(*common)


def test_strays_are_told_before_the_first_photo(root: Path) -> None:
    (root / "data/bottle/test/good/notes.txt").write_text("x")
    common = ("--dataset", "folder", "--root", root / "data", "--out", root / "out")
    told = run(*common).stderr.splitlines()
    assert "stray" in told[1]
    assert told[1].endswith("notes.txt: not a photo")
    assert told[2] == "clipsam: bottle 9/9"
    (root / "data/bottle/ground_truth/hole/000_mask.png").unlink()
    left_out = run(*common, "--leave-out-faulty", "--overwrite").stderr
    assert left_out.index("mask missing") < left_out.index("bottle 8/8")


def test_nano_stands_with_methods_that_saw_masks(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "clipsam.evaluation_table.beside_published", lambda found, track: asked.append(track) or ""
    )
    common = ("--dataset", "folder", "--root", root / "data", "--out", root / "out")
    run(*common)
    monkeypatch.setattr(DarkSegmenter, "manifest", lambda self: {"preset": "nano"})
    run(*common, "--overwrite")
    run(*common, "--track", "batch")
    assert asked == ["training-free", "aux", "batch"]
