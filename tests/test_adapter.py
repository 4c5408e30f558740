"""An adapter's file: what it is bound to, its map, and its place in segmenter, inspect and eval."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import save_tiny_clip, tiny_encoder
from tiny_dataset import draw_category
from typer.testing import CliRunner

from clipsam import presets
from clipsam.adapter import Adapter, Bond, WordMaps, contrast, network_for, read_card, save_adapter
from clipsam.cli import app
from clipsam.cli.eval import _track
from clipsam.errors import UsageError, WeightsError
from clipsam.heatmap import enlarge, mean_scales, see, text_targets
from clipsam.presets import ClipSpec, Preset, SamSpec
from clipsam.prompts import PromptEnsemble, load_prompts
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import HeatmapSettings
from clipsam.umci import Umci, UmciSettings, anomaly_logits

HEATMAP = HeatmapSettings(sizes=(32, 64), smoothing=0.02)
SETTINGS = UmciSettings(width=8, hidden=8, scales=(2,))
LEVELS = (2, 4)
PHOTO = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder("hybrid", cache_dir=tmp_path_factory.mktemp("sentences"))


@pytest.fixture(scope="module")
def prompts():
    return load_prompts("winclip")


def write(path: Path, encoder: Any, prompts: PromptEnsemble, **options: Any) -> Path:
    torch.manual_seed(0)
    network = Umci(SETTINGS, len(LEVELS), encoder.tower.width, encoder.dim)
    data = options.pop("data", {"kind": "rendered", "pictures": 3})
    bond = options.pop("bond", Bond.of(encoder, prompts, HEATMAP, SETTINGS))
    training = options.pop("training", {"seed": 1})
    save_adapter(path, network, bond, levels=LEVELS, offset=0.5, training=training, data=data, **options)
    return path


@pytest.fixture(scope="module")
def file(encoder, prompts, tmp_path_factory):
    return write(tmp_path_factory.mktemp("adapter") / "a.safetensors", encoder, prompts)


def test_the_map_by_hand(file, encoder, prompts):
    adapter = Adapter.load(file, encoder, prompts, HEATMAP)
    text = contrast(text_targets(encoder, prompts.sentences("bottle")))
    torch.testing.assert_close(text.norm(dim=1), torch.ones(2))
    scales = []
    for shape in ((24, 32), (48, 64)):
        pixels = torch.from_numpy(PHOTO).permute(2, 0, 1)[None]
        if shape != (48, 64):
            pixels = torch.nn.functional.interpolate(pixels, shape, mode="bicubic", antialias=True)
        with torch.no_grad():
            stages = adapter.network(encoder.encode_levels(pixels.float() / 255, LEVELS), text[None]).sum(
                dim=1
            )
        scales.append((stages[:, 1] - stages[:, 0])[None])
    small = torch.nn.functional.interpolate(scales[0], (6, 8), mode="bilinear")
    logits = (small + scales[1])[0, 0] / 2
    expected = enlarge((logits + 0.5).sigmoid().numpy(), (48, 64), HEATMAP.smoothing)
    np.testing.assert_allclose(adapter.map(PHOTO, "bottle"), expected, atol=1e-5)


@pytest.mark.parametrize("attention", ["plain", "v-v", "value", "windows"])
@pytest.mark.parametrize(("prior", "tokens"), [(True, True), (True, False), (False, True)])
def test_one_pass_of_the_tower_gives_both_maps(encoder, prompts, monkeypatch, prior, tokens, attention):
    heatmap = replace(HEATMAP, attention=attention, smoothing=0.0, tile=24)  # the larger scale in tiles
    levels = (2, 4) if tokens else ()  # the last block, too, which dense modes may save
    settings = replace(SETTINGS, prior=prior, tokens=tokens)
    torch.manual_seed(0)
    network = network_for(settings, encoder, prompts, len(levels))
    for parameter in network.parameters():  # the last layers begin at zero
        torch.nn.init.normal_(parameter, std=0.2)
    adapter = Adapter(network, encoder, prompts, heatmap, levels=levels, offset=0.25)
    words = WordMaps(encoder, prompts, heatmap)

    def look(crops):
        text = contrast(words.targets("bottle")).expand(len(crops), 2, -1)
        levels_alone = encoder.encode_levels(crops, levels) if tokens else None
        words_alone = words(crops, "bottle") if prior else None
        return anomaly_logits(network(levels_alone, text, words_alone))[None], None

    with torch.inference_mode():
        scales = [see(PHOTO, size, 8, heatmap, 1, look).patches for size in heatmap.sizes]
        expected = enlarge((mean_scales(scales)[0] + 0.25).sigmoid().numpy(), (48, 64), 0.0)

    passes = []
    embed = encoder.tower.embed
    monkeypatch.setattr(encoder.tower, "embed", lambda pixels: passes.append(len(pixels)) or embed(pixels))
    preset = Preset("nano", "tiny", presets.NANO.clip, None, heatmap=heatmap, prompts="winclip")
    plain = AnomalySegmenter(preset, encoder, None, prompts, "bottle").segment(PHOTO)
    needed, passes[:] = list(passes), []
    adapted = AnomalySegmenter(preset, encoder, None, prompts, "bottle", adapter=adapter)
    found = adapted.segment(PHOTO)
    assert passes == needed
    assert len(passes) > len(heatmap.sizes)
    np.testing.assert_allclose(found.coarse_map, expected, atol=1e-6)
    assert np.abs(found.coarse_map - plain.coarse_map).max() > 0.01
    passes.clear()
    np.testing.assert_allclose(adapted.words.map(PHOTO), expected, atol=1e-6)
    np.testing.assert_allclose(adapter.map(PHOTO, "bottle"), expected, atol=1e-6)
    assert passes == 2 * needed


def test_the_product_is_told(file, encoder, prompts):
    adapter = Adapter.load(file, encoder, prompts, HEATMAP)
    first, second = adapter.map(PHOTO, "bottle"), adapter.map(PHOTO, "cable")
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, adapter.map(PHOTO, "bottle"))


def test_an_adapter_that_was_not_told_products_is_not_told_now(encoder, prompts, tmp_path):
    path = write(tmp_path / "a.safetensors", encoder, prompts, training={"named": False})
    adapter = Adapter.load(path, encoder, prompts, HEATMAP)
    named = Adapter.load(write(tmp_path / "b.safetensors", encoder, prompts), encoder, prompts, HEATMAP)
    expected = named.map(PHOTO, "object")
    for product in ("bottle", "cable"):
        np.testing.assert_array_equal(adapter.map(PHOTO, product), expected)


def test_large_scales_go_tile_by_tile(file, encoder, prompts):
    whole = Adapter.load(file, encoder, prompts, HEATMAP).map(PHOTO, "bottle")
    tiled = Adapter.load(file, encoder, prompts, replace(HEATMAP, tile=16)).map(PHOTO, "bottle")
    assert tiled.shape == whole.shape
    assert not np.array_equal(tiled, whole)


@pytest.mark.parametrize("tower", ["native", "siglip", "eva"])
def test_it_works_with_other_towers(tower, prompts, tmp_path):
    encoder = tiny_encoder(tower, cache_dir=tmp_path / "cache")
    path = write(tmp_path / "a.safetensors", encoder, prompts)
    found = Adapter.load(path, encoder, prompts, HEATMAP).map(PHOTO, "bottle")
    assert found.shape == (48, 64)
    assert found.std() > 0


def test_another_tower_prompts_or_sizes_are_refused_by_name(file, encoder, prompts, tmp_path):
    other = tiny_encoder("hybrid", seed=1, cache_dir=tmp_path)
    with pytest.raises(WeightsError, match=r"the tower hybrid \(weights \w{12}\), not hybrid .*train umci"):
        Adapter.load(file, other, prompts, HEATMAP)
    with pytest.raises(WeightsError, match="the prompts 'winclip', not 'april_gan'"):
        Adapter.load(file, encoder, load_prompts("april_gan"), HEATMAP)
    changed = replace(prompts, templates=prompts.templates[:1])
    with pytest.raises(WeightsError, match="the prompts 'winclip', not 'winclip' of another content"):
        Adapter.load(file, encoder, changed, HEATMAP)
    with pytest.raises(WeightsError, match="photos at 32 and 64 px, not at 32 px") as caught:
        Adapter.load(file, encoder, prompts, replace(HEATMAP, sizes=(32,)))
    assert "tower" not in str(caught.value).split("photos")[0]


def test_what_is_no_adapter_is_refused(encoder, prompts, tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(WeightsError, match="cannot be read as an adapter"):
        Adapter.load(path, encoder, prompts, HEATMAP)
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read as an adapter"):
        Adapter.load(path, encoder, prompts, HEATMAP)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match="no adapter of this version"):
        Adapter.load(path, encoder, prompts, HEATMAP)


def test_files_of_before_there_was_a_text_map_to_start_from_still_load(file, encoder, prompts, tmp_path):
    card = read_card(file)
    card["format"] = "clipsam-umci-1"
    for name in ("prior", "tokens"):
        del card["settings"][name]
    del card["bond"]["text_map"]
    old = tmp_path / "old.safetensors"
    save_file(load_file(file), old, {"clipsam": json.dumps(card)})
    expected = Adapter.load(file, encoder, prompts, HEATMAP).map(PHOTO, "bottle")
    np.testing.assert_array_equal(Adapter.load(old, encoder, prompts, HEATMAP).map(PHOTO, "bottle"), expected)


def test_the_card_says_what_it_is(file, encoder, prompts):
    card = read_card(file)
    assert card["bond"]["weights_hash"] == encoder.weights_hash
    assert card["settings"] == json.loads(json.dumps(asdict(SETTINGS)))
    assert (card["levels"], card["offset"], card["data"]["kind"]) == ([2, 4], 0.5, "rendered")


# --- in the segmenter and on the command line


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A preset "nano" of a tiny CLIP without SAM, and an adapter for it."""
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path / "cache"))
    folder = save_tiny_clip(tmp_path / "clip", "native")
    preset = Preset(
        "nano", "tiny", ClipSpec("tiny", folder=str(folder)), None, heatmap=HEATMAP, prompts="winclip"
    )
    monkeypatch.setitem(presets.PRESETS, "nano", preset)
    monkeypatch.setattr(presets, "NANO", preset)
    encoder = AnomalySegmenter.from_preset("nano").clip
    write(tmp_path / "a.safetensors", encoder, load_prompts("winclip"))
    return tmp_path


