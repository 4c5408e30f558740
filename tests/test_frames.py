"""Videos among the inputs of inspect: frames become photos, once, and wrong files are told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image

from clipsam.errors import MissingExtra, SourceError, UsageError
from clipsam.runs.frames import with_frames
from clipsam.runs.inspection import inspect_photos


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Seven frames of a bright plate; a dark spot on the last three."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(7):
        pixels = np.full((48, 64, 3), 235, np.uint8)
        if number >= 4:
            pixels[16:32, 16:40] = 20
        writer.write(pixels)
    writer.release()
    return path


def test_the_frames_of_a_video_are_rows_of_a_run(film: Path, tmp_path: Path) -> None:
    told: list[tuple[Path, int]] = []
    inputs = with_frames(
        [str(film)], tmp_path / "frames", 1, lambda video, count: told.append((video, count))
    )
    assert told == [(film, 7)]
    summary = inspect_photos(FakeSegmenter(), inputs, tmp_path / "run")
    names = [Path(row["path"]).name for row in summary.rows]
    assert names == [f"{number:06d}.png" for number in range(7)]
    assert [bool(row["regions"]) for row in summary.rows] == 4 * [False] + 3 * [True]
    again = inspect_photos(FakeSegmenter(), with_frames([str(film)], tmp_path / "frames"), tmp_path / "run")
    assert again.resumed == 7


def test_every_third_frame_beside_photos(film: Path, tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(photo)
    inputs = with_frames([str(photo), str(film)], tmp_path / "frames", 3)
    assert inputs[0] == str(photo)
    assert sorted(path.name for path in Path(inputs[1]).iterdir()) == [
        "000000.png",
        "000003.png",
        "000006.png",
    ]


def test_another_film_of_the_same_name_and_other_frames_do_not_mix(film: Path, tmp_path: Path) -> None:
    (first,) = with_frames([str(film)], tmp_path / "frames")
    (thinned,) = with_frames([str(film)], tmp_path / "frames", 3)
    film.write_bytes(film.read_bytes() + b"more")
    (second,) = with_frames([str(film)], tmp_path / "frames")
    assert len({first, thinned, second}) == 3
    assert [len(list(Path(place).iterdir())) for place in (first, thinned, second)] == [7, 3, 7]


def test_what_cannot_be_taken_apart_is_told(
    film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no film" * 50)
    with pytest.raises(SourceError, match=r"broken\.mp4"):
        with_frames([str(broken)], tmp_path / "frames")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="cannot be written"):
        with_frames([str(film)], tmp_path / "file")
    assert with_frames(["no/such/film.mp4"], tmp_path / "frames") == ["no/such/film.mp4"]
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"clipsam\[video\]"):
        with_frames([str(film)], tmp_path / "frames")
