"""The coarse map: formulas against direct ones, places, scales, tiles, and that no photo is stretched."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import center_of_mass, gaussian_filter
from scipy.special import logit
from tiny_clip import PATCH, tiny_encoder
from torch import Tensor

from clipsam.clip import PatchFeatures
from clipsam.errors import UsageError
from clipsam.heatmap import (
    CoarseMap,
    TextTargets,
    coarse_map,
    enlarge,
    patch_grid,
    resize,
    soft_maximum,
    text_targets,
    type_logits,
)
from clipsam.nano.corpus.compose import render
from clipsam.prompts import Sentences
from clipsam.segmenter import AnomalySegmenter
from clipsam.settings import ATTENTIONS, HeatmapSettings
from clipsam.tiles import cut

TYPES = ("scratch", "stain", "hole")


class ColourEncoder:
    """Stands in for a tower: a patch's feature is its mean colour, so what a map should be is known."""

    patch_size = PATCH

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def encode_pixels(
        self,
        pixels: Tensor,
        attention: str,
        *,
        blocks: int | None,
        layers: tuple,
        levels: tuple,
        pooled: bool,
    ) -> PatchFeatures:
        assert not levels
        self.shapes.append(tuple(pixels.shape))
        colour = F.avg_pool2d(pixels, PATCH) + 0.01
        whole = F.normalize(colour.mean(dim=(2, 3)), dim=-1)
        return PatchFeatures(F.normalize(colour, dim=1).permute(0, 2, 3, 1), whole if pooled else None)


def colour_targets() -> TextTargets:
    """Normal is green; type "red" is red, "blue" is blue."""
    red, green, blue = torch.eye(3)
    return TextTargets(green, torch.stack([red, blue]), ("red", "blue"), "")


