"""Scores of whole photos: the highest distances by a full sort, RsCIN by loops written from the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from clipsam.photoscores import highest_mean, rescored


def test_the_highest_part_is_that_of_a_full_sort():
    distances = torch.rand(20, 30, generator=torch.Generator().manual_seed(0))
    expected = float(np.sort(distances.numpy().ravel())[-6:].mean())
    assert float(highest_mean(distances, 0.01)) == pytest.approx(expected, abs=1e-6)
    assert float(highest_mean(distances, 1e-9)) == float(distances.max())
    assert float(highest_mean(distances, 1.0)) == pytest.approx(float(distances.mean()), abs=1e-6)


def test_only_patches_inside_count_however_large_the_photo_is():
    distances = torch.zeros(4, 6)
    distances[0, 0], distances[3, 5] = 9, 5
    inside = np.zeros((40, 60), bool)
    inside[35:, 55:] = True  # within the last patch
    assert float(highest_mean(distances, 1e-9, inside)) == 5
    assert float(highest_mean(distances, 1.0, inside)) == 5
    assert float(highest_mean(distances, 0.5, np.zeros((40, 60), bool))) == 0


def from_the_paper(scores, embeddings, windows):
    """RsCIN of a whole batch by loops: W is masked to each photo's k most alike, D is the sum of its row."""
    count = len(scores)
    likeness = [[float(a @ b) for b in embeddings] for a in embeddings]
    found = []
    for i in range(count):
        total = 0.0
        for k in windows:
            alike = sorted(range(count), key=lambda j, i=i: -likeness[i][j])[:k]
            degree = sum(likeness[i][j] for j in alike)
            total += sum(likeness[i][j] / degree * scores[j] for j in alike)
        found.append(total / len(windows))
    return found


@pytest.mark.parametrize("windows", [(1,), (1, 2, 3), (1, 8, 9), (40,)])
def test_rescoring_equals_loops_from_the_paper(windows):
    generator = torch.Generator().manual_seed(1)
    embeddings = F.normalize(torch.rand(12, 5, generator=generator), dim=-1)
    scores = torch.rand(12, generator=generator)
    found = []
    for i in range(12):
        others = [j for j in range(12) if j != i]
        found.append(float(rescored(scores[i], scores[others], embeddings[others] @ embeddings[i], windows)))
    assert found == pytest.approx(from_the_paper(scores.tolist(), list(embeddings), windows), abs=1e-5)
    assert (found == pytest.approx(scores.tolist())) == (windows == (1,))


def test_stretching_scores_before_changes_no_ranking():
    generator = torch.Generator().manual_seed(2)
    embeddings = F.normalize(torch.rand(9, 4, generator=generator), dim=-1)
    scores = torch.rand(9, generator=generator) + 3
    stretched = (scores - scores.min()) / (scores.max() - scores.min())
    plain, scaled = (
        from_the_paper(each.tolist(), list(embeddings), (1, 2, 3)) for each in (scores, stretched)
    )
    assert np.argsort(plain).tolist() == np.argsort(scaled).tolist()
