"""The run folder: rows that survive a kill, a manifest that refuses other settings, exact pictures."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from fake_segmenter import segmentation_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from clipsam.errors import RunError, UsageError
from clipsam.runs.manifest import open_run, read_manifest, story_of, write_manifest
from clipsam.runs.overlay import RAMP, colour_of, draw_overlay, font_size, line_width
from clipsam.runs.pictures import PictureOptions, map_to_png, picture_names, read_map, write_pictures
from clipsam.runs.store import ResultStore, error_row, is_suspicious, ranked, read_rows, result_row

SETTINGS = {"preset": "fake", "weights": {"clip": "aa"}, "heatmap": {"sizes": (518, 240)}, "device": "cpu"}


def blob_map(height: int = 60, width: int = 80) -> np.ndarray:
    values = np.full((height, width), 0.2, np.float32)
    values[10:20, 30:50] = 0.9
    values[40:44, 5:9] = 0.6
    return values


# ---- rows


def test_row_of_a_result() -> None:
    result = segmentation_of(blob_map(), is_defective=None)
    row = json.loads(json.dumps(result_row(Path("/p/a.png"), "ff", result, 0.1234567)))
    assert row["path"] == "/p/a.png"
    assert row["sha256"] == "ff"
    assert row["score"] == pytest.approx(0.9)
    assert row["is_defective"] is None
    assert row["seconds"] == 0.1235
    assert row["stages"] == {"clip": 0.02, "sam": 0.01}
    first = row["regions"][0]
    assert first["box_xyxy"] == [30, 10, 50, 20]
    assert first["area_px"] == 200
    np.testing.assert_array_equal(coco.decode(first["rle"]).astype(bool), result.regions[0].mask)


def test_suspicious_and_ranked() -> None:
    quiet = result_row(Path("/b"), "1", segmentation_of(np.full((4, 4), 0.1)), 0)
    loud = result_row(Path("/a"), "1", segmentation_of(np.full((4, 4), 0.7)), 0)
    bad = error_row(Path("/c"), None, "missing", "gone")
    assert [is_suspicious(row) for row in (quiet, loud, bad)] == [False, True, False]
    assert is_suspicious(quiet | {"is_defective": True})  # a calibration has the last word
    assert not is_suspicious(loud | {"is_defective": False})
    assert [row["path"] for row in ranked([quiet, bad, loud])] == ["/a", "/b"]


def test_rows_are_on_disk_at_once_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    rows = [error_row(Path(f"/ü {i}.png"), None, "missing", "gone") for i in range(3)]
    with ResultStore(path) as store:
        for count, row in enumerate(rows, start=1):
            store.append(row)
            assert len(read_rows(path)) == count
    assert read_rows(path) == rows
    assert len(path.read_text("ascii").splitlines()) == 3


@given(st.data())
def test_any_cut_leaves_whole_rows(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A kill may cut the file at any byte: the rows before it stay, and every line is whole again."""
    path = tmp_path_factory.mktemp("cut") / "results.jsonl"
    rows = [error_row(Path(f"/{i}.png"), None, "empty", "é\n" * i) for i in range(4)]
    with ResultStore(path) as store:
        for row in rows:
            store.append(row)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    with ResultStore(path) as store:
        assert list(store.rows.values()) == rows[:kept]
        for row in rows[kept:]:
            store.append(row)
    assert path.read_bytes() == whole


def test_zeros_at_the_end_after_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with ResultStore(path) as store:
        store.append(error_row(Path("/a"), None, "empty", "x"))
    whole = path.read_bytes()
    path.write_bytes(whole + bytes(40) + b"\n" + bytes(10))
    with ResultStore(path) as store:
        assert list(store.rows) == ["/a"]
    assert path.read_bytes() == whole


def test_damage_in_the_middle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    line = json.dumps(error_row(Path("/a"), None, "empty", "x"))
    path.write_text(f"{line}\nnonsense\n{line}\n")
    with pytest.raises(RunError, match="line 2"):
        ResultStore(path)