def random_targets(dim: int = 24, seed: int = 1) -> TextTargets:
    vectors = F.normalize(torch.randn(4, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)
    return TextTargets(vectors[0], vectors[1:], TYPES, "")


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_photo(height: int, width: int) -> np.ndarray:
    """Blurred noise, read-only as Pillow gives it: resizers agree on it to a grey level."""
    small = Image.fromarray(photo(height // 16, width // 16))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def green_photo(
    height: int, width: int, box: tuple[slice, slice], colour: tuple[int, int, int]
) -> np.ndarray:
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:] = (0, 200, 0)
    pixels[box] = colour
    return pixels


def test_sigmoid_of_type_logits_is_the_softmax_over_normal_and_type() -> None:
    targets = random_targets()
    patches = F.normalize(torch.randn(5, 7, 24), dim=-1)
    logits = type_logits(patches, targets, temperature=0.07)
    assert logits.shape == (3, 5, 7)
    for k in range(3):
        pair = torch.stack([patches @ targets.normal, patches @ targets.abnormal[k]]) / 0.07
        torch.testing.assert_close(logits[k].sigmoid(), pair.softmax(dim=0)[1], atol=1e-6, rtol=1e-5)


def test_soft_maximum_lies_between_mean_and_maximum() -> None:
    logits = torch.randn(6, 40) * 3
    for sharpness in (0.1, 1.0, 4.0, 100.0):
        soft = soft_maximum(logits, sharpness)
        assert (soft <= logits.amax(dim=0) + 1e-5).all()
        assert (soft >= logits.amax(dim=0) - math.log(6) / sharpness - 1e-5).all()
        assert (soft >= logits.mean(dim=0) - 1e-4).all()
    torch.testing.assert_close(soft_maximum(logits, 1e-3), logits.mean(dim=0), atol=0.05, rtol=0)


def test_soft_maximum_does_not_shift_with_the_number_of_types() -> None:
    one = torch.randn(1, 9)
    torch.testing.assert_close(soft_maximum(one, 4.0), one[0])
    torch.testing.assert_close(soft_maximum(one.repeat(20, 1), 4.0), one[0])


@pytest.mark.parametrize(
    ("shape", "grid"), [((90, 130), (7, 9)), ((40, 33), (40, 33)), ((20, 300), (30, 21))]
)
@pytest.mark.parametrize("smoothing", [0.0, 0.02])
def test_enlarge_is_bilinear_then_gaussian(
    shape: tuple[int, int], grid: tuple[int, int], smoothing: float
) -> None:
    values = np.random.default_rng(1).random(grid, dtype=np.float32)
    bilinear = F.interpolate(torch.from_numpy(values)[None, None], shape, mode="bilinear")[0, 0].numpy()
    expected = gaussian_filter(bilinear, smoothing * max(shape), mode="nearest") if smoothing else bilinear
    large = enlarge(values, shape, smoothing)
    assert large.dtype == np.float32
    np.testing.assert_allclose(large, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("shape", "size", "grid"),
    [
        ((100, 200), 160, (10, 20)),
        ((200, 100), 160, (20, 10)),
        ((101, 203), 0, (13, 25)),
        ((4, 4000), 400, (1, 50)),
    ],
)
def test_the_longer_side_becomes_the_size_in_whole_patches(
    shape: tuple[int, int], size: int, grid: tuple[int, int]
) -> None:
    assert patch_grid(shape, size, PATCH) == grid


@pytest.mark.parametrize("size", [(48, 80), (200, 320)])
def test_resizing_is_pillows_bicubic(size: tuple[int, int]) -> None:
    smooth = Image.fromarray(photo(9, 15)).resize((170, 101), Image.Resampling.BICUBIC)
    ours = resize(np.asarray(smooth), size).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(smooth.resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(ours - theirs).max() <= 1


def test_text_targets_are_normalised_means(tmp_path: Path) -> None:
    encoder = tiny_encoder(cache_dir=tmp_path)
    sentences = Sentences(
        ("a bottle", "a flawless bottle"), {"scratch": ("a scratched bottle",), "hole": ("a", "b", "c")}
    )
    targets = text_targets(encoder, sentences)
    assert targets.defects == ("scratch", "hole")
    for target, group in zip(
        (targets.normal, *targets.abnormal), (sentences.normal, *sentences.abnormal.values()), strict=True
    ):
        expected = F.normalize(encoder.encode_sentences(group).mean(dim=0), dim=0)
        torch.testing.assert_close(target, expected)
    assert targets.prompt_hash != text_targets(encoder, replace(sentences, normal=("a can",))).prompt_hash


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 123), (123, 50)])
def test_one_scale_equals_a_direct_computation(height: int, width: int) -> None:
    encoder, targets, pixels = tiny_encoder(), random_targets(), smooth_photo(height, width)
    settings = HeatmapSettings(sizes=(64,), sharpness=3.0, smoothing=0.0, temperature=0.1)
    result = coarse_map(pixels, encoder, targets, settings)

    longer = max(height, width)
    grid = [max(1, round(side / longer * 64 / PATCH)) for side in (height, width)]
    small = Image.fromarray(pixels).resize((grid[1] * PATCH, grid[0] * PATCH), Image.Resampling.BICUBIC)
    features = encoder.encode_pixels(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255)
    cosines = features.patches[0] @ torch.stack([targets.normal, *targets.abnormal]).T
    logits = (cosines[..., 1:] - cosines[..., :1]) / 0.1
    anomaly = torch.sigmoid(torch.log(torch.exp(3 * logits).mean(dim=-1)) / 3)
    expected = F.interpolate(anomaly[None, None], (height, width), mode="bilinear")[0, 0].numpy()
    whole = ((features.pooled @ targets.abnormal.T) - features.pooled @ targets.normal)[0] / 0.1
    score = torch.sigmoid(torch.log(torch.exp(3 * whole).mean()) / 3)

    # one grey level of difference between two bicubic resizers moves cosines by about 1e-3
    np.testing.assert_allclose(result.anomaly, expected, atol=0.01)
    np.testing.assert_allclose(result.types, logits.sigmoid().permute(2, 0, 1).numpy(), atol=0.01)
    assert result.image_score == pytest.approx(score.item(), abs=0.01)


