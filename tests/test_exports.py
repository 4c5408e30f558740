"""Runs in other tools' formats, read back by those tools or by decoders written from their descriptions."""

from __future__ import annotations

import csv
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter, segmentation_of
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools.coco import COCO
from typer.testing import CliRunner

from clipsam.cli import app
from clipsam.errors import MissingExtra, RunError, UsageError
from clipsam.exports.fiftyone import samples_of
from clipsam.exports.inspected import InspectedRun
from clipsam.exports.label_studio import encode
from clipsam.exports.supervision import detections_of, run_detections
from clipsam.runs.inspection import inspect_photos


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Photos with two spots, one spot and none, and a broken one, inspected."""
    folder = tmp_path / "photos"
    spots = {"bolt & nut/a.png": 2, "bolt & nut/b.png": 1, "good.png": 0}
    for name, count in spots.items():
        pixels = np.full((40, 60, 3), 240, np.uint8)
        pixels[5:15, 10:30] = 20 if count else 240
        pixels[8, 12] = 240  # a hole
        pixels[30:36, 50:60] = 60 if count > 1 else 240
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG broken")
    inspect_photos(FakeSegmenter(), [folder], tmp_path / "run")
    return tmp_path / "run"


def verb(*words: object) -> str:
    """What `clipsam annotations` prints; its errors are raised."""
    done = CliRunner().invoke(app, ["annotations", *map(str, words)], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return done.stdout


def mask_of(run: Path, row: dict) -> np.ndarray:
    """The mask that the run wrote for a photo."""
    return np.asarray(Image.open(run / row["files"]["mask"])) > 0


# ---- COCO


def test_coco_is_read_by_pycocotools(run: Path, tmp_path: Path) -> None:
    said = json.loads(verb(run, "--out", tmp_path / "coco.json", "--json"))
    assert said == {
        "format": "coco",
        "files": [str(tmp_path / "coco.json")],
        "photos": 3,
        "regions": 3,
        "left_out": 1,
    }
    coco = COCO(str(tmp_path / "coco.json"))
    rows = {Path(row["path"]).name: row for row in InspectedRun(run).rows}
    names = [image["file_name"] for image in coco.dataset["images"]]
    assert names == ["bolt & nut/a.png", "bolt & nut/b.png", "good.png"]
    assert [image["decision"] for image in coco.dataset["images"]] == ["suspicious"] * 2 + ["unremarkable"]
    for image in coco.dataset["images"]:
        row = rows[Path(image["file_name"]).name]
        assert (image["width"], image["height"], image["score"]) == (60, 40, row["score"])
        found = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert len(found) == len(row["regions"])
        union = np.zeros((40, 60), bool)
        for annotation, region in zip(found, row["regions"], strict=True):
            mask = coco.annToMask(annotation).astype(bool)
            x, y, width, height = annotation["bbox"]
            assert mask[y : y + height, x : x + width].sum() == mask.sum() == annotation["area"]
            assert coco.loadCats(annotation["category_id"])[0]["name"] == region["defect"]
            assert annotation["score"] == region["score"]
            union |= mask
        assert (union == mask_of(run, row)).all()


# ---- Label Studio


def decode(code: list[int]) -> np.ndarray:
    """What a browser makes of the code: after `decode` of rle-pack in thi.ng/umbrella."""
    bits = "".join(f"{byte:08b}" for byte in code)
    place = 0

    def read(size: int) -> int:
        nonlocal place
        place += size
        return int(bits[place - size : place], 2)

    values = np.zeros(read(32), np.uint8)
    word = read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    index = 0
    while index < len(values):
        repeated = read(1)
        end = index + 1 + read(sizes[read(2)])
        if repeated:
            values[index:end] = read(word)
        else:
            values[index:end] = [read(word) for _ in range(index, end)]
        index = end
    return values


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
@settings(max_examples=60, deadline=None)
def test_label_studio_code_comes_back(mask: np.ndarray) -> None:
    assert (decode(encode(mask)).reshape(*mask.shape, 4) == np.where(mask, 255, 0)[..., None]).all()


@pytest.mark.parametrize("fill", [False, True])
def test_label_studio_code_of_long_runs(fill: bool) -> None:
    mask = np.full((300, 400), fill)
    mask[-1, -1] = not fill
    assert (decode(encode(mask))[3::4].reshape(mask.shape) == mask * 255).all()


def test_label_studio_code_is_that_of_its_own_converter() -> None:
    mask = np.zeros((3, 5), bool)
    mask[1, 1:4], mask[2, 0] = True, True
    # label_studio_sdk.converter.brush.mask2rle(255 * mask.astype("uint8")), version 2.1.2
    assert encode(mask) == [0, 0, 0, 60, 57, 27, 254, 23, 0, 183, 255, 24, 4, 127, 247, 192, 0]


def test_label_studio_tasks(run: Path, tmp_path: Path) -> None:
    verb(run, "--format", "label-studio", "--out", tmp_path / "tasks.json")
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    config = ElementTree.parse(tmp_path / "tasks.xml").getroot()
    brush = config.find("BrushLabels")
    labels = [label.get("value") for label in brush]
    assert tasks[0]["data"]["image"] == "/data/local-files/?d=bolt%20%26%20nut/a.png"
    assert [len(task["predictions"][0]["result"]) for task in tasks] == [2, 1, 0]
    for task, row in zip(tasks, InspectedRun(run).rows, strict=True):
        assert task["predictions"][0]["score"] == task["data"]["anomaly_score"] == row["score"]
        union = np.zeros((40, 60), bool)
        for result in task["predictions"][0]["result"]:
            assert (result["from_name"], result["to_name"]) == (brush.get("name"), brush.get("toName"))
            assert result["to_name"] == config.find("Image").get("name")
            assert result["value"]["brushlabels"][0] in labels
            pixels = decode(result["value"]["rle"])
            size = (result["original_height"], result["original_width"], 4)
            union |= pixels.reshape(size)[..., 3] == 255
        assert (union == mask_of(run, row)).all()
    verb(run, "--format", "label-studio", "--out", tmp_path / "t.json", "--url-prefix", "https://x/")
    assert json.loads((tmp_path / "t.json").read_text())[2]["data"]["image"] == "https://x/good.png"


# ---- CSV


def test_csv(run: Path) -> None:
    said = verb(run, "--format", "csv")
    assert "3 regions of 3 photos" in said
    assert "left out: 1 photos" in said
    lines = list(csv.DictReader((run / "annotations-csv.csv").open(newline="", encoding="utf-8")))
    assert [Path(line["path"]).name for line in lines] == ["a.png", "a.png", "b.png", "good.png"]
    assert [line["region"] for line in lines] == ["1", "2", "1", ""]
    assert [lines[0][edge] for edge in ("x0", "y0", "x1", "y1")] == ["10", "5", "30", "15"]
    assert (lines[0]["area_px"], lines[0]["decision"]) == ("199", "suspicious")
    assert lines[3]["decision"] == "unremarkable"


# ---- supervision


def test_supervision_detections(run: Path) -> None:
    sv = pytest.importorskip("supervision")
    found = dict(run_detections(run))
    assert len(found) == 3
    rows = {Path(row["path"]): row for row in InspectedRun(run).rows}
    for path, detections in found.items():
        row = rows[path]
        assert len(detections) == len(row["regions"])
        if not row["regions"]:
            assert detections.is_empty()
            continue
        assert (np.any(detections.mask, axis=0) == mask_of(run, row)).all()
        edges = sv.mask_to_xyxy(detections.mask) + np.array([0, 0, 1, 1])  # last edges inclusive there
        assert np.array_equal(edges, detections.xyxy)
        assert detections["class_name"].tolist() == [region["defect"] for region in row["regions"]]
        sure = detections[detections.confidence > 0.8]
        assert sure.confidence.tolist() == pytest.approx(
            [r["score"] for r in row["regions"] if r["score"] > 0.8]
        )
        drawn = sv.MaskAnnotator().annotate(np.zeros((40, 60, 3), np.uint8), detections)
        assert (drawn.any(axis=2) == mask_of(run, row)).all()
    ids = {
        (name, number)
        for detections in found.values()
        for name, number in zip(detections.data.get("class_name", []), detections.class_id, strict=True)
    }
    assert len(ids) == len({name for name, _ in ids})  # a type has one number in all photos


def test_supervision_of_a_result() -> None:
    pytest.importorskip("supervision")
    anomaly_map = np.zeros((20, 30), np.float32)
    anomaly_map[2:5, 3:9] = 0.75
    detections = segmentation_of(anomaly_map).to_supervision()
    assert detections.xyxy.tolist() == [[3, 2, 9, 5]]
    assert detections.confidence.tolist() == [0.75]
    assert len(segmentation_of(np.zeros((20, 30), np.float32)).to_supervision()) == 0


# ---- FiftyOne


def record(**fields: object) -> SimpleNamespace:
    return SimpleNamespace(**fields)


class RecordedSample(dict):
    """Stands for `fo.Sample`: fields are set by name."""


def test_fiftyone_samples(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = SimpleNamespace(
        Sample=lambda **fields: RecordedSample(fields),
        Detections=record,
        Detection=record,
        Classification=record,
        Heatmap=record,
    )
    monkeypatch.setitem(sys.modules, "fiftyone", stand_in)
    samples = list(samples_of(run))
    assert [Path(sample["filepath"]).name for sample in samples] == ["a.png", "b.png", "good.png"]
    check_samples(run, samples)


def test_fiftyone_samples_in_fiftyone(run: Path) -> None:
    pytest.importorskip("fiftyone")
    check_samples(run, list(samples_of(run)))


def check_samples(run: Path, samples: list) -> None:
    for sample, row in zip(samples, InspectedRun(run).rows, strict=True):
        assert sample["tags"] == [sample["clipsam_decision"].label]
        assert sample["clipsam_score"] == row["score"]
        assert Image.open(sample["clipsam_map"].map_path).size == (60, 40)
        union = np.zeros((40, 60), bool)
        for detection in sample["clipsam"].detections:
            x, y, width, height = np.array(detection.bounding_box) * [60, 40, 60, 40]
            x0, y0 = round(x), round(y)
            assert detection.mask.shape == (round(height), round(width))
            union[y0 : y0 + round(height), x0 : x0 + round(width)] |= detection.mask
            assert 0 < detection.confidence <= 1
        assert (union == mask_of(run, row)).all()


# ---- what can go wrong


@pytest.mark.parametrize("name", ["supervision", "fiftyone"])
def test_a_missing_extra_says_how_to_install_it(run: Path, monkeypatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'clipsam\[{name}\]'"):
        next(samples_of(run)) if name == "fiftyone" else detections_of(())


def test_bad_usage(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'yolo'; expected one of coco, label-studio, csv"):
        verb(run, "--format", "yolo")
    with pytest.raises(UsageError, match="label-studio only"):
        verb(run, "--url-prefix", "x")
    with pytest.raises(RunError, match="not a run folder"):
        verb(tmp_path / "nowhere")
    with pytest.raises(RunError, match="cannot be written"):
        verb(run, "--out", tmp_path / "no" / "such.json")


def test_sizes_when_photos_are_gone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "photos" / "good.png").unlink()
    assert [(photo.width, photo.height) for photo in InspectedRun(run)] == [(60, 40)] * 3
    (run / "masks" / "good.png").unlink()
    with pytest.raises(RunError, match=r"good.png: its size is not known"):
        list(InspectedRun(run))
