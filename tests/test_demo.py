"""The demo around the models: a segmenter that knows the truth must score full marks, a blind one none."""

from __future__ import annotations

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter, segmentation_of

from clipsam.errors import UsageError
from clipsam.nano.demo import DEMO_PARTS, demo_parts
from clipsam.runs.demo import DemoScore, is_found, run_demo, save_photos

COUNT, SIZE = 4, 96


class Painted(FakeSegmenter):
    """Says of photo number n what `maps[n]` says."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def segment(self, image):
        return segmentation_of(self.maps[int(image.path.name[:2])])


@pytest.fixture(scope="module")
def samples():
    return demo_parts(COUNT, 0, SIZE)


def demo(segmenter, tmp_path, **options) -> DemoScore:
    return run_demo(segmenter, tmp_path, count=COUNT, size=SIZE, **options)


def test_parts_are_as_listed_and_the_same_for_the_same_seed(samples):
    again = demo_parts(COUNT, 0, SIZE)
    for sample, same, (family, defect) in zip(samples, again, DEMO_PARTS, strict=False):
        assert np.array_equal(sample.image, same.image)
        assert sample.family == family
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert set(sample.defects) <= {defect}
    assert not np.array_equal(demo_parts(1, 1, SIZE)[0].image, samples[0].image)


def test_who_knows_the_truth_finds_all(samples, tmp_path):
    score = demo(Painted([sample.mask.astype(float) for sample in samples]), tmp_path)
    assert score.planted == sum(len(sample.instances) for sample in samples) > 0
    assert (score.found, score.recall) == (score.planted, 1.0)
    assert score.clean == sum(not sample.instances for sample in samples) > 0
    assert (score.false_regions, score.false_per_clean) == (0, 0.0)


def test_who_sees_nothing_finds_nothing(tmp_path):
    score = demo(Painted([np.zeros((SIZE, SIZE))] * COUNT), tmp_path)
    assert (score.found, score.recall, score.false_regions) == (0, 0.0, 0)


def test_who_sees_defects_everywhere_pays_on_clean_parts(tmp_path):
    score = demo(Painted([np.ones((SIZE, SIZE))] * COUNT), tmp_path)
    assert (score.found, score.false_regions) == (score.planted, score.clean)
    assert score.false_per_clean == 1.0


def test_photos_run_and_report_are_written_and_replaced(tmp_path):
    seen = []
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "99 part, of an earlier demo.png").write_bytes(b"")
    for seed in (0, 1):
        score = demo(FakeSegmenter(), tmp_path, seed=seed, on_step=seen.append)
    assert len(seen) == 2 * COUNT
    assert len(list((tmp_path / "photos").iterdir())) == COUNT
    assert score.report == tmp_path / "run" / "report.html"
    assert "<html" in score.report.read_text(encoding="utf-8")
    assert (tmp_path / "run" / "run.json").is_file()
    assert len((tmp_path / "run" / "results.jsonl").read_text().splitlines()) == COUNT


def test_photos_are_named_by_part_and_defect(samples, tmp_path):
    names = [path.name for path in save_photos(samples, tmp_path)]
    assert names == sorted(names)
    for name, sample in zip(names, samples, strict=True):
        assert sample.product in name
        assert ("flawless" in name) == (not sample.instances)


def test_a_quarter_of_the_mask_is_found():
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    quarter, less = np.zeros((8, 8)), np.zeros((8, 8))
    quarter[:2], less[:1] = 1, 1
    assert is_found(mask, segmentation_of(quarter).regions)
    assert not is_found(mask, segmentation_of(less).regions)
    assert not is_found(mask, ())


def test_shares_of_nothing_are_zero():
    nothing = DemoScore(planted=0, found=0, clean=0, false_regions=0, report=None, summary=None)
    assert (nothing.recall, nothing.false_per_clean) == (0.0, 0.0)


def test_photos_of_others_are_left_alone(samples, tmp_path):
    save_photos(samples, tmp_path)
    own = tmp_path / "holiday.png"
    own.touch()
    with pytest.raises(UsageError, match="which is not of a demo"):
        save_photos(samples, tmp_path)
    assert len(list(tmp_path.iterdir())) == COUNT + 1