def test_last_row_of_a_path_counts_and_compacting_drops_the_others(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with ResultStore(path) as store:
        for name, kind in (("/b", "empty"), ("/a", "empty"), ("/b", "missing")):
            store.append(error_row(Path(name), "0", kind, "x"))
        assert store.done(Path("/b"), "0")["error"]["kind"] == "missing"
        assert store.done(Path("/b"), "1") is None
        assert store.done(Path("/c"), "0") is None
        store.compact()
        store.append(error_row(Path("/c"), None, "empty", "x"))  # goes to the new file
    assert [(row["path"], row["error"]["kind"]) for row in read_rows(path)] == [
        ("/a", "empty"),
        ("/b", "missing"),
        ("/c", "empty"),
    ]
    assert len(path.read_text().splitlines()) == 3
    assert os.listdir(tmp_path) == ["results.jsonl"]


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with ResultStore(tmp_path / "r.jsonl") as store:
        with pytest.raises(RunError, match="another process"):
            ResultStore(tmp_path / "r.jsonl")
        store.append(error_row(Path("/a"), "0", "empty", "x"))
        store.compact()
        with pytest.raises(RunError, match="another process"):
            ResultStore(tmp_path / "r.jsonl")


# ---- run.json


def test_manifest_of_a_new_run(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    open_run(folder, SETTINGS, root=tmp_path, inputs=["x"])
    manifest = read_manifest(folder)
    assert manifest["state"] == "running"
    assert manifest["preset"] == "fake"
    assert manifest["calibration_id"] is None
    assert manifest["device"] == "cpu"
    assert {"clipsam", "python", "torch", "pillow"} <= manifest["versions"].keys()
    assert (folder / "results.jsonl").read_bytes() == b""


def test_same_settings_go_on_and_others_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    open_run(folder, SETTINGS, root=tmp_path / "photos", inputs=["x"])
    open_run(folder, SETTINGS | {"device": "cuda"}, root=tmp_path / "photos" / "a", inputs=["y"])
    assert read_manifest(folder)["device"] == "cuda"
    with pytest.raises(RunError, match=r'weights.clip was "aa" and is "bb".*--out.*--overwrite'):
        open_run(folder, SETTINGS | {"weights": {"clip": "bb"}}, root=tmp_path / "photos", inputs=["x"])
    with pytest.raises(RunError, match=r"threshold was null and is 0\.3"):
        open_run(folder, SETTINGS | {"threshold": 0.3}, root=tmp_path / "photos", inputs=["x"])
    with pytest.raises(RunError, match="photos below"):
        open_run(folder, SETTINGS, root=tmp_path / "other", inputs=["x"])


def test_overwrite_removes_a_run_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    open_run(folder, SETTINGS, root=tmp_path, inputs=["x"])
    (folder / "results.jsonl").write_text("old\n")
    (folder / "maps").mkdir()
    (folder / "maps" / "a.png").touch()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(RunError):
        open_run(folder, SETTINGS | {"preset": "b"}, root=tmp_path, inputs=["x"])
    (folder / "notes.txt").rename(tmp_path / "notes.txt")
    open_run(folder, SETTINGS | {"preset": "b"}, root=tmp_path, inputs=["x"], overwrite=True)
    assert sorted(os.listdir(folder)) == ["results.jsonl", "run.json"]
    assert (folder / "results.jsonl").read_bytes() == b""

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "maps").mkdir()
    for overwrite in (False, True):
        with pytest.raises(RunError, match="not a run folder"):
            open_run(mine, SETTINGS, root=tmp_path, inputs=["x"], overwrite=overwrite)
    assert (mine / "maps").exists()
    with pytest.raises(RunError, match="a file"):
        open_run(tmp_path / "notes.txt", SETTINGS, root=tmp_path, inputs=["x"])


def test_damaged_or_foreign_manifest(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run\.json"):
        read_manifest(tmp_path)
    for text in ("{", "[]", '{"format": "else"}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(RunError):
            read_manifest(tmp_path)


def test_manifest_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"format": "clipsam-run-1", "root": "/", "versions": {}, "wall_seconds": 0}
    write_manifest(tmp_path, whole | {"n": 1})

    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunError, match="No space"):
        write_manifest(tmp_path, whole | {"n": 2})
    assert read_manifest(tmp_path)["n"] == 1


def test_story_counts_rows() -> None:
    rows = [
        result_row(Path("/a"), "1", segmentation_of(np.full((4, 4), 0.7)), 0.5),
        result_row(Path("/b"), "1", segmentation_of(np.full((4, 4), 0.2), is_defective=False), 0.5),
        error_row(Path("/c"), None, "missing", "x"),
    ]
    story = story_of(rows)
    assert story["counts"] == {
        "photos": 3,
        "done": 2,
        "suspicious": 1,
        "defective": 0,
        "errors": 1,
        "errors_by_kind": {"missing": 1},
    }
    assert story["seconds"] == {"clip": 0.04, "sam": 0.02}


# ---- pictures


def test_names_mirror_the_photos_and_never_collide() -> None:
    root = Path("/photos")
    photos = [
        root / name for name in ("a.png", "s/a.png", "b.png", "b.jpg", "c.jpg.png", "c.jpg", "D.png", "d.bmp")
    ]
    names = picture_names(photos, root)
    assert [names[photo] for photo in photos] == [
        "a",
        "s/a",
        "b.png",
        "b.jpg",
        "c.jpg.png",
        "c",
        "D.png",
        "d.bmp",
    ]


@given(st.lists(st.from_regex(r"[ab](\.(png|jpg)){1,3}", fullmatch=True), unique=True))
def test_names_never_collide(names: list[str]) -> None:
    found = picture_names([Path("/r") / name for name in names], Path("/r"))
    assert len(set(found.values())) == len(names)


def test_very_long_names_are_shortened() -> None:
    photos = [Path("/r") / ("ü" * 120 + end + ".png") for end in ("ab", "ac")]
    names = set(picture_names(photos, Path("/r")).values())
    assert len(names) == 2
    assert all(len(os.fsencode(name)) < 250 for name in names)


@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (64, 200)])
def test_map_png_is_exact_to_16_bits(shape: tuple[int, int], tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    values[0, 0] = 1.0
    data = map_to_png(values)
    with Image.open(io.BytesIO(data)) as image:
        image.verify()
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "I;16"
        np.testing.assert_allclose(np.asarray(image), values.astype(float) * 65535, rtol=0, atol=0.51)
    (tmp_path / "m.png").write_bytes(data)
    np.testing.assert_allclose(read_map(tmp_path / "m.png"), values, atol=0.51 / 65535)


@pytest.mark.parametrize("maps", ["png16", "tiff", "none"])
def test_written_pictures(maps: str, tmp_path: Path) -> None:
    result = segmentation_of(blob_map())
    pixels = np.full((60, 80, 3), 120, np.uint8)
    files = write_pictures(tmp_path, "sub/ä b", pixels, result, PictureOptions(maps))
    assert files.keys() == {"mask", "overlay"} | ({"map"} if maps != "none" else set())
    assert (tmp_path / "maps").exists() == (maps != "none")
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / files["mask"])), result.mask * np.uint8(255)
    )
    assert Image.open(tmp_path / files["overlay"]).size == (80, 60)
    if maps != "none":
        tolerance = 0 if maps == "tiff" else 1 / 65535
        np.testing.assert_allclose(read_map(tmp_path / files["map"]), result.anomaly_map, atol=tolerance)


