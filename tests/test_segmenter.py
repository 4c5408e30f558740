"""The whole way of one photo with a tiny CLIP and a tiny SAM of random weights."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_clip import save_tiny_clip, tiny_encoder
from tiny_sam import tiny_refiner, tiny_sam

import clipsam
from clipsam.calibrate import Calibration, PhotoScore, bound
from clipsam.calibration_files import save_calibration
from clipsam.conformal import rate_of
from clipsam.edges import sharpen
from clipsam.errors import CalibrationError, PhotoError, UsageError
from clipsam.nano.corpus.compose import render
from clipsam.presets import ClipSpec, Preset, SamSpec
from clipsam.prompts import load_prompts
from clipsam.roi import Roi
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import FusionSettings, HeatmapSettings, RegionSettings, SamSettings

HEIGHT, WIDTH = 60, 90
BUSY = RegionSettings(low=0.4, high=0.5, max_area=1.0)
QUIET = RegionSettings(low=0.999, high=1.0)
STAGES = {"decode", "clip", "regions", "sam", "fusion"}


class Watched:
    """A SAM that counts how often it is asked."""

    name, weights_hash = "watched", "2" * 64

    def __init__(self) -> None:
        self.calls = 0
        self._sam = tiny_refiner()

    def refine(self, *arguments: Any) -> Any:
        self.calls += 1
        return self._sam.refine(*arguments)


def preset(regions: RegionSettings = BUSY, **fields: Any) -> Preset:
    fields = {"clip": ClipSpec("tiny"), "sam": None, **fields}
    return Preset(
        "tiny",
        "random weights",
        heatmap=HeatmapSettings(sizes=(96,), temperature=0.02, smoothing=0.05),
        regions=regions,
        sam_settings=SamSettings(min_agreement=0.0, swallow=1e9),
        **fields,
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder(cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def photo():
    blocks = np.random.default_rng(0).integers(0, 256, (HEIGHT // 10, WIDTH // 10, 3), dtype=np.uint8)
    return blocks.repeat(10, axis=0).repeat(10, axis=1)


def segmenter_of(encoder, sam=None, regions: RegionSettings = BUSY, **fields: Any) -> AnomalySegmenter:
    ensemble = load_prompts("industrial")
    return AnomalySegmenter(preset(regions, **fields), encoder, sam, ensemble, "bottle")


def test_result_has_the_size_of_the_photo_and_the_promised_ranges(encoder, photo):
    result = segmenter_of(encoder, tiny_refiner()).segment(photo)
    for found in (result.anomaly_map, result.coarse_map):
        assert found.shape == (HEIGHT, WIDTH)
        assert found.dtype == np.float32
        assert 0 <= found.min() <= found.max() <= 1
    assert result.mask.shape == (HEIGHT, WIDTH)
    assert result.mask.dtype == bool
    assert 0 <= result.score <= 1
    assert result.is_defective is None
    assert set(result.timings) == STAGES
    assert all(seconds >= 0 for seconds in result.timings.values())


def test_the_contrast_of_the_photo_sharpens_the_map_with_and_without_sam(encoder, photo):
    fusion = FusionSettings(edge_weight=0.4, edge_guide=0.02)
    for sam in (None, tiny_refiner()):
        segmenter = segmenter_of(encoder, sam, fusion=fusion)
        result = segmenter.segment(photo)
        plain = segmenter_of(encoder, sam).segment(photo)
        np.testing.assert_array_equal(result.coarse_map, plain.coarse_map)
        assert np.abs(result.anomaly_map - plain.anomaly_map).max() > 0.01
        assert segmenter.manifest()["fusion"]["edge_weight"] == 0.4
        if sam is None:
            np.testing.assert_array_equal(result.anomaly_map, sharpen(result.coarse_map, photo, fusion))


def test_mask_is_the_map_at_the_threshold_and_holds_the_regions(encoder, photo):
    segmenter = segmenter_of(encoder, tiny_refiner())
    result = segmenter.segment(photo)
    assert np.array_equal(result.mask, result.anomaly_map >= segmenter.preset.pixel_threshold)
    assert result.regions
    for region in result.regions:
        assert region.photo_size == (HEIGHT, WIDTH)
        assert (result.mask[region.mask]).all()
        assert region.defect in segmenter.prompts.defect_names
    scores = [region.score for region in result.regions]
    assert scores == sorted(scores, reverse=True)


def test_without_sam_the_coarse_map_is_the_result(encoder, photo):
    result = segmenter_of(encoder).segment(photo)
    assert np.array_equal(result.anomaly_map, result.coarse_map)


def test_sam_changes_the_map_and_not_the_coarse_one(encoder, photo):
    alone, refined = (segmenter_of(encoder, sam).segment(photo) for sam in (None, tiny_refiner()))
    assert np.array_equal(alone.coarse_map, refined.coarse_map)
    assert not np.array_equal(alone.anomaly_map, refined.anomaly_map)


@pytest.mark.parametrize(("regions", "calls"), [(BUSY, 1), (QUIET, 0)])
def test_sam_is_asked_once_or_where_the_map_is_quiet_not_at_all(encoder, photo, regions, calls):
    sam = Watched()
    result = segmenter_of(encoder, sam, regions).segment(photo)
    assert sam.calls == calls
    if not calls:
        assert np.array_equal(result.anomaly_map, result.coarse_map)


def test_any_form_of_the_photo_gives_the_same_result(encoder, photo, tmp_path):
    path = tmp_path / "part.png"
    Image.fromarray(photo).save(path)
    segmenter = segmenter_of(encoder, tiny_refiner())
    expected = segmenter.segment(photo)
    for form in (path, str(path), Image.fromarray(photo)):
        assert np.array_equal(segmenter.segment(form).anomaly_map, expected.anomaly_map)
    assert segmenter.segment(path).path == path
    assert len(segmenter.segment(path).sha256) == 64
    assert expected.path is expected.sha256 is None


def test_grey_photo_of_another_size(encoder):
    result = segmenter_of(encoder, tiny_refiner()).segment(np.full((33, 200), 90, np.uint8))
    assert result.anomaly_map.shape == (33, 200)


def test_batch_keeps_the_order(encoder, photo):
    segmenter = segmenter_of(encoder)
    photos = [photo, photo[::-1].copy(), photo[:40, :50].copy()]
    for single, found in zip(photos, segmenter.segment_batch(photos), strict=True):
        assert np.array_equal(segmenter.segment(single).anomaly_map, found.anomaly_map)
    assert segmenter.segment_batch([]) == []


def test_unreadable_photo_is_told(encoder, tmp_path):
    with pytest.raises(PhotoError):
        segmenter_of(encoder).segment(tmp_path / "none.png")


@pytest.mark.parametrize("with_sam", [True, False])
def test_manifest_says_all_and_is_json(encoder, with_sam):
    segmenter = segmenter_of(encoder, tiny_refiner() if with_sam else None)
    said = json.loads(json.dumps(segmenter.manifest()))
    assert said["clipsam"] == clipsam.__version__
    assert (said["preset"], said["product"], said["dtype"]) == ("tiny", "bottle", "float32")
    assert said["weights"][encoder.name] == encoder.weights_hash
    assert len(said["weights"]) == 1 + with_sam
    assert said["prompts"] == {"name": "industrial", "hash": segmenter.prompts.hash("bottle")}
    assert said["heatmap"]["temperature"] == 0.02
    assert (said["sam"] is not None) == with_sam


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A preset whose weights lie in folders."""
    folder = tmp_path_factory.mktemp("models")
    save_tiny_clip(folder / "clip")
    for part in tiny_sam():
        part.save_pretrained(folder / "sam")
    return preset(
        clip=ClipSpec("tiny-clip", folder=str(folder / "clip")),
        sam=SamSpec("tiny-sam", folder=str(folder / "sam")),
    )