@pytest.mark.parametrize("sizes", [(64,), (0,), (48, 96), (0, 64)])
def test_maps_have_the_size_of_the_photo_and_lie_in_0_1(sizes: tuple[int, ...]) -> None:
    result = coarse_map(photo(75, 110), tiny_encoder("timm"), random_targets(), HeatmapSettings(sizes=sizes))
    assert result.anomaly.shape == (75, 110)
    assert result.anomaly.dtype == result.types.dtype == np.float32
    finest = max(patch_grid((75, 110), size, PATCH) for size in sizes)
    assert result.types.shape == (3, *finest)
    assert result.anomaly.min() >= 0
    assert result.anomaly.max() <= 1
    assert result.defects == TYPES
    assert result.image_score is not None


@pytest.mark.parametrize("tile", [1024, 64])
@pytest.mark.parametrize("sizes", [(0,), (200,), (0, 120)])
def test_a_defect_is_found_where_it_is(sizes: tuple[int, ...], tile: int) -> None:
    box = (slice(64, 96), slice(200, 240))
    pixels = green_photo(160, 320, box, (200, 0, 0))
    settings = HeatmapSettings(sizes=sizes, tile=tile, smoothing=0.01, overlap=0.3)
    result = coarse_map(pixels, ColourEncoder(), colour_targets(), settings)  # type: ignore[arg-type]
    assert result.anomaly[80, 220] > 0.9
    assert result.anomaly[20, 40] < 0.01
    row, column = center_of_mass(result.anomaly > 0.5)
    assert (row, column) == pytest.approx((79.5, 219.5), abs=5)  # a patch of the coarsest scale is 13 px
    red, blue = result.types
    assert red.max() > 0.9
    assert blue.max() < 0.6


def test_a_flat_photo_gives_a_flat_map_of_its_own_probability() -> None:
    """No stretching: a photo that is normal everywhere stays low everywhere, one that is not stays high."""
    for colour, expected in (((0, 200, 0), 0.0), ((200, 0, 0), 1.0)):
        pixels = green_photo(70, 90, (slice(None), slice(None)), colour)
        result = coarse_map(pixels, ColourEncoder(), colour_targets(), HeatmapSettings(sizes=(0,)))  # type: ignore[arg-type]
        assert np.ptp(result.anomaly) < 1e-5
        assert result.anomaly.mean() == pytest.approx(expected, abs=1e-3)
        assert result.image_score == pytest.approx(expected, abs=1e-3)


def test_scales_vote_with_their_logits() -> None:
    encoder, targets, pixels = tiny_encoder(), random_targets(), photo(64, 64)
    alone = [coarse_map(pixels, encoder, targets, HeatmapSettings(sizes=(size,))) for size in (32, 64)]
    both = coarse_map(pixels, encoder, targets, HeatmapSettings(sizes=(32, 64)))
    small, large = (torch.logit(torch.from_numpy(result.types)) for result in alone)
    mean = (F.interpolate(small[None], (8, 8), mode="bilinear")[0] + large) / 2
    np.testing.assert_allclose(both.types, mean.sigmoid().numpy(), atol=1e-4)
    swapped = coarse_map(pixels, encoder, targets, HeatmapSettings(sizes=(64, 32)))
    np.testing.assert_allclose(swapped.anomaly, both.anomaly, atol=1e-6)


