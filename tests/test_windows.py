"""WinCLIP's windows against direct computations: one window, one patch at a time, open_clip's own blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_clip import MEAN, PATCH, STD, TOWERS, save_tiny_clip, tiny_encoder, tiny_model
from torch import Tensor

from clipsam.errors import TowerError, UsageError
from clipsam.heatmap import TextTargets, coarse_map, resize, type_logits
from clipsam.settings import HeatmapSettings
from clipsam.windows import WindowMemory, harmonic_map, harmonic_mean, window_places

GRID = (4, 5)


@pytest.fixture
def pixels() -> Tensor:
    size = (GRID[0] * PATCH, GRID[1] * PATCH)
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(5))


def one_by_one(scores: Tensor, side: int) -> Tensor:
    """The harmonic mean over all windows that hold a patch, patch by patch."""
    rows, columns = scores.shape
    answer = torch.zeros(rows + side - 1, columns + side - 1)
    for y in range(answer.shape[0]):
        for x in range(answer.shape[1]):
            over = [
                float(scores[top, left])
                for top in range(rows)
                for left in range(columns)
                if top <= y < top + side and left <= x < left + side
            ]
            answer[y, x] = len(over) / sum(1 / score for score in over)
    return answer


def directly(visual: Any, picture: Tensor, side: int) -> Tensor:
    """Embeddings [rows, columns, d] of all windows of one picture, each sent through the tower alone."""
    x = visual.conv1(picture[None])[0].permute(1, 2, 0)
    square = visual.positional_embedding[1:].reshape(1, 4, 4, -1).permute(0, 3, 1, 2)
    places = F.interpolate(square, GRID, mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    first = visual.class_embedding + visual.positional_embedding[0]
    found = torch.zeros(GRID[0] - side + 1, GRID[1] - side + 1, visual.proj.shape[1])
    for top in range(found.shape[0]):
        for left in range(found.shape[1]):
            window = (x + places)[top : top + side, left : left + side].flatten(0, 1)
            tokens = visual.ln_pre(torch.cat([first[None], window]))[None]
            for block in visual.transformer.resblocks:
                tokens = block(tokens)
            found[top, left] = F.normalize(visual.ln_post(tokens[0, 0]) @ visual.proj, dim=-1)
    return found


def test_places_of_windows_by_hand() -> None:
    assert window_places((3, 3), 2).tolist() == [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    assert window_places((2, 3), 1).tolist() == [[0], [1], [2], [3], [4], [5]]


def test_harmonic_map_by_hand() -> None:
    """The corner patches have one window, the middle one all four: 4 / (1 + 4/3 + 2 + 4) = 0.48."""
    scores = torch.tensor([[[1.0, 0.75], [0.5, 0.25]]])
    by_hand = [[1, 6 / 7, 0.75], [2 / 3, 0.48, 0.375], [0.5, 1 / 3, 0.25]]
    torch.testing.assert_close(harmonic_map(scores, 2)[0], torch.tensor(by_hand))


@pytest.mark.parametrize("side", [1, 2, 3])
def test_harmonic_map_patch_by_patch(side: int) -> None:
    scores = torch.rand(3, 5, 4) + 0.01
    expected = torch.stack([one_by_one(each, side) for each in scores])
    torch.testing.assert_close(harmonic_map(scores, side), expected)


def test_one_flawless_window_is_enough() -> None:
    scores = torch.full((1, 3, 3), 0.9)
    scores[0, 1, 1] = 0.0
    flawless = harmonic_map(scores, 2)[0]
    assert (flawless[1:3, 1:3] == 0).all()
    assert flawless[0, 0] == pytest.approx(0.9)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_windows_equal_a_direct_computation(
    batch: int, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipsam.windows.WINDOW_BATCH", batch)
    features = tiny_encoder().encode_windows(pixels, (2, 3))
    visual = tiny_model().visual
    normal = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for side, windows in zip((2, 3), features.windows, strict=True):
        with torch.no_grad():
            expected = torch.stack([directly(visual, picture, side) for picture in normal])
        torch.testing.assert_close(windows, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(TOWERS.keys() - {"eva", "eva-fused"}))
def test_nothing_is_left_out_that_a_tower_pools(name: str, pixels: Tensor) -> None:
    """Windows as their tokens alone, through all of every block: what is saved changes nothing."""
    encoder = tiny_encoder(name)
    tower = encoder.tower
    features = encoder.encode_windows(pixels, (2,))
    with torch.no_grad():
        start = tower.embed(encoder._normalised(pixels))
        places = window_places(start.grid, 2)[:3]
        for number, place in enumerate(places):
            chosen = torch.cat([torch.arange(tower.prefix), place + tower.prefix])
            tokens = start.tokens[:, chosen]
            for block in start.blocks:
                tokens = block(tokens)
            expected = F.normalize(tower.pool(tokens), dim=-1)
            torch.testing.assert_close(
                features.windows[0].flatten(1, 2)[:, number], expected, atol=1e-5, rtol=1e-4
            )


def test_patches_are_normed_and_not_projected() -> None:
    visual = tiny_model().visual
    pixels = torch.rand(1, 3, 4 * PATCH, 4 * PATCH)
    with torch.no_grad():
        found = visual.forward_intermediates(pixels, indices=1, normalize_intermediates=True)
    expected = F.normalize(found["image_intermediates"][-1].permute(0, 2, 3, 1), dim=-1)
    features = tiny_encoder(mean=(0, 0, 0), std=(1, 1, 1)).encode_windows(pixels)
    torch.testing.assert_close(features.patches, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tower", ["native", "native-average", "timm", "siglip", "hybrid", "coca"])
def test_a_window_of_the_whole_grid_is_the_whole(tower: str) -> None:
    encoder = tiny_encoder(tower)
    pixels = torch.rand(2, 3, 3 * PATCH, 3 * PATCH)
    features = encoder.encode_windows(pixels, (3,))
    torch.testing.assert_close(features.windows[0][:, 0, 0], features.pooled, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.pooled, encoder.encode_pixels(pixels).pooled, atol=1e-5, rtol=0)


def test_what_cannot_be_cut_is_refused(pixels: Tensor) -> None:
    with pytest.raises(TowerError, match="cannot see windows alone"):
        tiny_encoder("eva").encode_windows(pixels)
    with pytest.raises(UsageError, match="a window of 5 patches does not fit into 4x5"):
        tiny_encoder().encode_windows(pixels, (2, 5))
    with pytest.raises(UsageError, match="layers = "):
        HeatmapSettings(attention="windows", layers=(1,))


def test_the_coarse_map_of_windows_step_by_step() -> None:
    vectors = F.normalize(torch.randn(3, 24, generator=torch.Generator().manual_seed(1)), dim=-1)
    targets = TextTargets(vectors[0], vectors[1:], ("scratch", "hole"), "")
    photo = np.random.default_rng(0).integers(0, 256, (GRID[0] * PATCH, GRID[1] * PATCH, 3), dtype=np.uint8)
    settings = HeatmapSettings(attention="windows", sizes=(0,), smoothing=0.0, temperature=0.2)
    ours = coarse_map(photo, tiny_encoder(), targets, settings)

    features = tiny_encoder().encode_windows(torch.from_numpy(photo).permute(2, 0, 1)[None] / 255)
    expected = []
    for abnormal in vectors[1:]:
        pair = torch.stack([vectors[0], abnormal])
        whole = (features.pooled[0] @ pair.T / 0.2).softmax(-1)[1]
        maps = [
            one_by_one((windows[0] @ pair.T / 0.2).softmax(-1)[..., 1], side)
            for side, windows in zip((2, 3), features.windows, strict=True)
        ]
        expected.append(3 / (1 / whole + 1 / maps[0] + 1 / maps[1]))
    np.testing.assert_allclose(ours.types, torch.stack(expected).numpy(), atol=1e-5)
    alone = HeatmapSettings(attention="windows", windows=(2,), sizes=(0,), smoothing=0.0, temperature=0.2)
    assert np.abs(coarse_map(photo, tiny_encoder(), targets, alone).types - ours.types).max() > 1e-3


def test_harmonic_mean_of_maps() -> None:
    one, other = torch.tensor([[0.2]]), torch.tensor([[0.6, 0.3]])
    torch.testing.assert_close(harmonic_mean([one, other]), torch.tensor([[0.3, 0.24]]))


def test_memory_is_the_mean_of_the_nearest_at_every_size(pixels: Tensor) -> None:
    encoder = tiny_encoder()
    references = torch.rand(3, *pixels.shape[1:], generator=torch.Generator().manual_seed(6))
    known, asked = encoder.encode_windows(references), encoder.encode_windows(pixels)
    ours = WindowMemory.of(known).distance(asked)
    for picture in range(2):
        maps = []
        for side, seen, remembered in zip(
            (1, 2, 3), (asked.patches, *asked.windows), (known.patches, *known.windows), strict=True
        ):
            least = torch.tensor(
                [
                    [min(float(1 - at @ other) / 2 for other in remembered.flatten(0, -2)) for at in row]
                    for row in seen[picture]
                ]
            )
            maps.append(one_by_one(least, side))
        torch.testing.assert_close(ours[picture], torch.stack(maps).mean(dim=0), atol=1e-5, rtol=1e-4)
    assert WindowMemory.of(known).distance(known).max() < 1e-6  # what is remembered is not strange
    with pytest.raises(UsageError, match="the memory holds windows of"):
        WindowMemory.of(known).distance(encoder.encode_windows(pixels, (2,)))


def test_the_score_of_the_whole_is_clips_own(tmp_path: Path) -> None:
    from test_segmenter import preset

    from clipsam.prompts import load_prompts
    from clipsam.segmenter import AnomalySegmenter
    from clipsam.settings import FusionSettings

    encoder = tiny_encoder(cache_dir=tmp_path)
    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    chosen = preset(fusion=FusionSettings(score="whole"))
    segmenter = AnomalySegmenter(chosen, encoder, None, load_prompts("winclip"), "bottle")
    expected = coarse_map(photo, encoder, segmenter.targets, chosen.heatmap).image_score
    found = segmenter.segment(photo)
    assert found.score == expected
    assert found.score != pytest.approx(float(found.anomaly_map.max()), abs=1e-3)


def test_the_score_of_the_coarse_map_is_blind_to_what_comes_after(tmp_path: Path) -> None:
    from test_segmenter import preset

    from clipsam.prompts import load_prompts
    from clipsam.segmenter import AnomalySegmenter
    from clipsam.settings import FusionSettings

    photo = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    chosen = preset(fusion=FusionSettings(score="coarse", edge_weight=2.0))
    encoder = tiny_encoder(cache_dir=tmp_path)
    found = AnomalySegmenter(chosen, encoder, None, load_prompts("winclip"), "bottle").segment(photo)
    assert found.score == float(found.coarse_map.max())
    assert found.score != pytest.approx(float(found.anomaly_map.max()), abs=1e-3)


def test_the_score_of_the_whole_needs_a_whole(tmp_path: Path) -> None:
    from dataclasses import replace

    from test_segmenter import preset

    from clipsam.prompts import load_prompts
    from clipsam.segmenter import AnomalySegmenter
    from clipsam.settings import FusionSettings

    chosen = preset(fusion=FusionSettings(score="whole"))
    chosen = replace(chosen, heatmap=replace(chosen.heatmap, tile=32))
    encoder = tiny_encoder(cache_dir=tmp_path)
    segmenter = AnomalySegmenter(chosen, encoder, None, load_prompts("winclip"), "bottle")
    with pytest.raises(UsageError, match="all of them are cut into tiles"):
        segmenter.segment(np.zeros((60, 90, 3), dtype=np.uint8))


def test_the_protocol_winclip_runs_as_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from clipsam.presets import ClipSpec
    from clipsam.protocol import load_protocol
    from clipsam.scoring import SegmenterRecipe

    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path))
    protocol = load_protocol("winclip")
    assert (protocol.resolution, protocol.prompts, protocol.sam) == (240, "winclip", False)
    stored = ClipSpec("tiny-clip", folder=str(save_tiny_clip(tmp_path / "clip")))
    method = replace(protocol.method(), clip=stored, heatmap=replace(protocol.method().heatmap, sizes=(48,)))
    segmenter = SegmenterRecipe(method, protocol.prompts, sam=protocol.sam, device="cpu").build()
    photo = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)
    found = segmenter.segment(photo)
    features = segmenter.clip.encode_windows(resize(photo, (48, 48))[None] / 255)
    logit = type_logits(features.pooled, segmenter.targets, 0.07)
    assert found.score == pytest.approx(logit.sigmoid().item(), abs=1e-6)
    middle = harmonic_mean(
        [logit.sigmoid()[..., None]]
        + [
            harmonic_map(type_logits(windows[0], segmenter.targets, 0.07).sigmoid(), side)
            for side, windows in zip((2, 3), features.windows, strict=True)
        ]
    )
    assert found.anomaly_map.mean() == pytest.approx(middle.mean().item(), abs=1e-2)