def test_from_preset_loads_both_models(stored, photo, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path))
    segmenter = AnomalySegmenter.from_preset(
        stored, product="bottle", defects=["blowhole"], threshold=0.3, device="cpu"
    )
    assert segmenter.preset == replace(stored, pixel_threshold=0.3)
    assert "blowhole" in segmenter.prompts.defect_names
    assert list(segmenter.manifest()["weights"]) == ["tiny-clip", "tiny-sam"]
    result = segmenter.segment(photo)
    assert np.array_equal(result.mask, result.anomaly_map >= 0.3)


def test_from_preset_without_sam(stored, photo, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path))
    segmenter = AnomalySegmenter.from_preset(stored, sam=False, device="cpu")
    assert segmenter.sam is None
    result = segmenter.segment(photo)
    assert np.array_equal(result.anomaly_map, result.coarse_map)


# ---- regions of interest and calibrations


INSIDE = ((0.0, 0.0), (50.0, 0.0), (50.0, 60.0), (0.0, 60.0))


@pytest.mark.parametrize("score", ["max", "top", "coarse"])
@pytest.mark.parametrize("with_sam", [False, True])
def test_only_the_region_of_interest_counts(encoder, photo, score, with_sam):
    whole = segmenter_of(encoder, tiny_refiner() if with_sam else None, fusion=FusionSettings(score=score))
    part = segmenter_of(encoder, tiny_refiner() if with_sam else None, fusion=FusionSettings(score=score))
    part.roi = Roi((WIDTH, HEIGHT), include=(INSIDE,))
    result, everywhere = part.segment(photo), whole.segment(photo)
    for found in (result.anomaly_map, result.coarse_map):
        assert not found[:, 50:].any()
        assert found[:, :50].min() > 0
    assert not result.mask[:, 50:].any()
    assert all(region.box_xyxy[2] <= 50 for region in result.regions)
    np.testing.assert_array_equal(result.coarse_map[:, :50], everywhere.coarse_map[:, :50])
    best = {"max": result.anomaly_map.max(), "coarse": result.coarse_map.max()}
    counted = np.sort(result.anomaly_map[:, :50], axis=None)[-30:]  # 1 % of 3,000 pixels
    assert result.score == pytest.approx(best.get(score, counted.mean()), abs=1e-6)
    assert part.manifest()["roi"] == {"photo_size": [WIDTH, HEIGHT], "hash": part.roi.hash}
    assert whole.manifest()["roi"] is None


