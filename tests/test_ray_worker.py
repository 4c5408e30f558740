"""Workers of a run on Ray, without Ray: answers to shards, and care where a worker died."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image

from clipsam.errors import MissingExtra, RunError, UsageError
from clipsam.images import Photo, file_sha256
from clipsam.result import Segmentation
from clipsam.runs.inspection import inspect_photos
from clipsam.runs.manifest import versions
from clipsam.runs.photowork import Job
from clipsam.runs.pictures import PictureOptions
from clipsam.runs.ray_engine import RayEngine, Team
from clipsam.runs.ray_worker import DEATHS, Answer, Ask, Attempts, Worker, shards

OPTIONS = PictureOptions()


class Died(BaseException):
    """In place of the end of a process: nothing catches it."""


class Deadly(FakeSegmenter):
    """Kills its worker over one photo, `times` times."""

    def __init__(self, name: str, times: int) -> None:
        super().__init__()
        self.name, self.times = name, times

    def segment(self, image: Photo) -> Segmentation:
        if image.path.name == self.name and self.times:
            self.times -= 1
            raise Died
        return super().segment(image)


@pytest.fixture
def asks(tmp_path: Path) -> list[Ask]:
    """Four photos; the third is damaged."""
    found = []
    for place in range(4):
        path = tmp_path / "photos" / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(place).integers(100, 250, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        found.append(Ask(place, path, path.stem))
    found[2].path.write_bytes(b"no photo")
    return found


def test_answers_are_what_the_local_engine_writes(asks: list[Ask], tmp_path: Path) -> None:
    run = tmp_path / "run"
    rows = inspect_photos(FakeSegmenter(), [ask.path for ask in asks], run).rows
    answers = list(Worker(FakeSegmenter, Attempts(), OPTIONS).answers(asks))
    assert [answer.place for answer in answers] == [0, 1, 2, 3]
    untimed = {"seconds", "stages", "time"}
    for answer, row in zip(answers, rows, strict=True):
        assert answer.row is not None
        assert {k: v for k, v in answer.row.items() if k not in untimed} == {
            k: v for k, v in row.items() if k not in untimed
        }
        assert {kind: file for kind, file, _ in answer.pictures} == row.get("files", {})
        for _, file, data in answer.pictures:
            assert (run / file).read_bytes() == data
    assert sum(len(answer.pictures) for answer in answers) == 9


def test_photos_with_the_bytes_that_are_done_are_not_segmented(asks: list[Ask]) -> None:
    segmenter = FakeSegmenter()
    asks[0] = Ask(0, asks[0].path, "0", done=file_sha256(asks[0].path))
    asks[1] = Ask(1, asks[1].path, "1", done="0" * 64)
    answers = list(Worker(lambda: segmenter, Attempts(), OPTIONS).answers(asks))
    assert answers[0].row is None
    assert segmenter.seen == ["1.png", "3.png"]


def test_failures_are_answers(asks: list[Ask]) -> None:
    def fail(image: Photo) -> Segmentation:
        raise ValueError("no luck")

    segmenter = FakeSegmenter()
    segmenter.segment = fail  # type: ignore[method-assign]
    answers = list(Worker(lambda: segmenter, Attempts(), OPTIONS).answers(asks * 3))
    assert [answer.failure for answer in answers] == [True, True, False, True] * 3
    assert answers[0].row is not None
    assert "ValueError: no luck" in answers[0].row["error"]["message"]


def test_a_worker_that_cannot_work_says_so(asks: list[Ask]) -> None:
    def load() -> FakeSegmenter:
        raise UsageError("no weights")

    for answer in Worker(load, Attempts(), OPTIONS).answers(asks):
        assert answer.row is None
        assert "cannot work: clipsam.errors.UsageError: no weights" in answer.trouble


def test_a_worker_with_other_libraries_does_not_work(asks: list[Ask]) -> None:
    here = {"numpy": versions()["numpy"]}
    assert not next(Worker(FakeSegmenter, Attempts(), OPTIONS, expected=here).answers(asks)).trouble
    other = Worker(FakeSegmenter, Attempts(), OPTIONS, expected={"numpy": "1.0"})
    assert f"it has numpy {here['numpy']}, and 1.0" in next(other.answers(asks)).trouble


@pytest.mark.parametrize("times", [1, DEATHS - 1, DEATHS, 10])
def test_a_photo_that_kills_workers(asks: list[Ask], times: int) -> None:
    """The shard goes from worker to worker; only the photo to blame gets an error, and only in the end."""
    segmenter, attempts = Deadly("1.png", times), Attempts()
    deaths = 0
    answers = []
    while not answers:
        try:
            answers = list(Worker(lambda: segmenter, attempts, OPTIONS).answers(asks))
        except Died:
            deaths += 1
    assert deaths == min(times, DEATHS)
    kinds = [answer.row.get("error", {}).get("kind") for answer in answers if answer.row]
    assert kinds == [None, "failed" if times >= DEATHS else None, "not-an-image", None]
    if times >= DEATHS:
        assert answers[1].row is not None
        assert answers[1].row["sha256"] is None  # a later call tries it again
        assert "3 workers died over it" in answers[1].row["error"]["message"]
    # A photo that has killed nobody since is not remembered.
    assert attempts.begin("photo 0") == attempts.begin("shard 0") == 0


class WithoutRay(RayEngine):
    """The engine as it takes answers, which come backwards here, and each twice."""

    def __init__(self, segmenter: FakeSegmenter, lost: int = 0) -> None:
        super().__init__(2)
        self._segmenter, self._lost = segmenter, lost

    def _answers(self, job: Job, asks: Sequence[Ask]) -> Generator[Answer, None, None]:
        worker = Worker(lambda: self._segmenter, Attempts(), job.options, job.bit_depth)
        for answer in list(worker.answers(asks))[self._lost :][::-1]:
            yield answer
            yield answer


def untimed(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "stages", "time")} for row in rows]


def test_answers_become_the_run(asks: list[Ask], tmp_path: Path) -> None:
    photos = asks[0].path.parent
    expected = inspect_photos(FakeSegmenter(), [photos], tmp_path / "local")
    with pytest.raises(RunError, match="1 photos had no answer; the same command goes on"):
        inspect_photos(FakeSegmenter(), [photos], tmp_path / "far", engine=WithoutRay(FakeSegmenter(), 1))
    assert len(untimed(tmp_path / "far")) == 3
    again = FakeSegmenter()
    summary = inspect_photos(FakeSegmenter(), [photos], tmp_path / "far", engine=WithoutRay(again))
    assert again.seen == ["0.png"]
    assert summary.resumed == 3
    assert untimed(tmp_path / "far") == untimed(tmp_path / "local")
    assert [row["path"] for row in summary.rows] == [row["path"] for row in expected.rows]


def test_a_segmenter_that_always_fails_ends_the_run(asks: list[Ask], tmp_path: Path) -> None:
    segmenter = FakeSegmenter()

    def fail(image: Photo) -> Segmentation:
        raise ValueError("nonsense")

    segmenter.segment = fail  # type: ignore[method-assign]
    photos = asks[0].path.parent
    plate = Image.open(asks[0].path)
    plate.save(asks[2].path)
    with pytest.raises(RunError, match=r"3 photos in a row failed: .*ValueError: nonsense"):
        inspect_photos(FakeSegmenter(), [photos], tmp_path / "run", engine=WithoutRay(segmenter))
    assert [row["error"]["kind"] for row in untimed(tmp_path / "run")] == ["failed", "failed"]


def test_a_worker_in_trouble_ends_the_run(asks: list[Ask], tmp_path: Path) -> None:
    engine = WithoutRay(FakeSegmenter())
    engine._answers = lambda *_: (answer for answer in [Answer(0, trouble="no weights there")])  # type: ignore
    with pytest.raises(RunError, match="no weights there"):
        inspect_photos(FakeSegmenter(), [asks[0].path], tmp_path / "run", engine=engine)


def test_options_of_the_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipsam.cli.inspect import _engine

    assert _engine("local", None) is None
    with pytest.raises(UsageError, match="choose local or ray"):
        _engine("spark", None)
    with pytest.raises(UsageError, match="--workers is for --engine ray"):
        _engine("local", 2)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"pip install 'clipsam\[ray\]'"):
        _engine("ray", 2)


def test_shards() -> None:
    cut = shards([Ask(place, Path(str(place)), str(place)) for place in range(7)], 3)
    assert [[ask.place for ask in shard] for shard in cut] == [[0, 1, 2], [3, 4, 5], [6]]


def test_teams_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert Team.of(None, 8, 0) == Team(4, 2, 2, 0)
    assert Team.of(2, 8, 0) == Team(2, 4, 4, 0)
    assert Team.of(3, 8, 0) == Team(3, 2, 2, 0)
    assert Team.of(None, 1, 0) == Team(1, 1, 1, 0)
    assert Team.of(3, 2, 0) == Team(3, 1, 0.666, 0)  # more workers than cores fit all the same
    assert Team.of(None, 16, 2) == Team(2, 8, 8, 1)
    with pytest.raises(UsageError, match="3 workers and 2 GPUs"):
        Team.of(3, 16, 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Team.of(2, 8, 0) == Team(2, 1, 4, 0)
