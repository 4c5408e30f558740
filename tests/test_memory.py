"""Comparing patches: against plain distances, and by properties that a wrong choice would break."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clipsam import memory
from clipsam.errors import UsageError
from clipsam.memory import Grading, Scaling, cover, draw, join, log_odds, nearest, nearest_few, nearest_one
from clipsam.settings import ConsensusSettings, ReferenceSettings


def patches(count: int, width: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_nearest_is_the_smallest_distance_however_the_queries_are_cut(monkeypatch):
    queries, known = patches(11), patches(50, seed=1)
    monkeypatch.setattr(memory, "BLOCK", 100)  # two queries at a time
    expected = torch.cdist(queries, known).amin(dim=1)
    torch.testing.assert_close(nearest(queries, known), expected, atol=1e-5, rtol=1e-5)


def test_patches_of_one_photo_do_not_count_for_each_other():
    known, photo = patches(12), torch.tensor([0, 1, 2] * 4)
    distances = torch.cdist(known, known)
    distances[photo[:, None] == photo[None]] = float("inf")
    found = nearest(known, known, (photo, photo))
    torch.testing.assert_close(found, distances.amin(dim=1), atol=1e-5, rtol=1e-5)
    assert nearest(known, known, (torch.zeros(12), torch.zeros(12))).isinf().all()


def test_the_cover_is_the_greedy_k_center():
    known = patches(60)
    chosen = [int((known - known.mean(dim=0)).norm(dim=1).argmax())]
    for _ in range(14):
        chosen.append(int(torch.cdist(known, known[chosen]).amin(dim=1).argmax()))
    assert cover(known, 15).tolist() == chosen


def test_the_cover_reaches_what_a_random_choice_misses():
    known = torch.cat([patches(500, 100) * 0.01, patches(3, 100, seed=2) * 5])  # three rare patches
    assert {500, 501, 502} <= set(cover(known, 8).tolist())
    assert sorted(cover(known[:5], 9).tolist()) == [0, 1, 2, 3, 4]  # no patch twice


def test_scaling_gives_each_layer_the_same_weight():
    layers = [patches(400, 3) * 10 + 4, patches(400, 50, seed=1) * 0.1]
    for scaled in Scaling.of(layers)(layers):
        assert float(scaled.square().sum(dim=1).mean()) == pytest.approx(1, abs=0.05)
        assert float(scaled.mean().abs()) < 0.01
    for scaled in Scaling()(layers):
        torch.testing.assert_close(scaled.norm(dim=1), torch.ones(400))


def test_a_channel_that_never_varied_does_not_decide_alone():
    layer = torch.cat([patches(100, 4), torch.full((100, 1), 2.0)], dim=1)
    scaled = Scaling.of([layer])([layer + torch.tensor([0, 0, 0, 0, 0.001])])[0]
    assert float(scaled[:, 4].abs().max()) < 0.1


def test_grading_is_bounded_grows_and_puts_the_tail_at_one_half():
    normal = torch.linspace(1, 2, 1001)
    grading = Grading.of(normal, tail=0.99, steepness=4)
    assert grading.middle == pytest.approx(1.99)
    scores = grading(torch.tensor([0.0, 1.0, 1.99, 4.0, 1e6]))
    assert float(scores[2]) == pytest.approx(0.5)
    assert (scores.diff() > 0).all()
    assert float(scores[0]) >= 0
    assert float(scores[-1]) <= 1
    assert float(Grading.of(torch.zeros(5), 0.99, 4)(torch.tensor(0.1))) > 0.99  # all references alike


def test_draw_is_in_order_without_repeats_and_the_same_for_a_seed():
    first = draw(100, 10, seed=3)
    assert first.tolist() == sorted(set(first.tolist())) == draw(100, 10, seed=3).tolist()
    assert first.tolist() != draw(100, 10, seed=4).tolist()
    assert draw(4, 10, seed=0).tolist() == [0, 1, 2, 3]


def test_the_nearest_few_are_those_of_a_full_sort(monkeypatch):
    queries, known = patches(11), patches(50, seed=1)
    monkeypatch.setattr(memory, "BLOCK", 100)  # two queries at a time
    order = torch.cdist(queries, known).argsort(dim=1)
    assert torch.equal(nearest_few(queries, known, 4).sort(dim=1).values, order[:, :4].sort(dim=1).values)
    assert nearest_few(queries, known[:3], 4).shape == (11, 3)
    distance, place = nearest_one(queries, known)
    torch.testing.assert_close(distance, nearest(queries, known))
    assert torch.equal(place, order[:, 0])


def test_maps_are_joined_as_a_mean_or_by_their_odds():
    text, other, usual = (np.random.default_rng(n).random((4, 5)).astype(np.float32) for n in range(3))
    mean = join(text, other, usual, ReferenceSettings(text_weight=0.4))
    np.testing.assert_allclose(mean, 0.4 * text + 0.6 * other, rtol=1e-6)
    odds = ConsensusSettings(mixing="odds", text_weight=0.2, excess_weight=0.5)
    expected = log_odds(other) + 0.2 * log_odds(text) + 0.5 * (log_odds(text) - log_odds(usual))
    np.testing.assert_allclose(
        log_odds(join(text, other, usual, odds)), np.clip(expected, -6.9, 6.9), atol=1e-2
    )
    no_excess = join(text, other, text, odds)  # the text says what it says of every part
    np.testing.assert_allclose(no_excess, join(text, other, None, odds), atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"mixing": "sum"}, {"excess_weight": 0.3}, {"excess_weight": -1.0, "mixing": "odds"}]
)
@pytest.mark.parametrize("settings", [ReferenceSettings, ConsensusSettings])
def test_a_mixing_that_is_none_is_refused(settings, wrong):
    with pytest.raises(UsageError, match=r"mixing|excess_weight"):
        settings(**wrong)
