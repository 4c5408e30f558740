"""Training UMCI in miniature: cached or not, killed and resumed, repeated; every field of its recipe."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score
from tiny_clip import tiny_encoder
from tiny_dataset import draw_category

from clipsam.adapter import Adapter, Bond, WordMaps, contrast, read_card
from clipsam.datasets import open_dataset
from clipsam.errors import PromptError, RunError, UsageError, WeightsError
from clipsam.heatmap import coarse_map, compare, soft_maximum, text_targets
from clipsam.heatmap import features_of as tower_features
from clipsam.nano import training
from clipsam.prompts import load_prompts
from clipsam.protocol import EvalProtocol, load_protocol
from clipsam.settings import HeatmapSettings
from clipsam.umci import Umci, UmciSettings
from clipsam.umci_training import features as features_module
from clipsam.umci_training.config import UmciConfig, UmciTraining, read_config
from clipsam.umci_training.features import Features, _shares
from clipsam.umci_training.pictures import DatasetPictures, Picture, RenderedPictures
from clipsam.umci_training.train import balanced_loss, dice_loss, focal_loss, held_out, train_umci

SETTINGS = UmciSettings(width=8, hidden=8, scales=(2,))
CONFIG = UmciTraining(epochs=2, batch=3, peak=3e-3, holdout=0.25, checkpoint_every=1, stride=8)
HEATMAP = HeatmapSettings(sizes=(32, 48), smoothing=0.02)
PROMPTS = load_prompts("winclip")


class Squares:
    """Grey noise with a dark square on every picture but each third."""

    def __init__(self, count: int = 12) -> None:
        self.count, self.identity = count, {"kind": "squares", "count": count}
        self.asked: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Picture:
        self.asked.append(index)
        rng = np.random.default_rng(index)
        pixels = rng.integers(120, 200, (40, 40, 3)).astype(np.uint8)
        mask = np.zeros((40, 40), bool)
        if index % 3:
            y, x = rng.integers(0, 28, 2)
            mask[y : y + 12, x : x + 12] = True
            pixels[mask] //= 4
        return Picture(pixels, mask, ("plate", "lid")[index % 2])


class Killed(Exception):
    """Stands for whatever ends a training in the middle of a step."""


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder(cache_dir=tmp_path_factory.mktemp("sentences"))


def features_of(encoder: Any, folder: Path, pictures: Any = None, **options: Any) -> Features:
    options = {"levels": (1, 2, 3, 4), "sizes": HEATMAP.sizes, "stride": 8, "limit": 10**9} | options
    found = Features(encoder, pictures or Squares(), folder=folder, **options)
    found.fill()
    return found


def trained(encoder: Any, folder: Path, config: UmciTraining = CONFIG, **options: Any) -> dict[str, Any]:
    """Weights and card of a training in `folder`."""
    settings = options.pop("settings", SETTINGS)
    threshold = options.pop("threshold", 0.5)
    features = features_of(encoder, folder / "features", **({"stride": config.stride} | options))
    card = train_umci(
        encoder, PROMPTS, features, settings=settings, config=config, threshold=threshold,
        bond=Bond.of(encoder, PROMPTS, HEATMAP, settings), out=folder / "a.safetensors",
    )  # fmt: skip
    return {"card": card, "weights": load_file(folder / "a.safetensors")}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    pairs = zip(one["weights"].values(), other["weights"].values(), strict=True)
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


@pytest.fixture(scope="module")
def reference(encoder, tmp_path_factory):
    return trained(encoder, tmp_path_factory.mktemp("reference"))


def test_the_same_seed_gives_the_same_weights_and_card(encoder, reference, tmp_path):
    again = trained(encoder, tmp_path)
    assert same(reference, again)
    assert reference["card"] == again["card"]


def test_a_killed_training_goes_on_to_identical_weights(encoder, reference, tmp_path, monkeypatch):
    save, saved = training.save_checkpoint, []

    def killed(*arguments: Any) -> None:
        save(*arguments)
        saved.append(arguments[-1])
        if len(saved) == 3:
            raise Killed

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(Killed):
        trained(encoder, tmp_path)
    assert not (tmp_path / "a.safetensors").exists()
    resumed = trained(encoder, tmp_path)
    assert same(reference, resumed)
    assert saved == [1, 2, 3, 4, 5, 6]  # nothing was done twice


def test_a_finished_training_is_not_done_again(encoder, reference, tmp_path, monkeypatch):
    first = trained(encoder, tmp_path)
    monkeypatch.setattr(training, "save_checkpoint", None)
    assert same(first, trained(encoder, tmp_path))


CHANGES = {
    "epochs": 3, "batch": 2, "peak": 1e-3, "warmup": 4, "fall": 0.5, "weight_decay": 0.5, "averaging": 0.9,
    "largest_gradient": 0.01, "gamma": 0.0, "stride": 4, "covered": 0.9, "holdout": 0.5, "seed": 2,
    "named": False, "balance": 0.02,
}  # fmt: skip
ELSEWHERE = {"pictures", "cache_gb", "checkpoint_every"}  # tested by what they do


def test_no_field_is_left_out():
    assert set(CHANGES) | ELSEWHERE == {field.name for field in fields(UmciTraining)}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_changes_the_weights(encoder, reference, tmp_path, name):
    changed = trained(encoder, tmp_path, replace(CONFIG, **{name: CHANGES[name]}))
    assert not same(reference, changed)


def test_checkpoints_as_often_as_asked(encoder, reference, tmp_path, monkeypatch):
    save, saved = training.save_checkpoint, []
    monkeypatch.setattr(training, "save_checkpoint", lambda *a: saved.append(a[-1]) or save(*a))
    changed = trained(encoder, tmp_path, replace(CONFIG, checkpoint_every=4))
    assert saved == [4, 6]
    assert same(reference, changed)


def test_another_training_is_not_continued(encoder, tmp_path):
    trained(encoder, tmp_path)
    with pytest.raises(RunError, match=r"another training\.gamma, training\.seed;.*--out"):
        trained(encoder, tmp_path, replace(CONFIG, gamma=1.0, seed=3))
    with pytest.raises(RunError, match=r"settings\.width"):
        trained(encoder, tmp_path, settings=replace(SETTINGS, width=4))


def test_the_log_tells_both_losses_and_the_end(encoder, tmp_path, capsys):
    trained(encoder, tmp_path)
    rows = [
        json.loads(line) for line in (tmp_path / "a.safetensors.training/umci.jsonl").read_text().splitlines()
    ]
    assert rows[-1]["step"] == 6
    assert rows[-1]["focal"] > 0
    assert 0 < rows[-1]["dice"] < 2
    captured = capsys.readouterr()
    assert "step 6" in captured.err
    assert captured.out == ""


def test_too_few_pictures_are_told(encoder, tmp_path):
    with pytest.raises(UsageError, match="holdout"):
        trained(encoder, tmp_path, replace(CONFIG, holdout=0.01))


def test_it_learns_and_the_offset_puts_the_best_cut_at_the_threshold(encoder, tmp_path):
    config = replace(CONFIG, epochs=25, peak=1e-2)
    found = trained(encoder, tmp_path, config, threshold=0.7, pictures=Squares(40))
    card = found["card"]
    assert card["training"]["held_out"]["pixel_ap"] > 0.5  # 0.06 of all pixels are defective
    adapter = Adapter.load(tmp_path / "a.safetensors", encoder, PROMPTS, HEATMAP)
    features = features_of(encoder, tmp_path / "features", Squares(40))
    texts = {name: torch.stack([adapter_text(adapter, name)])[0] for name in ("plate", "lid")}
    plain = held_out(adapter.network, features, texts, range(30, 40), config.covered, encoder.device)
    cut = torch.tensor(plain["pixel_threshold"], dtype=torch.float64).logit() + card["offset"]
    assert float(cut.sigmoid()) == pytest.approx(0.7, abs=1e-6)
    picture = Squares()[1]
    anomaly = adapter.map(picture.pixels, "lid")
    assert anomaly[picture.mask].mean() > anomaly[~picture.mask].mean() + 0.2


def adapter_text(adapter: Adapter, product: str) -> torch.Tensor:
    return contrast(adapter.words.targets(product))


# --- losses


def test_focal_loss_by_hand():
    maps = torch.tensor([[[0.9, 0.4]], [[0.1, 0.6]]])  # normal, abnormal [2, 1, 2]
    truth = torch.tensor([[[1.0, 1.0]], [[0.0, 0.0]]])
    expected = (0.1**2 * -np.log(0.9) + 0.6**2 * -np.log(0.4)) / 2
    assert float(focal_loss(maps, truth, 2.0)) == pytest.approx(expected)
    assert float(focal_loss(maps, truth, 0.0)) == pytest.approx((-np.log(0.9) - np.log(0.4)) / 2)


def test_balanced_loss_by_hand():
    """One of four cells is defective: it weighs 0.1, each other one a quarter."""
    maps = torch.tensor([[[0.9, 0.4], [0.8, 0.7]], [[0.1, 0.6], [0.2, 0.3]]])
    defective = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    truth = torch.stack([1 - defective, defective])
    expected = -(np.log(0.9) + np.log(0.8) + np.log(0.7)) / 4 - 0.1 * np.log(0.6)
    assert float(balanced_loss(maps.log(), truth, 0.1)) == pytest.approx(expected)
    good = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])
    assert float(balanced_loss(maps.log(), good, 0.1)) == pytest.approx(-float(maps[0].log().mean()))


def test_dice_loss_by_hand():
    maps = torch.tensor([[[0.9, 0.4]], [[0.1, 0.6]]])
    truth = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert dice_loss(maps, truth).tolist() == pytest.approx([1 - 2.8 / 3.3, 1 - 2.2 / 2.7])
    assert dice_loss(truth, truth).tolist() == [0, 0]


# --- cache


def test_what_does_not_fit_is_encoded_again_with_the_same_result(encoder, reference, tmp_path):
    each = features_of(encoder, tmp_path / "whole").kept
    assert each == 12
    part = Squares()
    size = 2 * 4 * (16 + 36) * encoder.tower.width  # float16, four levels, 4x4 and 6x6 patches
    limited = features_of(encoder, tmp_path / "part", part, limit=5 * size + 1)
    assert limited.kept == 5
    stored = sum(path.stat().st_size for path in limited.folder.glob("levels-*.npy"))
    assert 5 * size < stored < 5 * size + 1000
    part.asked.clear()
    limited.seen(4, 32)
    assert part.asked == []
    limited.seen(5, 32)
    assert part.asked == [5]
    assert same(reference, trained(encoder, tmp_path / "none", limit=0))


def test_a_cache_that_was_interrupted_goes_on(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(features_module, "NOTED_EVERY", 2)
    whole = features_of(encoder, tmp_path / "a", levels=(1, 2))
    pictures = Squares()

    def kill(done: int) -> None:
        if done == 5:
            raise Killed

    options: dict[str, Any] = {"levels": (1, 2), "sizes": HEATMAP.sizes, "stride": 8, "limit": 10**9}
    with pytest.raises(Killed):
        Features(encoder, pictures, folder=tmp_path / "b", **options).fill(kill)
    again = Features(encoder, pictures, folder=tmp_path / "b", **options)
    again.fill()
    assert pictures.asked == [0, 1, 2, 3, 4, *range(4, 12)]
    for index in range(12):
        for size in HEATMAP.sizes:
            assert torch.equal(whole.seen(index, size).levels, again.seen(index, size).levels)
            assert torch.equal(whole.shares_of(index, size), again.shares_of(index, size))
    assert whole.products == again.products
    pictures.asked.clear()
    features_of(encoder, tmp_path / "b", pictures, levels=(1, 2))
    assert pictures.asked == []  # all of it is there


def test_a_cache_of_another_limit_is_made_anew(encoder, tmp_path):
    features_of(encoder, tmp_path, limit=0)
    grown = features_of(encoder, tmp_path)
    assert grown.seen(3, 32).levels.abs().sum() > 0


def test_other_pictures_levels_and_towers_have_caches_of_their_own(encoder, tmp_path):
    folders = {
        features_of(encoder, tmp_path).folder,
        features_of(encoder, tmp_path, Squares(13)).folder,
        features_of(encoder, tmp_path, levels=(2, 4)).folder,
        features_of(encoder, tmp_path, sizes=(32,)).folder,
        features_of(encoder, tmp_path, stride=4).folder,
        features_of(tiny_encoder(seed=1), tmp_path).folder,
    }
    assert len(folders) == 6


def test_older_caches_make_room(encoder, tmp_path):
    first = features_of(encoder, tmp_path)
    room = sum(path.stat().st_size for path in first.folder.iterdir())
    second = features_of(encoder, tmp_path, Squares(11), limit=2 * room)
    assert first.folder.is_dir()
    assert second.kept == 11
    third = features_of(encoder, tmp_path, Squares(10), limit=int(1.5 * room))
    assert third.kept == 10
    assert not second.folder.is_dir() or not first.folder.is_dir()


def test_levels_are_those_of_the_tower(encoder, tmp_path):
    features = features_of(encoder, tmp_path)
    pixels = features_module.resize(Squares()[7].pixels, (48, 48))[None].float() / 255
    expected = encoder.encode_levels(pixels, (1, 2, 3, 4))[0]
    expected = (expected - expected.mean(-1, keepdim=True)) / expected.std(-1, correction=0, keepdim=True)
    torch.testing.assert_close(features.seen(7, 48).levels.float(), expected, atol=5e-3, rtol=5e-3)


class Oblongs(Squares):
    """The same, every second twice as wide as high."""

    def __getitem__(self, index: int) -> Picture:
        picture = super().__getitem__(index)
        half = slice(None, None, 1 + index % 2)
        return replace(picture, pixels=picture.pixels[half], mask=picture.mask[half])


def test_photos_keep_their_aspect_unless_squares_are_wanted(encoder, tmp_path):
    pictures = Oblongs()
    kept = features_of(encoder, tmp_path, pictures, square=False)
    assert (kept.shape_of(0, 48), kept.shape_of(1, 48)) == ((6, 6), (3, 6))
    pixels = features_module.resize(pictures[1].pixels, (24, 48))[None].float() / 255
    expected = torch.nn.functional.layer_norm(
        encoder.encode_levels(pixels, (1, 2, 3, 4)), (encoder.tower.width,)
    )
    torch.testing.assert_close(kept.seen(1, 48).levels[None].float(), expected, atol=5e-3, rtol=5e-3)
    assert kept.shares_of(1, 48).shape == (3, 6)
    assert kept.shares_of(1, 48).max() == 1
    squares = features_of(encoder, tmp_path, pictures)
    assert squares.shape_of(1, 48) == (6, 6)
    assert squares.folder != kept.folder


def test_text_maps_are_kept_too(encoder, tmp_path):
    words = WordMaps(encoder, PROMPTS, HEATMAP)
    features = features_of(encoder, tmp_path, levels=(), words=words)
    pixels = features_module.resize(Squares()[7].pixels, (48, 48))[None].float() / 255
    targets = text_targets(encoder, PROMPTS.sentences("lid"))
    types, _ = compare(tower_features(pixels, encoder, HEATMAP), targets, HEATMAP)
    expected = torch.cat([soft_maximum(types, HEATMAP.sharpness)[0][None], types[:, 0]])
    seen = features.seen(7, 48)
    assert seen.levels is None
    torch.testing.assert_close(seen.words.float(), expected, atol=5e-3, rtol=5e-3)
    limited = features_of(encoder, tmp_path / "none", levels=(), words=words, limit=0)
    assert torch.equal(limited.seen(7, 48).words, seen.words)
    other = WordMaps(encoder, PROMPTS, replace(HEATMAP, temperature=0.1))
    assert features_of(encoder, tmp_path, levels=(), words=other).folder != features.folder


@pytest.mark.parametrize("tokens", [True, False])
def test_from_the_text_map_on(encoder, tmp_path, tokens):
    """Killed or not the same; untrained exactly the text map; with photos of several shapes."""
    settings = replace(SETTINGS, prior=True, tokens=tokens)
    options: dict[str, Any] = {
        "settings": settings, "words": WordMaps(encoder, PROMPTS, HEATMAP), "pictures": Oblongs(),
        "levels": (1, 4) if tokens else (), "square": False,
    }  # fmt: skip
    one = trained(encoder, tmp_path / "a", **options)
    assert same(one, trained(encoder, tmp_path / "b", **options))
    adapter = Adapter.load(tmp_path / "a/a.safetensors", encoder, PROMPTS, HEATMAP)
    photo = Oblongs()[1].pixels
    learned = adapter.map(photo, "lid")
    fresh = Umci(settings, len(options["levels"]), encoder.tower.width, encoder.dim, len(PROMPTS.defects))
    single = replace(HEATMAP, sizes=(48,))  # of several scales, soft maxima are joined, not types
    plain = Adapter(fresh, encoder, PROMPTS, single, levels=options["levels"]).map(photo, "lid")
    expected = coarse_map(photo, encoder, text_targets(encoder, PROMPTS.sentences("lid")), single)
    np.testing.assert_allclose(plain, expected.anomaly, atol=1e-6)
    assert not np.allclose(learned, plain, atol=1e-3)
    with pytest.raises(WeightsError, match=r"a text map of temperature = 0.07, not 0.1"):
        Adapter.load(tmp_path / "a/a.safetensors", encoder, PROMPTS, replace(HEATMAP, temperature=0.1))


def test_shares_of_a_mask():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True
    picture = Picture(np.zeros((8, 8, 3), np.uint8), mask, "plate")
    assert _shares(picture, (4, 4))[:, :2].tolist() == [[255, 0], [255, 0], [0, 0], [0, 0]]
    tiny = replace(picture, mask=np.eye(8, dtype=bool) & (np.arange(8) == 3))
    assert _shares(tiny, (2, 2)).tolist() == [[255, 0], [0, 0]]  # a sixteenth of a cell, yet not lost
    assert not _shares(replace(picture, mask=np.zeros((8, 8), bool)), (4, 4)).any()


def test_sizes_of_their_own_are_refused(encoder, tmp_path):
    with pytest.raises(UsageError, match="0 keeps each photo's own size"):
        features_of(encoder, tmp_path, sizes=(0,))


# --- pictures


def test_rendered_pictures_come_with_their_twins():
    pictures = RenderedPictures(5, seed=3, side=64)
    assert len(pictures) == 5
    defective = [pictures[i] for i in range(0, 5, 2)]
    assert any(picture.mask.any() for picture in defective)
    for i in (0, 2):
        one, twin = pictures[i], pictures[i + 1]
        assert not twin.mask.any()
        assert one.product == twin.product
        assert not np.array_equal(one.pixels, twin.pixels)
        assert np.array_equal(one.pixels, RenderedPictures(5, seed=3, side=64)[i].pixels)
    assert not np.array_equal(pictures[0].pixels, RenderedPictures(5, seed=4, side=64)[0].pixels)


def test_pictures_of_a_dataset(tmp_path):
    draw_category(tmp_path / "data/bottle", 1)
    draw_category(tmp_path / "data/lid", 2)
    pictures = DatasetPictures(open_dataset("folder", tmp_path / "data"), seed=1)
    found = [pictures[i] for i in range(len(pictures))]
    assert len(found) == 18
    assert sum(picture.mask.any() for picture in found) == 12
    assert {picture.product for picture in found} == {"bottle", "lid"}
    assert len({picture.product for picture in found[:6]}) == 2  # mixed
    assert pictures.identity["categories"] == ["bottle", "lid"]
    changed = tmp_path / "data/lid/test/good/000.png"
    changed.write_bytes(changed.read_bytes() + b" ")
    again = DatasetPictures(open_dataset("folder", tmp_path / "data"), seed=1)
    assert again.identity != pictures.identity


def test_a_dataset_without_defects_is_refused(tmp_path):
    draw_category(tmp_path / "lid", 2)
    data = open_dataset("folder", tmp_path / "lid")
    category = replace(data.categories[0], samples=data.categories[0].samples[:3])
    assert not any(sample.is_defective for sample in category.samples)
    with pytest.raises(UsageError, match="no defective photo"):
        DatasetPictures(replace(data, categories=(category,)), seed=1)


# --- configuration


def test_a_configuration_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("[umci]\nblocks = [2, 4]\nkeep = false\n[training]\npeak = 1\nepochs = 9\n")
    found = read_config(path)
    assert found.umci == UmciSettings(blocks=(2, 4), keep=False)
    assert found.training == UmciTraining(peak=1.0, epochs=9)
    assert read_config(None) == UmciConfig(UmciSettings(), UmciTraining(), EvalProtocol())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[umci]\nwidht = 3", "line 2.*widht.*did you mean 'width'"),
        ("[umci]\nkeep = 1", "true or false"),
        ("[umci]\nscales = [2.5]", "whole numbers"),
        ("[training]\nepochs = 1.5", "line 2.*whole number"),
        ("[training]\npeak = 'high'", "a number"),
        ("[trainings]", "'trainings' is unknown"),
    ],
)
def test_wrong_configurations_say_where(tmp_path, text, said):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises((PromptError, UsageError), match=said):
        read_config(path)


@pytest.mark.parametrize(
    ("name", "other"), [("clipsam_visa_to_mvtec", "visa"), ("clipsam_mvtec_to_visa", "mvtec")]
)
def test_the_transfers_of_the_paper_are_configurations(name, other):
    config = read_config(name)
    assert config.protocol == load_protocol(name)
    assert (config.protocol.preset, config.protocol.trained_on) == ("large", other)
    assert (config.protocol.method().heatmap.sizes, config.protocol.method().heatmap.square) == ((518,), True)
    assert config.umci.blocks == (6, 12, 18, 24)
    assert config.umci.scales == (3, 9)
    assert (config.training.peak, config.training.batch, config.training.epochs) == (1e-4, 8, 6)


def test_average_precision_is_sklearns(encoder, reference, tmp_path):
    """The held-out figure is of cells, all scales together, on pictures that were not trained on."""
    features = features_of(encoder, tmp_path)
    trained(encoder, tmp_path)
    adapter = Adapter.load(tmp_path / "a.safetensors", encoder, PROMPTS, HEATMAP)
    scores, truths = [], []
    for index in (9, 10, 11):
        text = adapter_text(adapter, features.products[index])[None]
        maps = []
        for size in HEATMAP.sizes:
            stages = adapter.network(features.seen(index, size).levels[None].float(), text).sum(dim=1)
            maps.append((stages[:, 1] - stages[:, 0])[None].detach())
        small = torch.nn.functional.interpolate(maps[0], (6, 6), mode="bilinear")
        scores.append(((small + maps[1]) / 2).flatten())
        truths.append((features.shares_of(index, 48) >= CONFIG.covered).flatten())
    expected = average_precision_score(torch.cat(truths), torch.cat(scores))
    assert read_card(tmp_path / "a.safetensors")["training"]["held_out"]["pixel_ap"] == pytest.approx(
        expected, abs=1e-3
    )
    assert asdict(CONFIG).items() <= read_card(tmp_path / "a.safetensors")["training"].items()