def test_tiles_leave_no_trace_where_features_do_not_depend_on_them() -> None:
    pixels = smooth_photo(240, 320)
    settings = HeatmapSettings(sizes=(0,), smoothing=0.0)
    whole = coarse_map(pixels, ColourEncoder(), colour_targets(), settings)  # type: ignore[arg-type]
    encoder = ColourEncoder()
    tiled = coarse_map(pixels, encoder, colour_targets(), replace(settings, tile=90, overlap=0.4))  # type: ignore[arg-type]
    np.testing.assert_allclose(tiled.anomaly, whole.anomaly, atol=1e-6)
    assert tiled.image_score is None
    assert len(encoder.shapes) > 4
    assert all(batch <= 4 and height <= 90 and width <= 90 for batch, _, height, width in encoder.shapes)


def test_tiles_of_a_real_tower_leave_no_seams() -> None:
    """A tower sees other neighbours in a tile, so maps differ; but where tiles end, nothing jumps."""
    encoder, targets, pixels = tiny_encoder(), random_targets(), smooth_photo(192, 288)
    settings = HeatmapSettings(sizes=(0,), smoothing=0.0, temperature=0.5)
    whole = coarse_map(pixels, encoder, targets, settings).types
    tiled = coarse_map(pixels, encoder, targets, replace(settings, tile=96, overlap=0.25)).types
    assert 1e-4 < np.abs(tiled - whole).mean() < 0.05
    steps = np.abs(np.diff(tiled - whole, axis=2)).mean(axis=(0, 1))
    starts = {tile.left for tile in cut((24, 36), 12, 0.25)}
    borders = sorted({side - 1 for start in starts for side in (start, start + 12) if 0 < side < 36})
    elsewhere = np.delete(steps, borders)
    assert steps[borders].mean() < 1.4 * elsewhere.mean()  # 1.9 where tiles are averaged without fading


def test_tiles_of_nano_leave_no_seams() -> None:
    """The map of tiles differs from that of the whole, but along their borders no more than elsewhere."""
    segmenter = AnomalySegmenter.from_preset("nano", product="part", device="cpu", sam=False)
    settings = replace(segmenter.preset.heatmap, sizes=(512,))
    cells, side = 512 // segmenter.clip.patch_size, 240 // segmenter.clip.patch_size
    starts = {tile.left for tile in cut((cells, cells), side, settings.overlap)}
    borders = sorted({edge - 1 for start in starts for edge in (start, start + side) if 0 < edge < cells})
    ratios = []
    for seed in (3, 5, 7):
        pixels = render(seed, 512, 512, p_normal=0.0).image
        whole, tiled = (
            logit(coarse_map(pixels, segmenter.clip, segmenter.targets, replace(settings, tile=tile)).types)
            for tile in (512, 240)
        )
        assert np.abs(tiled - whole).mean() > 1e-3  # it was tiled
        for along, other in ((1, 2), (2, 1)):
            steps = np.abs(np.diff(tiled - whole, axis=along)).mean(axis=(0, other))
            ratios.append(steps[borders].mean() / np.delete(steps, borders).mean())
    assert np.mean(ratios) < 1.4


def test_up_to_twice_a_tile_a_photo_is_seen_in_one_piece() -> None:
    """So its map is that of a tower without tiles, which tiles of half its sides missed by 0.03 to 0.06."""
    segmenter = AnomalySegmenter.from_preset("nano", product="part", device="cpu", sam=False)
    settings = replace(segmenter.preset.heatmap, sizes=(512,))
    for seed in (3, 5):
        pixels = render(seed, 512, 400, p_normal=0.0).image
        whole, tiled = (
            coarse_map(pixels, segmenter.clip, segmenter.targets, replace(settings, tile=tile))
            for tile in (512, 256)
        )
        assert np.abs(tiled.anomaly - whole.anomaly).max() < 0.02
        assert tiled.image_score == whole.image_score


def test_the_attention_of_the_settings_is_used() -> None:
    encoder, targets, pixels = tiny_encoder(), random_targets(), photo(48, 64)
    maps = [
        coarse_map(
            pixels, encoder, targets, HeatmapSettings(sizes=(64,), attention=mode, attention_blocks=blocks)
        ).types
        for mode, blocks in [*((mode, None) for mode in ATTENTIONS if mode != "proxy"), ("v-v", 4)]
    ]
    for i, one in enumerate(maps):
        assert all(np.abs(one - other).max() > 1e-4 for other in maps[i + 1 :])


