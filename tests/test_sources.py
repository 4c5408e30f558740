"""Cameras, video files, reopening and pace."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clipsam.errors import MissingExtra, SourceError, UsageError
from clipsam.sources import Camera, Reconnecting, Video, paced


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Ten frames of 64 x 48, each redder than the one before; blue stays 40."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for number in range(10):
        writer.write(np.full((48, 64, 3), (40, 0, 20 * number), np.uint8))  # OpenCV: blue first
    writer.release()
    return path


def test_a_video_gives_its_frames_as_rgb(film: Path) -> None:
    shown = list(Video(film))
    assert [image.shape for image in shown] == 10 * [(48, 64, 3)]
    assert shown[0].dtype == np.uint8
    means = np.array([image.mean(axis=(0, 1)) for image in shown])
    np.testing.assert_allclose(means[:, 0], 20 * np.arange(10), atol=8)
    np.testing.assert_allclose(means[:, 2], 40, atol=8)


def test_every_third_frame_and_again(film: Path) -> None:
    video = Video(film, every=3)
    first, second = list(video), list(video)
    assert len(first) == len(second) == 4
    assert first[1].mean(axis=(0, 1))[0] == pytest.approx(60, abs=8)


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    with pytest.raises(SourceError, match="no such file"):
        list(Video(tmp_path / "gone.mp4"))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a film" * 100)
    with pytest.raises(SourceError, match=r"broken\.mp4"):
        list(Video(broken))
    with pytest.raises(UsageError, match="every"):
        Video(broken, every=0)


def test_a_camera_that_is_not_there_is_told() -> None:
    pytest.importorskip("cv2")
    with pytest.raises(SourceError, match="'/dev/no-such-camera' cannot be opened"):
        next(iter(Camera("/dev/no-such-camera")))


def test_a_camera_that_ends_is_told_and_can_be_closed(film: Path) -> None:
    camera = Camera(str(film), patience=2)  # OpenCV opens a file as it opens an address
    images: list[np.ndarray] = []
    with pytest.raises(SourceError, match="no more frames"):
        images.extend(camera)
    assert len(images) == 10
    closed = Camera(str(film))
    seen = 0
    for _ in closed:
        seen += 1
        closed.close()
    assert seen == 1


def test_without_opencv_the_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    for source in (Camera(0), Video("film.mp4"), Reconnecting(lambda: Camera(0))):
        with pytest.raises(MissingExtra, match=r"pip install 'clipsam\[video\]'"):
            next(iter(source))


def test_reconnecting_gives_up_after_its_patience() -> None:
    def never() -> Iterator[int]:
        raise SourceError("unplugged")
        yield 0

    source = Reconnecting(never, first_wait=0.01, longest_wait=0.02, patience=0.1)
    with pytest.raises(SourceError, match=r"no frame for .* \(unplugged\)"):
        next(iter(source))
    assert source.reconnects >= 3


def test_reconnecting_ends_when_closed_while_it_waits() -> None:
    source = Reconnecting(lambda: [1, 2], first_wait=30)
    given = iter(source)
    assert [next(given), next(given)] == [1, 2]
    source.close()
    start = time.monotonic()
    assert list(given) == []
    assert time.monotonic() - start < 1
    with pytest.raises(UsageError, match="first_wait"):
        Reconnecting(lambda: [], first_wait=2, longest_wait=1)


def test_paced_keeps_the_pace() -> None:
    start = time.perf_counter()
    assert list(paced(range(11), 100)) == list(range(11))
    assert 0.1 <= time.perf_counter() - start < 0.5
    with pytest.raises(UsageError, match="per_second"):
        next(paced([], 0))