def test_options_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="png16"):
        PictureOptions("exr")
    pixels = np.zeros((60, 80, 3), np.uint8)
    files = write_pictures(tmp_path, "a", pixels, segmentation_of(blob_map()), PictureOptions(overlays=False))
    assert set(files) == {"mask", "map"}


def test_disk_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "masks").touch()  # a file where a folder must be
    with pytest.raises(RunError, match="cannot be written"):
        write_pictures(
            tmp_path, "a", np.zeros((60, 80, 3), np.uint8), segmentation_of(blob_map()), PictureOptions()
        )


# ---- overlay


def test_a_good_part_looks_like_its_photo() -> None:
    """Nothing is stretched: a map below the threshold leaves no trace, however it varies."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    quiet = np.random.default_rng(1).random((50, 70), dtype=np.float32) * 0.49
    np.testing.assert_array_equal(np.asarray(draw_overlay(pixels, segmentation_of(quiet))), pixels)


@pytest.mark.parametrize("size", [(100, 105), (900, 900), (300, 1500), (1200, 1600)])
def test_overlay_marks_the_region_and_leaves_the_rest(size: tuple[int, int]) -> None:
    height, width = size
    values = np.full(size, 0.1, np.float32)
    rows, columns = slice(height // 2, height // 2 + height // 8), slice(width // 3, width // 3 + width // 8)
    values[rows, columns] = 0.8
    pixels = np.full((*size, 3), 128, np.uint8)
    drawn = np.asarray(draw_overlay(pixels, segmentation_of(values)))
    changed = (drawn != pixels).any(axis=2)
    assert drawn.shape == pixels.shape
    assert changed[rows, columns].all()  # tinted ...
    assert np.abs(drawn[rows, columns].astype(int) - 128).max(axis=2).mean() < 60  # ... and still to be seen
    line = np.abs(drawn.astype(int) - colour_of(0.8)).max(axis=2) < 12
    assert line.sum() > 2 * (height // 8 + width // 8)
    assert not changed[-height // 4 :].any()
    assert changed.mean() < 0.35


def test_label_does_not_cover_a_defect() -> None:
    """With a second defect right above the first, its label goes elsewhere."""
    values = np.full((400, 400), 0.1, np.float32)
    values[200:300, 150:260] = 0.9
    values[165:190, 100:320] = 0.6
    pixels = np.full((400, 400, 3), 128, np.uint8)
    drawn = np.asarray(draw_overlay(pixels, segmentation_of(values)))
    dark = drawn.max(axis=2) < 80  # the ground of a label
    assert dark.sum() > 500
    assert not dark[165:190, 100:320].any()
    assert not dark[200:300, 150:260].any()


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (20, 400), (3, 50)])
def test_overlay_of_tiny_photos(shape: tuple[int, int]) -> None:
    drawn = draw_overlay(np.zeros((*shape, 3), np.uint8), segmentation_of(np.full(shape, 0.9)))
    assert drawn.size == shape[::-1]


def test_overlay_with_many_regions_and_strange_type_names() -> None:
    values = np.full((300, 300), 0.1, np.float32)
    values[::12, ::12] = 0.7
    result = segmentation_of(values)
    assert len(result.regions) == 625
    for region in result.regions[:3]:
        object.__setattr__(region, "defect", "划痕")
    assert draw_overlay(np.zeros((300, 300, 3), np.uint8), result).size == (300, 300)


def test_scales_are_fixed() -> None:
    assert colour_of(-1) == colour_of(0) == tuple(RAMP[0])
    assert colour_of(2) == colour_of(1) == tuple(RAMP[255])
    assert font_size((60, 60)) >= 11
    assert font_size((4000, 4000)) > font_size((900, 900))
    assert line_width((900, 900)) < 2.5


def test_row_without_its_keys_is_no_row(tmp_path: Path) -> None:
    rows = '{"path": "/a", "sha256": null}\n{"path": "/b", "sha256": null, "error": {}}\n'
    (tmp_path / "results.jsonl").write_text(rows)
    with pytest.raises(RunError, match="line 1: not a row"):
        read_rows(tmp_path / "results.jsonl")