def test_a_score_that_nobody_wants_changes_nothing_else() -> None:
    encoder, targets, pixels = tiny_encoder(), random_targets(), smooth_photo(48, 64)
    full = coarse_map(pixels, encoder, targets)
    spared = coarse_map(pixels, encoder, targets, scored=False)
    assert (full.image_score is None, spared.image_score) == (False, None)
    np.testing.assert_allclose(full.anomaly, spared.anomaly, atol=1e-6)
    np.testing.assert_allclose(full.types, spared.types, atol=1e-6)


def test_shares_name_a_defect_and_do_not_grow_with_how_striking_it_is() -> None:
    logits = np.array([[3.0, 1.0, -30.0], [2.0, 2.0, 30.0]])[:, None]  # three places of two types
    types = (1 / (1 + np.exp(-logits))).astype(np.float32)
    shares = CoarseMap(types[0], types, ("scratch", "hole"), None).shares
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(shares[0, 0, :2], 1 / (1 + np.exp([-1.0, 1.0])), atol=1e-4)
    assert types[1, 0, 0] == pytest.approx(types[1, 0, 1])  # as much of a hole in either place
    assert shares[1, 0, 0] < shares[1, 0, 1]  # but the first one is rather a scratch
    assert shares[0, 0, 2] < 1e-6


def test_the_same_photo_gives_the_same_map_and_read_only_arrays_are_fine() -> None:
    encoder, targets, pixels = tiny_encoder(), random_targets(), photo(48, 64)
    first = coarse_map(pixels, encoder, targets)
    pixels.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = coarse_map(pixels, encoder, targets, HeatmapSettings())
        coarse_map(pixels, encoder, targets, HeatmapSettings(sizes=(0,)))
    np.testing.assert_array_equal(first.anomaly, again.anomaly)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attention": "w-w"},
        {"layers": (0,)},
        {"layer_merge": "max"},
        {"windows": ()},
        {"windows": (0, 2)},
        {"sizes": ()},
        {"sizes": (518, -1)},
        {"temperature": 0.0},
        {"sharpness": 0.0},
        {"smoothing": 1.0},
        {"tile": 0},
        {"overlap": 1.0},
    ],
)
def test_settings_that_make_no_map_are_refused(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(UsageError, match=f"^{name} = "):
        HeatmapSettings(**wrong)  # type: ignore[arg-type]


def test_layers_are_merged_by_their_logits() -> None:
    encoder, targets, pixels = tiny_encoder(), random_targets(), photo(64, 64)
    alone = [
        torch.logit(
            torch.from_numpy(
                coarse_map(pixels, encoder, targets, HeatmapSettings(sizes=(64,), layers=(n,))).types
            )
        )
        for n in (2, 4)
    ]
    for merge, expected in (("mean", (alone[0] + alone[1]) / 2), ("sum", alone[0] + alone[1])):
        settings = HeatmapSettings(sizes=(64,), layers=(2, 4), layer_merge=merge)
        both = coarse_map(pixels, encoder, targets, settings).types
        np.testing.assert_allclose(both, expected.sigmoid().numpy(), atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 0.01


def test_a_square_stretches_the_photo() -> None:
    encoder = ColourEncoder()
    pixels = green_photo(80, 160, (slice(20, 40), slice(0, 40)), (200, 0, 0))
    settings = HeatmapSettings(sizes=(96,), square=True, smoothing=0.0)
    found = coarse_map(pixels, encoder, colour_targets(), settings)  # type: ignore[arg-type]
    assert encoder.shapes == [(1, 3, 96, 96)]
    assert found.anomaly.shape == (80, 160)
    assert found.anomaly[30, 15] > 0.9
    assert found.anomaly[60, 100] < 0.01
