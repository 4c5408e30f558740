"""Protocol files: what they change of a preset, that the shipped ones fit their towers, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clipsam.errors import UsageError
from clipsam.fusion import PUBLISHED
from clipsam.presets import PRESETS
from clipsam.prompts import load_prompts
from clipsam.protocol import load_protocol, shipped_protocols
from clipsam.settings import ATTENTIONS

DEPTHS = {"nano": 6, "small": 12, "base": 12, "large": 24}
METHODS = {
    "winclip": "windows",
    "april_gan": "plain",
    "anomalyclip_static": "v-v",
    "clip_surgery": "v-v",
    "maskclip": "value",
    "sclip": "sclip",
    "naclip": "neighbour",
    "clearclip": "clear",
    "proxyclip": "proxy",
    "clipsam_training_free": "v-v",
}


def test_each_published_method_has_a_protocol_that_asks_for_its_attention() -> None:
    assert set(METHODS) <= set(shipped_protocols())
    for name, attention in METHODS.items():
        assert load_protocol(name).method().heatmap.attention == attention
    published_alone = {"q-q", "k-k"}  # halves of SCLIP
    assert set(METHODS.values()) | published_alone == set(ATTENTIONS)


@pytest.mark.parametrize("name", shipped_protocols())
def test_every_shipped_protocol_fits_its_preset(name: str) -> None:
    protocol = load_protocol(name)
    preset = protocol.method()
    assert protocol.title
    assert load_prompts(protocol.prompts or preset.prompts).defects
    assert not protocol.preset or preset.name == protocol.preset
    assert all(layer <= DEPTHS[preset.name] for layer in preset.heatmap.layers)
    assert (preset.heatmap.attention_blocks or 1) <= DEPTHS[preset.name]


@pytest.mark.parametrize(
    ("name", "strategy"),
    [("clipsam_training_free", "mmr"), ("psmp_ppss", "patch-grid"), ("cascaded_prompts", "cascade")],
)
def test_sam_stages_are_named_by_their_protocols(name: str, strategy: str) -> None:
    protocol = load_protocol(name)
    assert protocol.sam
    assert protocol.method().sam_settings.strategy == strategy
    if published := {"clipsam_training_free": "clipsam", "psmp_ppss": "psmp-clip"}.get(name):
        assert protocol.method().fusion == PUBLISHED[published]


def test_tables_change_the_preset_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'preset = "small"\n[heatmap]\nsizes = [224, 448]\ntemperature = 1\n[fusion]\nscore = "top"\n'
    )
    small = PRESETS["small"]
    expected = replace(
        small,
        heatmap=replace(small.heatmap, sizes=(224, 448), temperature=1),
        fusion=replace(small.fusion, score="top"),
    )
    assert load_protocol(path).method() == expected


def test_the_proxy_is_a_folder_or_a_repository(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    (tmp_path / "dino").mkdir()
    for given, field in ((tmp_path / "dino", "folder"), ("facebook/dinov3-vitb16", "repo")):
        path.write_text(f'preset = "nano"\nproxy = "{given}"\n[heatmap]\nattention = "proxy"\n')
        proxy = load_protocol(path).method().proxy
        assert getattr(proxy, field) == str(given)
        assert proxy.name == Path(given).name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("heatmap = 3", r"'heatmap' is 3; expected a table \[heatmap\]"),
        ("[heatmap]\nsize = [3]", r"\[heatmap\] has no key 'size'; expected one of attention, "),
        ("[heatmap]\nsizes = 3", r"\[heatmap\] sizes is 3; expected a list"),
        ("[heatmap]\nsquare = 1", r"\[heatmap\] square is 1; expected bool"),
        ("[heatmap]\nattention_blocks = true", r"attention_blocks is True; expected int"),
        ('[heatmap]\nattention = "w-w"', r"\[heatmap\] attention = 'w-w'"),
        ("[fusion]\nweight = true", r"\[fusion\] weight is True; expected float"),
        ("[colour]\nred = 1", r"key 'colour' is unknown; expected one of title, .*\[heatmap\]"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_protocol(tmp_path / "p.toml")
