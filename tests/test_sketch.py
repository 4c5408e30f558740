"""Sketches: with all components the search is exact, with few it finds near ones at their true distance."""

from __future__ import annotations

import pytest
import torch

from clipsam import sketch
from clipsam.sketch import Sketches, filled, main_components


def features(count: int, width: int = 24, seed: int = 0, axes: int = 6) -> torch.Tensor:
    """Vectors that vary mostly along a few axes, as a tower's do, and a little along all."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(axes, width, generator=torch.Generator().manual_seed(99))
    few = torch.randn(count, axes, generator=generator) @ directions
    return few + 0.05 * torch.randn(count, width, generator=generator)


def sets(views: int = 2) -> list[list[torch.Tensor]]:
    """Five photos of different numbers of patches, rounded as they are kept."""
    return [
        [features(20 + 7 * n, seed=10 * n + v + 1).half().float() for v in range(views)] for n in range(5)
    ]


def exact(queries: list[torch.Tensor], known: list[list[torch.Tensor]]) -> torch.Tensor:
    whole = torch.cat(queries, dim=1)
    return torch.stack([torch.cdist(whole, torch.cat(views, dim=1)).amin(dim=1) for views in known], dim=1)


def test_with_all_components_the_search_is_exact(monkeypatch):
    monkeypatch.setattr(sketch, "BLOCK", 7)  # the queries are cut
    monkeypatch.setattr(sketch, "PAIRS", 300)
    queries, known = [features(30), features(30, seed=77)], sets()
    found = Sketches.of(known, 48)
    near, places = found.nearest(queries)
    torch.testing.assert_close(near.clamp(min=0).sqrt(), exact(queries, known), atol=2e-3, rtol=1e-3)
    numbers = torch.arange(5).expand(30, -1)
    apart = found.distances(queries, numbers, places)
    assert [each.shape for each in apart] == [(30, 5), (30, 5)]
    for view, distances in enumerate(apart):
        for photo in range(5):
            chosen = filled(known[photo][view], 48)[places[:, photo]]
            torch.testing.assert_close(
                distances[:, photo], (queries[view] - chosen).norm(dim=1), atol=1e-4, rtol=1e-4
            )


def test_few_components_find_near_patches_at_their_true_distance():
    queries, known = [features(200)], sets(views=1)
    found = Sketches.of(known, 6)
    near, places = found.nearest(queries)
    distances = found.distances(queries, torch.arange(5).expand(200, -1), places)[0]
    best = exact(queries, known)
    assert near.shape == (200, 5)
    assert (distances >= best - 1e-3).all()
    assert float((distances <= best + 0.01).float().mean()) > 0.8
    assert float((distances - best).mean()) < 0.02 * float(best.mean())


def test_a_repeated_patch_never_stands_in_for_another():
    """Photos have different numbers of patches; the fill of the shorter ones must not be found by mistake."""
    known = [[torch.eye(8)[:2]], [torch.eye(8)]]
    near, places = Sketches.of(known, 8).nearest([torch.eye(8)])
    assert near[:2, 0].abs().max() < 1e-4
    assert near[2:, 0].min() == pytest.approx(2, abs=1e-3)
    assert places[:, 1].tolist() == list(range(8))


@pytest.mark.parametrize("shape", [(60, 12), (12, 60)])
def test_components_are_those_of_a_singular_value_decomposition(shape):
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(3)) * torch.linspace(1, 3, shape[1])
    centred = sample - sample.mean(dim=0)
    axes = main_components(centred, 4)
    expected = torch.linalg.svd(centred, full_matrices=False).Vh[:4].T
    torch.testing.assert_close(axes.T @ axes, torch.eye(4), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(axes @ axes.T, expected @ expected.T, atol=1e-3, rtol=1e-3)