def run(*words: Any) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_the_segmenter_uses_its_map_and_says_so(home):
    plain = AnomalySegmenter.from_preset("nano", product="bottle")
    adapted = AnomalySegmenter.from_preset("nano", product="bottle", adapter=home / "a.safetensors")
    result = adapted.segment(PHOTO)
    np.testing.assert_array_equal(result.coarse_map, adapted.adapter.map(PHOTO, "bottle"))
    assert not np.array_equal(result.coarse_map, plain.segment(PHOTO).coarse_map)
    assert adapted.manifest()["adapter"]["data"] == {"kind": "rendered", "pictures": 3}
    assert len(adapted.manifest()["adapter"]["sha256"]) == 64
    assert plain.manifest()["adapter"] is None
    other = adapted.about("cable")
    np.testing.assert_array_equal(other.segment(PHOTO).coarse_map, adapted.adapter.map(PHOTO, "cable"))
    assert adapted.product == "bottle"


def test_added_defects_leave_the_adapter_as_it_is(home):
    one = AnomalySegmenter.from_preset("nano", adapter=home / "a.safetensors")
    more = AnomalySegmenter.from_preset("nano", adapter=home / "a.safetensors", defects=["oil stain"])
    np.testing.assert_array_equal(one.segment(PHOTO).coarse_map, more.segment(PHOTO).coarse_map)


