"""evaluate: figures that independent lines reproduce from the dumped maps; resume; workers; refusals."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reproduce_table import main as reproduce_table
from reproduce_table import reproduced
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score
from tiny_dataset import darkness, draw_category

from clipsam import scoring
from clipsam.datasets import open_dataset
from clipsam.errors import RunError, UsageError
from clipsam.evaluate import FIGURES, evaluate
from clipsam.evaluation_table import TRACKS, beside_published, load_published, to_csv, to_text
from clipsam.metrics import PixelMetrics
from clipsam.protocol import load_protocol, shipped_protocols
from clipsam.settings import FusionSettings


class DarkSegmenter:
    """Like `AnomalySegmenter`, with darkness for a coarse map and a sharpened one for the fused."""

    def __init__(
        self,
        preset: Any = None,
        clip: Any = None,
        sam: Any = "sam",
        prompts: Any = None,
        product: str = "object",
    ) -> None:
        self.preset = preset or SimpleNamespace(fusion=FusionSettings())
        self.clip, self.sam, self.prompts, self.product = clip, sam, prompts, product

    def about(self, product: str) -> DarkSegmenter:
        return DarkSegmenter(self.preset, self.clip, self.sam, self.prompts, product)

    def segment(self, pixels: np.ndarray) -> Any:
        coarse = darkness(pixels)
        fused = ndimage.median_filter(coarse, 3)
        timings = {"clip": 0.25, "sam": 0.5}
        score = 0.5 * float(fused.max())
        return SimpleNamespace(coarse_map=coarse, anomaly_map=fused, score=score, timings=timings)

    def manifest(self) -> dict[str, Any]:
        return {"preset": "dark", "product": self.product}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    draw_category(tmp_path / "data/lid", 1)
    draw_category(tmp_path / "data/gear_wheel", 2, size=(48, 48))
    return tmp_path / "data"


def without_seconds(content: dict[str, Any]) -> dict[str, Any]:
    return {k: without_seconds(v) if isinstance(v, dict) else v for k, v in content.items() if k != "seconds"}


def test_where_other_photos_score_a_photo_both_maps_have_that_score(root: Path) -> None:
    segmenter = DarkSegmenter(sam=None)
    photo = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    result = segmenter.segment(photo)
    assert scoring._segmenter_runner(segmenter)(photo).scores["coarse"] == float(result.coarse_map.max())
    segmenter.memory = SimpleNamespace(scores_photos=True)
    assert scoring._segmenter_runner(segmenter)(photo).scores["coarse"] == result.score
    assert result.score != float(result.coarse_map.max())


def test_dumped_maps_reproduce_the_table(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = evaluate(DarkSegmenter(), open_dataset("folder", root), out=out, dump_maps=True)
    assert result.variants == ("fused", "coarse")
    for category in ("lid", "gear_wheel"):
        for variant in result.variants:
            expected = reproduced(out / "maps" / variant / category, root / category / "ground_truth")
            figures = result.categories[category]["figures"][variant]
            for name, value in expected.items():
                assert figures[name] == pytest.approx(value, abs=1e-6), (category, variant, name)
    assert reproduce_table(out, root) == 0
    written = json.loads((out / "metrics.json").read_text())
    assert written == json.loads(json.dumps(result.to_dict()))
    lid, gear = (written["categories"][c]["figures"]["fused"]["pro"] for c in ("lid", "gear_wheel"))
    assert written["mean"]["fused"]["pro"] == pytest.approx((lid + gear) / 2)
    assert (out / "metrics.csv").read_text() == to_csv(result)
    assert Image.open(out / "maps/fused/lid/test/hole/001.tiff").mode == "F"
    assert written["categories"]["lid"]["method"]["product"] == "lid"
    assert written["categories"]["gear_wheel"]["method"]["product"] == "gear wheel"


def test_the_reproducing_script_is_right_itself(root: Path, tmp_path: Path) -> None:
    out, truth = tmp_path / "out", root / "lid/ground_truth"
    evaluate(darkness, open_dataset("folder", root, ["lid"]), out=out, dump_maps=True)
    maps = {path: np.asarray(Image.open(path)) for path in (out / "maps/map/lid").glob("test/*/*.tiff")}
    masks = {path: truth / path.parent.name / f"{path.stem}_mask.png" for path in maps}
    labels = [
        np.asarray(Image.open(masks[path])) > 0 if masks[path].exists() else np.zeros(maps[path].shape, bool)
        for path in maps
    ]
    label, score = np.concatenate(labels, axis=None), np.concatenate(list(maps.values()), axis=None)
    found = reproduced(out / "maps/map/lid", truth)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(label, score))
    assert found["pixel_ap"] == pytest.approx(average_precision_score(label, score))
    precision, recall, _ = precision_recall_curve(label, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    assert found["pixel_f1_max"] == pytest.approx(f1.max())
    bad, tops = [mask.any() for mask in labels], [found.max() for found in maps.values()]
    assert found["image_auroc"] == pytest.approx(roc_auc_score(bad, tops))
    flat = tmp_path / "flat"
    for path in maps:
        other = flat / path.relative_to(out / "maps/map/lid")
        other.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2), np.float32)).save(other)
    by_flat = reproduced(out / "maps/map/lid", truth, flat)
    assert by_flat["image_auroc"] == 0.5
    assert by_flat["pro"] == found["pro"]
    written = json.loads((out / "metrics.json").read_text())
    written["categories"]["lid"]["figures"]["map"]["pro"] += 2e-4
    (out / "metrics.json").write_text(json.dumps(written))
    assert reproduce_table(out, root) == 1


def test_figures_per_type_of_defect_use_all_good_photos(root: Path) -> None:
    data = open_dataset("folder", root, ["lid"])
    entry = evaluate(darkness, data).categories["lid"]
    metrics = PixelMetrics()
    for sample in data.categories[0].samples:
        if sample.defect in ("good", "hole"):
            pixels = np.asarray(Image.open(sample.image))
            metrics.update(darkness(pixels), np.asarray(Image.open(sample.mask)) if sample.mask else None)
    assert entry["defects"]["hole"]["pro"] == metrics.compute()["pro"]
    assert list(entry["defects"]) == ["hole", "scratch"]


def test_a_callable_may_give_its_own_score_and_size(root: Path) -> None:
    data = open_dataset("folder", root, ["lid"])

    def half_size(pixels: np.ndarray) -> tuple[np.ndarray, float]:
        return darkness(pixels)[::2, ::2], -float(pixels.min())

    figures = evaluate(half_size, data, name="mine").categories["lid"]
    scores = [-int(np.asarray(Image.open(s.image)).min()) for s in data.categories[0].samples]
    labels = [s.is_defective for s in data.categories[0].samples]
    assert figures["figures"]["map"]["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert figures["method"] == {"name": "mine"}
    assert 0.5 < figures["figures"]["map"]["pixel_auroc"] < 1


def test_a_defect_without_a_mask_counts_for_the_image_figures_only(root: Path, tmp_path: Path) -> None:
    data = open_dataset("folder", root, ["lid"])
    lines = ["image,mask,label"]
    for sample in data.categories[0].samples:
        mask = "-" if sample.defect == "hole" else sample.mask or ""
        lines.append(f"{sample.image},{mask},{sample.defect}")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    found = evaluate(darkness, open_dataset("csv", tmp_path / "list.csv")).categories["list"]
    whole = evaluate(darkness, data).categories["lid"]
    figures, expected = found["figures"]["map"], whole["figures"]["map"]
    assert found["photos"] == whole["photos"]
    for name in ("image_auroc", "image_ap", "image_f1_max"):
        assert figures[name] == expected[name]
    assert figures["pro"] == whole["defects"]["scratch"]["pro"]  # of the others: good ones and scratches


def test_resolution_is_applied_and_recorded(root: Path) -> None:
    data = open_dataset("folder", root, ["lid"])
    result = evaluate(darkness, data, resolution=24)
    assert result.scoring["resolution"] == "24x24"
    metrics = PixelMetrics()
    for sample in data.categories[0].samples:
        small = Image.fromarray(darkness(np.asarray(Image.open(sample.image)))).resize(
            (24, 24), Image.BILINEAR
        )
        mask = Image.open(sample.mask).resize((24, 24), Image.NEAREST) if sample.mask else None
        metrics.update(np.asarray(small), None if mask is None else np.asarray(mask))
    assert result.categories["lid"]["figures"]["map"]["pro"] == metrics.compute()["pro"]
    assert evaluate(darkness, data).scoring["resolution"] == "photo"


def test_two_runs_and_two_workers_give_the_same_figures(root: Path) -> None:
    data = open_dataset("folder", root)
    once, again, shared = (evaluate(darkness, data, workers=count).to_dict() for count in (1, 1, 2))
    assert without_seconds(once) == without_seconds(again)
    assert without_seconds(once) == without_seconds(shared)


def test_finished_categories_are_not_done_again(root: Path, tmp_path: Path) -> None:
    data, out = open_dataset("folder", root), tmp_path / "out"
    calls: list[int] = []

    def counted(stop_after: int) -> Callable[[np.ndarray], np.ndarray]:
        def method(pixels: np.ndarray) -> np.ndarray:
            if len(calls) == stop_after:
                raise KeyboardInterrupt
            calls.append(1)
            return darkness(pixels)

        return method

    with pytest.raises(KeyboardInterrupt):
        evaluate(counted(13), data, out=out, name="m")
    assert [path.name for path in (out / "categories").iterdir()] == ["gear_wheel.json"]
    calls.clear()
    resumed = evaluate(counted(99), data, out=out, name="m")
    assert len(calls) == 9
    assert without_seconds(resumed.to_dict()) == without_seconds(evaluate(darkness, data, name="m").to_dict())
    with pytest.raises(RunError, match="another method"):
        evaluate(darkness, data, out=out, name="other")
    with pytest.raises(RunError, match="another scoring"):
        evaluate(darkness, data, out=out, name="m", resolution=24)
    calls.clear()
    evaluate(counted(99), data, out=out, name="other", overwrite=True)
    assert len(calls) == 18


def test_faults_stop_before_the_first_photo(root: Path) -> None:
    (root / "lid/ground_truth/hole/001_mask.png").unlink()
    seen = []
    with pytest.raises(UsageError, match=r"1 fault in the dataset.*\n.*mask missing.*001\.png"):
        evaluate(lambda pixels: seen.append(1), open_dataset("folder", root))
    assert not seen
    result = evaluate(darkness, open_dataset("folder", root), leave_out_faulty=True)
    assert result.categories["lid"]["photos"] == 8
    assert "left out because of faults: 1 files" in to_text(result)


def test_maps_that_cannot_be_scored_name_the_photo(root: Path) -> None:
    data = open_dataset("folder", root, ["lid"])
    with pytest.raises(UsageError, match=r"000\.png: anomaly_map spans .* outside the declared range"):
        evaluate(lambda pixels: darkness(pixels) * 255, data)
    with pytest.raises(UsageError, match=r"the map has shape \(40, 56, 3\)"):
        evaluate(lambda pixels: pixels, data)
    assert evaluate(lambda p: darkness(p) * 255, data, range=(0, 255)).mean["map"]["pro"] is not None


def test_defects_that_vanish_at_a_low_resolution_are_an_error(root: Path) -> None:
    mask = np.zeros((40, 56), np.uint8)
    mask[1, 1] = 255
    Image.fromarray(mask).save(root / "lid/ground_truth/hole/000_mask.png")
    with pytest.raises(UsageError, match="no pixel left"):
        evaluate(darkness, open_dataset("folder", root, ["lid"]), resolution=8)


def test_undefined_figures_are_null(tmp_path: Path) -> None:
    root = draw_category(tmp_path / "lid")
    for path in [*root.glob("test/hole/*"), *root.glob("test/scratch/*"), *root.glob("ground_truth/*/*")]:
        path.unlink()
    result = evaluate(darkness, open_dataset("folder", root), out=tmp_path / "out")
    figures = json.loads((tmp_path / "out/metrics.json").read_text())["categories"]["lid"]["figures"]["map"]
    assert figures["pro"] is None
    assert figures["bounds"]["pro"] is None
    assert result.mean["map"]["pro"] is None
    assert " -" in to_text(result)


def test_published_figures_stand_beside_a_whole_dataset_only(root: Path) -> None:
    (root / "lid").rename(root / "bottle")
    partial = evaluate(darkness, open_dataset("mvtec", root))
    assert "absent, and not in the mean: cable" in to_text(partial)
    assert beside_published(partial, "training-free") == ""
    whole = type(partial)({**partial.dataset, "absent": []}, partial.scoring, partial.categories)
    table = beside_published(whole, "training-free")
    assert "WinCLIP" in table
    assert "18.0?" in table
    assert "MuSc" not in table
    assert "this run, map" in table
    sample = type(partial)({**whole.dataset, "limit": 2}, partial.scoring, partial.categories)
    assert beside_published(sample, "training-free") == ""
    assert "a sample: at most 2 photos" in to_text(sample)


def test_every_published_figure_has_a_track_a_source_and_a_certainty() -> None:
    published = load_published()
    assert len(published) > 150
    for row in published:
        assert row.track in TRACKS
        assert row.dataset in ("mvtec", "visa", "btad", "mpdd")
        assert row.metric in FIGURES
        assert 0 < row.value < 100
        assert row.is_sure <= bool(re.match(r"arXiv \d{4}\.\d{5}|GitHub \S+/\S+", row.source)), row
    for method in {row.method for row in published}:  # a method is on one track, from one source
        assert len({(row.track, row.source) for row in published if row.method == method}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("aux", "mixed"), "expected one of training-free"),
        (("sure", "perhaps"), "expected one of sure, unsure"),
        (("mvtec", "imagenet"), "dataset 'imagenet'"),
        (("pro,", "dice,"), "metric 'dice'"),
        (("44.0", "440"), "expected a number in per cent"),
        (("44.0", "high"), "expected a number in per cent"),
        (("arXiv 1", ""), "source is empty"),
        (("certainty", "certain"), "expected method, track"),
        (("visa", "mvtec"), "M, mvtec, pro twice"),
    ],
)
def test_wrong_published_figures_are_refused(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    text = (
        "method,track,dataset,metric,value,source,certainty\n"
        "M,aux,mvtec,pro,44.0,arXiv 1,sure\nM,aux,visa,pro,86.8,arXiv 1,sure\n"
    )
    path = tmp_path / "published.csv"
    path.write_text(text)
    assert len(load_published(path)) == 2
    path.write_text(text.replace(*change))
    with pytest.raises(UsageError, match=message):
        load_published(path)


def test_protocols(tmp_path: Path) -> None:
    assert set(shipped_protocols()) >= {"photo", "literature-518"}
    assert load_protocol("photo").resolution is None
    assert load_protocol("literature-518").resolution == 518
    assert load_protocol("winclip").sam is False
    for text, message in [
        ("size = 3", "key 'size' is unknown"),
        ("resolution = true", "expected a side in px"),
        ('split = "train"', 'expected the text "test"'),
        ("sam = ", "cannot be read"),
    ]:
        (tmp_path / "p.toml").write_text(text)
        with pytest.raises(UsageError, match=message):
            load_protocol(tmp_path / "p.toml")
    with pytest.raises(UsageError, match="found no protocol 'none'; expected a TOML file or one of"):
        load_protocol("none")


def test_figures_are_drawn_from_what_is_finished(root: Path, tmp_path: Path) -> None:
    data, out = open_dataset("folder", root), tmp_path / "out"
    evaluate(darkness, data, out=out)

    def never(pixels: np.ndarray) -> np.ndarray:
        raise AssertionError("it was finished")

    evaluate(never, data, out=out, name="darkness", figures=True)
    for name in ("curves.png", "defects.png"):
        picture = np.asarray(Image.open(out / "figures" / name).convert("RGB"))
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    entry = json.loads((out / "categories/lid.json").read_text())
    curve, auroc = entry["curves"], entry["figures"]["map"]["pixel_auroc"]
    assert np.trapezoid([0, *curve["recall"]], [0, *curve["fpr"]]) == pytest.approx(auroc, abs=5e-3)
    assert len(curve["fpr"]) <= 200
    with pytest.raises(UsageError, match="need a folder"):
        evaluate(darkness, data, figures=True)
