from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsam.nano.corpus.compose import (
    HELD_OUT_FAMILIES,
    Corpus,
    Sample,
    box_of,
    draw_preview,
    outlined,
    render,
)
from clipsam.nano.corpus.compose import product_names as names_of_all_families
from clipsam.nano.corpus.defects import DEFECTS, HELD_OUT
from clipsam.nano.demo import DEMO_PARTS, demo_parts


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return [render(seed, 128, 96) for seed in range(60)]


def test_same_seed_same_sample() -> None:
    first, second, other = render(4, 96, 96, p_normal=0), render(4, 96, 96, p_normal=0), render(5, 96, 96)
    assert np.array_equal(first.image, second.image)
    assert first.defects == second.defects
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.instances, second.instances, strict=True))
    assert first.caption == second.caption
    assert not np.array_equal(first.image, other.image)


def test_shapes_types_and_boxes(samples: list[Sample]) -> None:
    for sample in samples:
        assert sample.image.shape == (128, 96, 3)
        assert sample.image.dtype == np.uint8
        assert sample.solid.shape == (128, 96)
        assert sample.caption == sample.caption.lower()
        assert len(sample.instances) <= 3
        for instance in sample.instances:
            assert instance.defect in DEFECTS
            assert instance.mask.any()
            x0, y0, x1, y1 = instance.box_xyxy
            assert instance.mask[y0:y1, x0:x1].sum() == instance.mask.sum()
            assert instance.mask[y0].any()
            assert instance.mask[:, x1 - 1].any()


def test_mixture(samples: list[Sample]) -> None:
    counts = [len(sample.instances) for sample in samples]
    assert 0.15 < counts.count(0) / len(counts) < 0.5
    assert max(counts) >= 2
    assert any(len(set(sample.defects)) >= 2 for sample in samples)
    assert len({sample.family for sample in samples}) > 15
    assert len({defect for sample in samples for defect in sample.defects}) > 12


def test_instances_overlap_little(samples: list[Sample]) -> None:
    for sample in samples:
        if len(sample.instances) > 1:
            total = sum(int(instance.mask.sum()) for instance in sample.instances)
            assert total - int(sample.mask.sum()) < 0.35 * total


def test_named_defects_and_shares() -> None:
    for seed in range(8):
        sample = render(seed, 96, 96, defects=("stain", "hole"), p_normal=0)
        assert sample.instances
        assert set(sample.defects) <= {"stain", "hole"}
    assert not render(1, 96, 96, p_normal=1).instances
    assert len(render(1, 96, 96, p_normal=0, max_defects=1).instances) <= 1


def test_unknown_names_are_refused() -> None:
    with pytest.raises(KeyError):
        render(0, 64, 64, families=("no such family",))
    with pytest.raises(KeyError):
        render(0, 64, 64, defects=("no such type",), p_normal=0)


def test_corpus_is_a_picklable_range_of_samples() -> None:
    corpus = Corpus(3, seed=2, height=64, width=80)
    again = pickle.loads(pickle.dumps(corpus))
    assert len(corpus) == 3
    for a, b in zip(corpus, again, strict=True):
        assert a.image.shape == (64, 80, 3)
        assert np.array_equal(a.image, b.image)
    with pytest.raises(IndexError):
        corpus[3]
    with pytest.raises(ValueError, match="expected one of train, validation"):
        Corpus(1, split="test")


def test_training_never_sees_what_is_held_out() -> None:
    train = Corpus(40, height=48, width=48, p_normal=0)
    assert not set(HELD_OUT) & {defect for sample in train for defect in sample.defects}
    assert not set(HELD_OUT_FAMILIES) & {sample.family for sample in train}
    assert set(HELD_OUT) <= set(Corpus(1, hold_out=False).defects)
    validation = Corpus(8, split="validation", height=48, width=48)
    assert sum(sample.family in HELD_OUT_FAMILIES for sample in validation) == 4
    assert set(HELD_OUT) <= set(validation.defects)
    assert not {s.seed for s in validation} & {s.seed for s in train}


def test_box_of() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    assert box_of(mask) == (3, 2, 8, 5)


def test_outline_leaves_the_defect_itself_untouched() -> None:
    sample = next(s for s in (render(k, 96, 96, p_normal=0, max_defects=1) for k in range(9)) if s.instances)
    drawn = outlined(sample)
    assert np.array_equal(drawn[sample.mask], sample.image[sample.mask])
    assert (drawn != sample.image).any()


def test_preview_is_a_picture(tmp_path: Path) -> None:
    draw_preview(tmp_path / "sheet.png", n=3, columns=2)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (640, 348)


def test_product_names_are_words() -> None:
    names = names_of_all_families()
    assert len(names) > 40
    assert all(name == name.lower() and "_" not in name for name in names)


def test_demo_parts_have_clear_defects_and_clean_ones() -> None:
    parts = demo_parts(3, seed=1, size=96)
    assert [part.defects for part in parts] == [("broken",), ("cut",), ()]
    assert [part.family for part in parts] == [family for family, _ in DEMO_PARTS[:3]]
    assert [p.image.tobytes() for p in demo_parts(3, seed=1, size=96)] == [p.image.tobytes() for p in parts]


def test_rendering_is_fast_enough_to_train_on() -> None:
    start = time.process_time()
    list(Corpus(12, seed=1))
    assert time.process_time() - start < 12 / 8  # about 40 pictures/s where nothing else runs