def test_two_maps_at_once_are_refused(home):
    both = replace(presets.NANO, text_map=SamSpec("sam3"))
    with pytest.raises(UsageError, match=r"from sam3, and the adapter .* gives one too"):
        AnomalySegmenter.from_preset(both, adapter=home / "a.safetensors")


def test_inspect_takes_an_adapter(home):
    draw_category(home / "data", 1, photos=1)
    common = ("inspect", home / "data/test", "--preset", "nano", "--no-overlays", "--maps", "none")
    run(*common, "--out", home / "plain")
    run(*common, "--out", home / "run", "--adapter", home / "a.safetensors")
    assert '"adapter": {' in (home / "run/run.json").read_text()
    plain, adapted = (
        [json.loads(line)["score"] for line in (home / name / "results.jsonl").read_text().splitlines()]
        for name in ("plain", "run")
    )
    assert plain != adapted


def test_training_and_eval_from_the_command_line(home):
    draw_category(home / "data/bottle", 1)
    draw_category(home / "data/lid", 2)
    (home / "c.toml").write_text("[umci]\nwidth = 8\nhidden = 8\n[training]\nepochs = 1\nholdout = 0.3\n")
    data = ("--dataset", "folder", "--root", home / "data")
    out = home / "umci.safetensors"
    common = ("train", "umci", "--preset", "nano", "--config", home / "c.toml", "--json", "--out", out)
    card = json.loads(run(*common, *data, "--category", "lid").stdout)
    assert card["data"]["categories"] == ["lid"]
    assert card["settings"]["width"] == 8
    assert card["adapter"] == str(out)
    scored = ("eval", *data, "--preset", "nano", "--no-figures", "--json")
    prompts = ("--prompts", "winclip")
    plain = json.loads(run(*scored, *prompts, "--category", "bottle", "--out", home / "p").stdout)
    adapted = json.loads(
        run(*scored, *prompts, "--category", "bottle", "--out", home / "e", "--adapter", out).stdout
    )
    assert adapted["categories"]["bottle"]["method"]["adapter"]["data"]["categories"] == ["lid"]
    assert adapted["mean"]["coarse"]["pixel_ap"] != plain["mean"]["coarse"]["pixel_ap"]
    with pytest.raises(UsageError, match=r"was trained on lid of data; .*--category"):
        run(*scored, *prompts, "--out", home / "f", "--adapter", out)


