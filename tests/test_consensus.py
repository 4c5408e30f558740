"""Consensus: mutual scores equal to a direct computation from the paper, votes, streams, bounded choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_clip import tiny_encoder

from clipsam import consensus as module
from clipsam.consensus import Consensus
from clipsam.errors import UsageError
from clipsam.heatmap import CoarseMap
from clipsam.references import Words
from clipsam.settings import ConsensusSettings, LayerSettings
from clipsam.voting import interval_mean

LAYERS = LayerSettings(size=32, depths=(0.5, 1.0))


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder("native")


def photos(count: int, seed: int = 0) -> list[np.ndarray]:
    """Alike, with noise of their own."""
    rng = np.random.default_rng(seed)
    base = rng.integers(60, 190, (32, 32, 3))
    return [np.clip(base + rng.normal(0, 12, base.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def from_the_paper(pictures, encoder, sides, lowest):
    """MuSc as loops over every layer, neighbourhood, pair of photos and patch: [photos, h*w]."""
    total = None
    for layer in (1, 3):  # of encode_levels([1..4]): blocks 2 and 4
        for side in sides:
            tokens = []
            for pixels in pictures:
                picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
                grid = encoder.encode_levels(picture, [1, 2, 3, 4])[0, layer].half().float()
                height, width, _ = grid.shape
                around = [
                    grid[max(y - side // 2, 0) : y + side // 2 + 1, max(x - side // 2, 0) : x + side // 2 + 1]
                    .flatten(0, 1)
                    .mean(dim=0)
                    for y in range(height)
                    for x in range(width)
                ]
                tokens.append(F.normalize(torch.stack(around), dim=-1))
            scores = []
            for i, own in enumerate(tokens):
                votes = []
                for j, other in enumerate(tokens):
                    if i != j:
                        votes.append([min(float((p - q).norm()) for q in other) for p in own])
                count = max(int(len(votes) * lowest), 1)
                scores.append([sum(sorted(column)[:count]) / count for column in zip(*votes, strict=True)])
            found = torch.tensor(scores)
            total = found if total is None else total + found
    return total / (2 * len(sides))


def test_mutual_scores_equal_the_direct_computation(encoder):
    pictures = photos(7)
    settings = ConsensusSettings(photos=0, patches=0, neighbourhoods=(1, 3, 5), lowest=0.3)
    consensus = Consensus.of(pictures, encoder, LAYERS, settings)
    found = torch.stack([consensus.scores(pixels).flatten() for pixels in pictures])
    expected = from_the_paper(pictures, encoder, (1, 3, 5), 0.3)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=5e-3)  # kept features are float16


def test_the_interval_is_the_lowest_part_and_never_empty():
    votes = torch.tensor([[5.0, 1.0, 3.0, 9.0, 2.0, 4.0, 8.0, 7.0, 6.0, 10.0]])
    assert float(interval_mean(votes, 0.3)) == 2.0
    assert float(interval_mean(votes, 0.05)) == 1.0
    assert float(interval_mean(votes, 1.0)) == 5.5


@pytest.mark.parametrize("scaling", ["unit", "spread"])
def test_what_one_photo_alone_shows_scores_highest(encoder, scaling):
    pictures = photos(6)
    pictures[4] = pictures[4].copy()
    pictures[4][8:16, 16:24] = (250, 5, 5)
    layers = LayerSettings(size=32, depths=(0.25,), cells=(8,), scaling=scaling)
    consensus = Consensus.of(pictures, encoder, layers, ConsensusSettings(neighbourhoods=(1,), smoothing=0))
    anomaly = consensus.anomaly(pictures[4])
    assert anomaly.shape == (32, 32)
    assert anomaly.dtype == np.float32
    assert 0 <= anomaly.min() <= anomaly.max() <= 1
    assert np.unravel_index(anomaly.argmax(), anomaly.shape)[0] // 8 == 1
    assert anomaly[8:16, 16:24].mean() > max(consensus.anomaly(p).max() for p in pictures[:4])


def test_a_photo_has_no_vote_on_itself(encoder):
    pictures = photos(3)
    consensus = Consensus.of([*pictures, pictures[0]], encoder, LAYERS)
    assert consensus.photos == 3
    assert float(consensus.scores(pictures[0]).min()) > 0.01


def test_a_large_batch_keeps_a_bounded_number_of_photos(encoder):
    consensus = Consensus.of(photos(9), encoder, LAYERS, ConsensusSettings(photos=4))
    assert consensus.photos == 4


def test_a_cover_of_each_photo_finds_the_same(encoder):
    pictures = photos(6)
    pictures[4] = pictures[4].copy()
    pictures[4][8:16, 16:24] = (250, 5, 5)
    settings = ConsensusSettings(patches=0, joint=True)
    whole = Consensus.of(pictures, encoder, LAYERS, settings)
    part = Consensus.of(pictures, encoder, LAYERS, replace(settings, patches=8))
    assert {len(views[0]) for views in part._voters.views.values()} == {8}  # of 16
    near, far = whole.scores(pictures[4]), part.scores(pictures[4])
    assert (far >= near - 1e-3).all()
    assert int(near.argmax()) == int(far.argmax())


def test_layers_side_by_side_are_matched_together(encoder):
    pictures = photos(4)
    apart, joint = (
        Consensus.of(pictures, encoder, LAYERS, ConsensusSettings(joint=j)) for j in (False, True)
    )
    assert [len(next(iter(v._voters.views.values()))) for v in (apart, joint)] == [6, 3]
    # one nearest patch for all layers is never nearer than one for each
    squares = [view.scores(pictures[0]).square() for view in (apart, joint)]
    assert (squares[1] > squares[0] - 1e-4).all()


def test_too_few_photos_have_no_consensus(encoder):
    with pytest.raises(UsageError, match="1 different photos has no consensus; expected at least two"):
        Consensus.of(photos(1) * 2, encoder, LAYERS)


def test_a_stream_is_scored_against_what_it_has_shown(encoder):
    pictures = photos(5)
    stream = Consensus(encoder, LAYERS, ConsensusSettings(photos=0))
    answers = [stream.observe(pixels) for pixels in pictures]
    assert answers[:2] == [None, None]
    assert all(answer.shape == (32, 32) for answer in answers[2:])
    batch = Consensus.of(pictures[:4], encoder, LAYERS, ConsensusSettings(photos=0))
    torch.testing.assert_close(batch.scores(pictures[4]), Consensus.scores(stream, pictures[4]))


def test_a_long_stream_keeps_a_uniform_sample(encoder, monkeypatch):
    pictures = [np.full((32, 32, 3), value, dtype=np.uint8) for value in range(40)]
    monkeypatch.setattr(module, "encode_layers", lambda pixels, *_: [torch.ones(1, 1, 1)])
    kept = np.zeros(40)
    for seed in range(60):
        stream = Consensus(encoder, LAYERS, ConsensusSettings(photos=10, seed=seed))
        for pixels in pictures:
            stream._keep(module._hash(pixels), stream._look(pixels))
        kept += [module._hash(pixels) in stream._kept for pixels in pictures]
    assert kept.sum() == 600
    assert abs(kept[:20].sum() - 300) < 50  # early photos as often as late ones


@pytest.mark.parametrize(
    "wrong",
    [
        {"neighbourhoods": (2,)},
        {"neighbourhoods": ()},
        {"lowest": 0},
        {"photos": 1},
        {"sketch": -1},
        {"rescored": (0, 1)},
        {"photo_score": "most"},
        {"highest": 1.5},
        {"tail": 1.0},
        {"steepness": 0},
        {"text_weight": 1.5},
        {"smoothing": 1.0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(UsageError, match="expected"):
        ConsensusSettings(**wrong)


def test_what_the_text_says_of_every_photo_does_not_count(encoder):
    pictures = photos(6)
    for picture in pictures:
        picture[:8, :8] = np.clip(picture[:8, :8] + 60.0, 0, 255)
    settings = ConsensusSettings(mixing="odds", text_weight=0.0, excess_weight=1.0, smoothing=0)
    layers = LayerSettings(size=32, depths=(), cells=(8,), scaling="spread")

    def text(pixels: np.ndarray) -> np.ndarray:
        found = np.full((32, 32), 0.2, np.float32)
        found[:8, :8] = 0.95  # on every photo alike
        return found

    said = text(pictures[0])
    more = said.copy()
    more[16:24, 16:24] = 0.95  # on this one alone
    consensus = Consensus.of(pictures, encoder, layers, settings, Words(text, "words"))
    own, joined = (
        consensus.anomaly(pictures[0]),
        consensus.join(CoarseMap(more, more[None], ("any",), None), pictures[0]).anomaly,
    )
    assert joined[18:22, 18:22].mean() > own[18:22, 18:22].mean() + 0.3
    np.testing.assert_allclose(joined[:3, :3], own[:3, :3], atol=0.05)


@pytest.mark.parametrize("together", [True, False])
def test_sketches_give_nearly_the_scores_of_the_full_search(encoder, together):
    pictures = photos(8)
    pictures[4] = pictures[4].copy()
    pictures[4][8:16, 16:24] = (250, 5, 5)
    full = ConsensusSettings(joint=True, patches=12, sketch=0)
    exact = Consensus.of(pictures, encoder, LAYERS, full)
    quick = Consensus.of(pictures, encoder, LAYERS, replace(full, sketch=8, together=together))
    assert not exact._voters.sketches
    assert len(quick._voters.sketches) == (1 if together else 3)
    assert quick._voters.sketches[0].axes.shape[1] == 8
    for pixels in pictures:
        near, far = exact.scores(pixels), quick.scores(pixels)
        assert (far >= near - 1e-3).all()  # a patch that is not quite the nearest is never nearer
        assert not torch.equal(far, near)
        assert np.corrcoef(near.flatten(), far.flatten())[0, 1] > 0.9
    assert int(quick.scores(pictures[4]).argmax()) == int(exact.scores(pictures[4]).argmax())


def test_what_the_text_says_is_found_by_sketches_too(encoder):
    pictures = photos(6)
    words = Words(lambda pixels: np.linspace(0.1, 0.9, 32 * 32, dtype=np.float32).reshape(32, 32), "words")
    settings = ConsensusSettings(mixing="odds", excess_weight=1.0, patches=12, sketch=0)
    full, quick = (
        Consensus.of(pictures, encoder, LAYERS, replace(settings, sketch=sketch), words)
        for sketch in (0, 1000)
    )
    for pixels in pictures:
        scores, said = full._voters.score(module._hash(pixels), full._look(pixels).layers)
        others, also = quick._voters.score(module._hash(pixels), quick._look(pixels).layers)
        torch.testing.assert_close(scores, others, atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(said, also, atol=0.05, rtol=0.05)


def plain_coarse() -> CoarseMap:
    flat = np.full((32, 32), 0.5, np.float32)
    return CoarseMap(flat, flat[None], ("any",), None)


def test_photos_are_rescored_by_their_like(encoder):
    pictures = photos(7)
    pictures[4] = pictures[4].copy()
    pictures[4][8:16, 16:24] = (250, 5, 5)
    settings = ConsensusSettings(photos=0, patches=0, rescored=(1, 2, 3))
    consensus = Consensus.of(pictures, encoder, LAYERS, settings)
    heights = [float(consensus.scores(pixels).max()) for pixels in pictures]
    wholes = [
        encoder.encode_pixels(torch.from_numpy(p).permute(2, 0, 1)[None].float() / 255, "plain").pooled[0]
        for p in pictures
    ]
    expected = []
    for whole in wholes:
        alike = sorted(
            ((float(whole @ other), height) for other, height in zip(wholes, heights, strict=True)),
            reverse=True,
        )
        means = [sum(w * h for w, h in alike[:k]) / sum(w for w, _ in alike[:k]) for k in (1, 2, 3)]
        expected.append(float(consensus._grading()(torch.tensor(sum(means) / 3))))
    found = [consensus.join(plain_coarse(), pixels).others_score for pixels in pictures]
    assert found == pytest.approx(expected, abs=1e-4)
    alone = Consensus.of(pictures, encoder, LAYERS, replace(settings, rescored=(1,)))
    first = [alone.join(plain_coarse(), pixels).others_score for pixels in pictures]
    assert first == pytest.approx([float(consensus._grading()(torch.tensor(h))) for h in heights], abs=1e-5)
    assert found != pytest.approx(first, abs=1e-3)
    assert Consensus.of(pictures, encoder, LAYERS).join(plain_coarse(), pictures[0]).others_score is None


def test_a_photo_that_has_no_vote_is_rescored_too(encoder):
    pictures = photos(7)
    settings = ConsensusSettings(photos=0, patches=0, rescored=(1, 3))
    consensus = Consensus.of(pictures[:6], encoder, LAYERS, settings)
    assert 0 < consensus.join(plain_coarse(), pictures[6]).others_score < 1


def test_the_score_of_a_photo_can_come_from_the_highest_votes(encoder):
    pictures = photos(6)
    settings = ConsensusSettings(photo_score="distances", highest=0.25)
    consensus = Consensus.of(pictures, encoder, LAYERS, settings)
    distances = consensus.scores(pictures[2])
    expected = consensus._grading()(distances.flatten().sort().values[-4:].mean())
    assert consensus.join(plain_coarse(), pictures[2]).others_score == pytest.approx(float(expected))
    inside = np.zeros((32, 32), bool)
    inside[:8, :8] = True  # one patch
    limited = consensus.join(plain_coarse(), pictures[2], inside).others_score
    assert limited == pytest.approx(float(consensus._grading()(distances[0, 0])))
