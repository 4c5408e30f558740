"""A sitting takes rows in any order, and comes out as if they had come in that of the photos."""

from __future__ import annotations

from pathlib import Path

from fake_segmenter import segmentation_of
from hypothesis import given
from hypothesis import strategies as st

from clipsam.runs.sitting import Sitting, Step
from clipsam.runs.store import ResultStore, Row, error_row, read_rows, result_row

PHOTOS = [Path(f"/p/{number}.png") for number in range(5)]


class Heard:
    """In place of a drift watch: the scores it was given."""

    def __init__(self) -> None:
        self.scores: list[float] = []

    def add(self, score: float) -> None:
        self.scores.append(round(score, 3))


def row_of(number: int) -> Row:
    if number == 2:
        return error_row(PHOTOS[2], "2", "truncated", "damaged")
    return result_row(PHOTOS[number], str(number), segmentation_of([[number / 10]]), 0.0)


@given(st.permutations(range(5)))
def test_rows_in_any_order(tmp_path_factory: object, order: list[int]) -> None:
    path = tmp_path_factory.mktemp("run") / "results.jsonl"  # type: ignore[attr-defined]
    heard, steps = Heard(), list[Step]()
    with ResultStore(path) as store:
        sitting = Sitting(store, PHOTOS, heard, steps.append)  # type: ignore[arg-type]
        for count, number in enumerate(order, start=1):
            sitting.take(row_of(number))
            assert len(read_rows(path)) == count  # kept at once, whatever it has to wait for
        assert [row["path"] for row in sitting.rows] == [str(photo) for photo in PHOTOS]
        assert heard.scores == [0.0, 0.1, 0.3, 0.4]
        assert [step.number for step in steps] == [1, 2, 3, 4, 5]
        assert all(row["time"] for row in sitting.rows)
        assert sitting.resumed == 0


def test_rows_of_an_earlier_sitting_are_counted_and_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    with ResultStore(path) as store:
        Sitting(store, PHOTOS).take(row_of(1))
    before = path.read_bytes()
    with ResultStore(path) as store:
        sitting = Sitting(store, PHOTOS)
        assert sitting.done(PHOTOS[0]) is None
        assert sitting.done(PHOTOS[1]) == "1"
        sitting.take(sitting.old(PHOTOS[1]))
        assert sitting.resumed == len(sitting.rows) == 1
    assert path.read_bytes() == before