def test_training_on_rendered_pictures(home, capsys):
    (home / "c.toml").write_text(
        "[umci]\nwidth = 8\nhidden = 8\n[training]\npictures = 6\nepochs = 1\nholdout = 0.34\n"
    )
    result = run(
        "train", "umci", "--preset", "nano", "--config", home / "c.toml", "--out", home / "r.safetensors"
    )
    assert "pixel AP" in result.stdout
    assert "6/6 pictures" in result.stderr
    card = read_card(home / "r.safetensors")
    assert card["data"] == {"kind": "rendered", "pictures": 6, "seed": 1, "side": 64}
    assert card["bond"]["prompts"] == "winclip"
    assert (home / "cache/features").is_dir()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dataset", "mvtec"], "needs --root"),
        (["--root", "x"], "takes no --root"),
        (["--category", "lid"], "no categories"),
    ],
)
def test_what_makes_no_sense_is_told(home, words, said):
    with pytest.raises(UsageError, match=said):
        run("train", "umci", "--preset", "nano", "--out", home / "x.safetensors", *words)


@pytest.mark.parametrize(
    ("method", "track"),
    [
        ({"preset": "large", "adapter": {"sha256": ""}}, "aux"),
        ({"preset": "large", "adapter": None}, "training-free"),
    ],
)
def test_it_stands_beside_methods_that_were_trained(method, track):
    assert _track(SimpleNamespace(categories={"bottle": {"method": method}})) == track


def test_a_protocol_wants_its_adapter(home):
    draw_category(home / "data/bottle", 1)
    common = ("eval", "--dataset", "mvtec", "--root", home / "data", "--out", home / "out")
    protocol = ("--protocol", "clipsam_visa_to_mvtec", "--preset", "nano")
    with pytest.raises(UsageError, match=r"needs an adapter trained on visa; .*train umci --dataset visa"):
        run(*common, *protocol)
    with pytest.raises(UsageError, match=r"was trained on rendered; expected one trained on visa"):
        run(*common, *protocol, "--adapter", home / "a.safetensors")