def test_no_threshold_flags_what_is_outside(encoder, photo):
    segmenter = segmenter_of(encoder, pixel_threshold=0.0)
    segmenter.roi = Roi((WIDTH, HEIGHT), include=(INSIDE,))
    result = segmenter.segment(photo)
    assert result.mask[:, :50].all()
    assert not result.mask[:, 50:].any()


def test_photos_of_another_shape_are_refused_by_name(encoder, photo, tmp_path):
    segmenter = segmenter_of(encoder)
    segmenter.roi = Roi((WIDTH, HEIGHT), include=(INSIDE,))
    Image.fromarray(photo[:, :60]).save(tmp_path / "narrow.png")
    with pytest.raises(PhotoError, match=r"narrow.png: the photo has 60 x 60 px") as caught:
        segmenter.segment(tmp_path / "narrow.png")
    assert caught.value.kind == "other-shape"


def calibration_for(segmenter: AnomalySegmenter, scores: list[float]) -> Calibration:
    photos = tuple(PhotoScore(f"{n}.png", f"{n:064x}", score, score) for n, score in enumerate(scores))
    return Calibration(rate_of("50%"), photos, bound(segmenter.manifest()))


def test_a_calibration_gives_the_verdict_and_the_mask(encoder, photo):
    plain = segmenter_of(encoder, tiny_refiner())
    before = plain.segment(photo)
    peak = float(before.anomaly_map.max())
    at_the_score = plain.calibrated(calibration_for(plain, [before.score]))
    result = at_the_score.segment(photo)
    assert plain.calibration is None
    assert result.is_defective is False  # not strictly above
    assert not result.mask.any()
    assert result.regions == ()
    below = plain.calibrated(calibration_for(plain, [min(before.score, peak) - 0.01]))
    result = below.segment(photo)
    assert result.is_defective is True
    assert np.array_equal(result.mask, result.anomaly_map > below.calibration.pixel_threshold)
    assert result.mask.any()
    said = below.manifest()
    assert said["calibration_id"] == said["calibration"]["id"] == below.calibration.id
    assert said["pixel_threshold"] == below.calibration.pixel_cut
    json.dumps(said)


def test_a_calibration_belongs_to_its_setup(encoder, photo):
    segmenter = segmenter_of(encoder, tiny_refiner())
    calibration = calibration_for(segmenter, [0.5])
    again = segmenter.calibrated(calibration).calibrated(calibration.at(0.6))
    assert again.calibration.false_alarms == rate_of(0.6)
    for other, said in (
        (segmenter.about("cup"), 'product was "bottle" and is "cup"'),
        (segmenter_of(encoder, None), r"weights.tiny"),
        (segmenter_of(encoder, tiny_refiner(), QUIET), r"regions.high was 0.5 and is 1.0"),
    ):
        with pytest.raises(CalibrationError, match=said):
            other.calibrated(calibration)
    with_zone = segmenter_of(encoder, tiny_refiner())
    with_zone.roi = Roi((WIDTH, HEIGHT), include=(INSIDE,))
    with pytest.raises(CalibrationError, match=r"roi was null and is \{"):
        with_zone.calibrated(calibration)
    assert segmenter.calibrated(calibration).with_memory(None).calibration is None


