"""UMCI's network against direct computations, and every field of its settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsam.errors import UsageError
from clipsam.umci import (
    ScalePath,
    StripPath,
    TextAttention,
    Umci,
    UmciSettings,
    _enlarge,
    _pool,
    anomaly_logits,
)

SMALL = UmciSettings(width=8, hidden=6)
CHANNELS, DIM = 10, 5


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(settings: UmciSettings = SMALL, levels: int = 2) -> Umci:
    torch.manual_seed(0)
    return Umci(settings, levels, CHANNELS, DIM).eval()


def pass_through(mix: nn.Conv2d) -> None:
    """Make a 3x3 convolution the identity."""
    mix.bias.data.zero_()
    mix.weight.data.zero_()
    mix.weight.data[:, :, 1, 1] = torch.eye(len(mix.weight))


@pytest.mark.parametrize("grid", [(4, 4), (1, 7), (37, 37), (10, 3)])
@torch.no_grad()
def test_any_grid_gives_two_logits_a_place_and_level(grid):
    assert network()(noise(3, 2, *grid, CHANNELS), noise(3, 2, DIM)).shape == (3, 2, 2, *grid)


@torch.no_grad()
def test_pictures_of_a_batch_do_not_mix():
    levels, text = noise(2, 2, 5, 6, CHANNELS), noise(2, 2, DIM, seed=1)
    both = network()(levels, text)
    torch.testing.assert_close(both[1:], network()(levels[1:], text[1:]), atol=1e-6, rtol=0)


@torch.no_grad()
def test_levels_have_stages_of_their_own():
    net, levels, text = network(), noise(1, 2, 4, 4, CHANNELS), noise(1, 2, DIM)
    changed = levels.clone()
    changed[:, 1] += 1 + noise(4, 4, CHANNELS, seed=2)
    before, after = net(levels, text), net(changed, text)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1], after[:, 1])
    same = net(levels[:, :1].expand(-1, 2, -1, -1, -1), text)
    assert not torch.allclose(same[:, 0], same[:, 1])


# --- from the text map on

PRIOR = replace(SMALL, prior=True)
KINDS = 4


def from_the_text_map(settings: UmciSettings = PRIOR, levels: int = 2) -> Umci:
    torch.manual_seed(0)
    return Umci(settings, levels, CHANNELS, DIM, KINDS).eval()


def stirred(net: Umci) -> Umci:
    """The same with last layers that say something, as after training."""
    for stage in (*net.stages, net.words):
        nn.init.normal_(stage.mlp[-1].weight)
    return net


@torch.no_grad()
def test_untrained_it_is_the_text_map():
    levels, text, words = noise(2, 2, 5, 6, CHANNELS), noise(2, 2, DIM), noise(2, 1 + KINDS, 5, 6, seed=2)
    stages = from_the_text_map()(levels, text, words)
    assert stages.shape == (2, 4, 2, 5, 6)
    torch.testing.assert_close(anomaly_logits(stages), words[:, 0])
    assert not torch.allclose(anomaly_logits(stirred(from_the_text_map())(levels, text, words)), words[:, 0])


@torch.no_grad()
def test_without_tokens_the_text_map_is_all_it_reads():
    net = stirred(from_the_text_map(replace(PRIOR, tokens=False), levels=0))
    words = noise(2, 1 + KINDS, 5, 6)
    found = net(None, noise(2, 2, DIM), words)
    assert found.shape == (2, 2, 2, 5, 6)
    torch.testing.assert_close(net(None, noise(2, 2, DIM, seed=3), words), found)
    for channel in range(1 + KINDS):
        changed = words.clone()
        changed[:, channel, 2, 2] += 1
        assert not torch.allclose(net(None, noise(2, 2, DIM), changed), found)


@torch.no_grad()
def test_what_is_told_of_the_text_map_by_hand():
    stage = from_the_text_map(replace(PRIOR, scales=(2, 5))).words
    words = noise(1, 1 + KINDS, 7, 9)
    whole, told = words[0, 0], stage.described(words)[0]
    assert len(told) == KINDS + 7 + 2
    torch.testing.assert_close(told[: 1 + KINDS], words[0] / 4)
    y, x = 3, 4
    expected = [
        (whole[y, x] - whole.mean()) / (whole.std(correction=0) + 0.1) / 2,
        whole.max() / 4,
        whole[2:5, 3:6].max() / 4,
        whole[2:5, 3:6].min() / 4,
        whole[2:5, 3:6].mean() / 4,
        whole[1:6, 2:7].mean() / 4,
        whole[:, x].mean() / 4,
        whole[y].mean() / 4,
    ]
    torch.testing.assert_close(told[1 + KINDS :, y, x], torch.stack(expected))
    torch.testing.assert_close(told[1 + KINDS + 4, 0, 0], whole[:2, :2].mean() / 4)  # no padding in means


@torch.no_grad()
def test_the_map_is_the_softmax_of_the_sum_over_stages():
    stages = noise(2, 3, 2, 4, 5)
    expected = stages.sum(dim=1).softmax(dim=1)[:, 1]
    torch.testing.assert_close(anomaly_logits(stages).sigmoid(), expected)


@torch.no_grad()
def test_the_sentences_decide():
    levels, text = noise(1, 2, 4, 4, CHANNELS), noise(1, 2, DIM)
    net = network()
    assert not torch.allclose(net(levels, text), net(levels, -text), atol=1e-4)


@torch.no_grad()
def test_the_size_of_tokens_does_not_matter():
    net, levels, text = network(), noise(1, 2, 4, 4, CHANNELS), noise(1, 2, DIM)
    torch.testing.assert_close(net(levels, text), net(100 * levels + 3, text), atol=1e-4, rtol=0)


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("keep", [True, False])
@torch.no_grad()
def test_attention_to_the_text_is_torchs(heads, keep):
    ask = TextAttention(replace(SMALL, heads=heads, keep=keep), DIM)
    places, text = noise(2, 8, 9), noise(2, 2, DIM)
    reference = nn.MultiheadAttention(8, heads, kdim=8, vdim=8, batch_first=True)
    reference.in_proj_weight.copy_(torch.cat([torch.eye(8)] * 3))
    reference.in_proj_bias.zero_()
    reference.out_proj.weight.copy_(torch.eye(8))
    reference.out_proj.bias.zero_()
    query = places.transpose(1, 2)
    answer, _ = reference(ask.query(query), ask.key(text), ask.value(text))
    expected = (query + answer if keep else answer).transpose(1, 2)
    torch.testing.assert_close(ask(places, text), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_strips_are_one_value_a_row_plus_one_a_column():
    path = StripPath(SMALL, DIM)
    pass_through(path.mix)
    patches, text = noise(1, 8, 5, 7), noise(1, 2, DIM)
    found = path(patches, text)
    rows = path.ask[0](path.along[0](patches.mean(dim=3)), text)
    columns = path.ask[1](path.along[1](patches.mean(dim=2)), text)
    for y, x in ((0, 0), (4, 6), (2, 3)):
        torch.testing.assert_close(found[..., y, x], rows[..., y] + columns[..., x])


@torch.no_grad()
def test_scales_are_pooled_asked_enlarged_and_summed():
    path = ScalePath(replace(SMALL, scales=(2,)), DIM)
    pass_through(path.mix)
    patches, text = noise(1, 8, 4, 6), noise(1, 2, DIM)
    fine = path.ask[0](patches.flatten(2), text).unflatten(2, (4, 6))
    pooled = F.avg_pool2d(patches, 2)
    coarse = path.ask[1](pooled.flatten(2), text).unflatten(2, (2, 3))
    expected = fine + F.interpolate(coarse, (4, 6), mode="bilinear")
    torch.testing.assert_close(path(patches, text), expected)


def test_squares_stay_over_their_own_patches():
    """A ramp that is pooled and enlarged again is the same ramp between the outer centres, on ragged grids
    too.
    """
    ramp = torch.arange(10.0).expand(1, 1, 10, 10)
    again = _enlarge(_pool(ramp, 3), 3, (10, 10))
    torch.testing.assert_close(again[0, 0, 0, 1:8], ramp[0, 0, 0, 1:8])
    ones = torch.ones(1, 1, 7, 5)
    torch.testing.assert_close(_enlarge(_pool(ones, 9), 9, (7, 5)), ones)


@pytest.mark.parametrize(
    ("depth", "blocks"), [(24, (6, 12, 18, 24)), (12, (3, 6, 9, 12)), (6, (3, 4, 5, 6)), (2, (1, 2))]
)
def test_levels_by_default(depth, blocks):
    assert UmciSettings().levels(depth) == blocks
    assert UmciSettings(blocks=(2, 5)).levels(depth) == (2, 5)
    assert UmciSettings(prior=True, tokens=False).levels(depth) == ()


@pytest.mark.parametrize(
    "change",
    [{"width": 12}, {"heads": 2}, {"strip_kernel": 5}, {"scales": (2,)}, {"hidden": 7}, {"keep": False}],
)
@torch.no_grad()
def test_every_field_changes_the_network(change):
    levels, text = noise(1, 2, 6, 6, CHANNELS), noise(1, 2, DIM)
    plain, changed = network(), network(replace(SMALL, **change))
    assert not torch.allclose(plain(levels, text), changed(levels, text), atol=1e-4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"blocks": (4, 2)}, "rising"),
        ({"width": 0}, "above 0"),
        ({"heads": 3}, "divisor"),
        ({"strip_kernel": 4}, "odd"),
        ({"scales": (1,)}, "above 1"),
        ({"tokens": False}, "prior = true"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, said):
    with pytest.raises(UsageError, match=said):
        replace(SMALL, **change)