def test_from_preset_takes_both_as_files(stored, photo, monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path))
    zones = Roi((WIDTH, HEIGHT), include=(INSIDE,)).save(tmp_path / "zones.json", "bottle")
    given = {"product": "bottle", "device": "cpu", "roi": zones}
    plain = AnomalySegmenter.from_preset(stored, **given)
    file = save_calibration(calibration_for(plain, [0.0]), tmp_path / "c.json")
    result = AnomalySegmenter.from_preset(stored, **given, calibration=file).segment(photo)
    assert result.is_defective is True
    with pytest.raises(UsageError, match="both a threshold and a calibration"):
        AnomalySegmenter.from_preset(stored, **given, calibration=file, threshold=0.4)
    with pytest.raises(UsageError, match="no region for the product 'cup'"):
        AnomalySegmenter.from_preset(stored, product="cup", device="cpu", roi=zones)
    whole = replace(stored, fusion=FusionSettings(score="whole"))
    with pytest.raises(UsageError, match="photo as a whole, which no region"):
        AnomalySegmenter.from_preset(whole, **given)


def test_unknown_preset_is_told():
    with pytest.raises(UsageError, match="nosuch"):
        AnomalySegmenter.from_preset("nosuch")


# ---- with little time


def test_without_time_the_coarse_map_is_the_answer_and_says_so(encoder, photo):
    watched = Watched()
    segmenter = segmenter_of(encoder, watched, fusion=FusionSettings(edge_weight=1.0))
    hurried = segmenter.segment(photo, refine=lambda: False)
    assert hurried.degraded
    assert watched.calls == 0
    np.testing.assert_array_equal(hurried.anomaly_map, hurried.coarse_map)
    plain = segmenter_of(encoder).segment(photo)
    np.testing.assert_array_equal(hurried.anomaly_map, plain.anomaly_map)
    assert [region.box_xyxy for region in hurried.regions] == [region.box_xyxy for region in plain.regions]
    whole = segmenter.segment(photo, refine=lambda: True)
    assert not whole.degraded
    assert watched.calls == 1
    assert not np.array_equal(whole.anomaly_map, whole.coarse_map)


def test_nothing_is_degraded_where_nothing_costly_is_left_out(encoder, photo):
    assert not segmenter_of(encoder).segment(photo, refine=lambda: False).degraded


def test_warming_up_runs_sam_on_a_quiet_photo_too(encoder, photo):
    watched = Watched()
    seconds = segmenter_of(encoder, watched, QUIET).warm_up(photo)
    assert watched.calls == 2
    assert set(seconds) == STAGES
    assert seconds["sam"] > 0


def test_a_stream_of_frames_gives_what_segment_gives(encoder, photo):
    segmenter = segmenter_of(encoder, tiny_refiner())
    shown = [photo, photo[::-1].copy(), photo]
    with segmenter.stream(shown) as stream:
        answers = list(stream)
    for image, answer in zip(shown, answers, strict=True):
        np.testing.assert_array_equal(answer.result.anomaly_map, segmenter.segment(image).anomaly_map)
    assert stream.stats.stages.keys() == STAGES | {"wait", "latency"}


def test_threads_that_segment_at_once_get_the_maps_of_one() -> None:
    """As `clipsam inspect` does on a CPU."""
    segmenter = AnomalySegmenter.from_preset("nano", product="part", device="cpu", threshold=0.3)
    photos = [render(seed, 160, 128 + 16 * seed, p_normal=0.0).image for seed in range(4)]
    alone = [segmenter.segment(photo) for photo in photos]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(segmenter.segment, photos * 2))
    for one, other in zip(alone * 2, together, strict=True):
        np.testing.assert_allclose(other.anomaly_map, one.anomaly_map, atol=1e-5)
        assert other.score == pytest.approx(one.score, abs=1e-5)
