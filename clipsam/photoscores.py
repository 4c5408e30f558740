"""The score of a whole photo from its comparison with others: its highest distances, and scores of its like.

Input: distances of patches [h, w], scores and embeddings of photos. Output: a distance or a score. Sources:
AnomalyDINO (Damm et al., WACV 2025, arXiv 2405.14529) and MuSc (Li et al., ICLR 2024, arXiv 2401.16753).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


def highest_mean(distances: Tensor, part: float, inside: NDArray[np.bool_] | None = None) -> Tensor:
    """Mean of the highest `part` of distances [h, w], of one at least (AnomalyDINO): a scalar.

    `inside` [H, W]: the pixels that count; a patch with any of them does, and without one the mean is 0.
    """
    if inside is not None:
        whole = torch.from_numpy(np.ascontiguousarray(inside))[None, None].float()
        distances = distances[F.adaptive_max_pool2d(whole, distances.shape)[0, 0] > 0]
    if not distances.numel():
        return torch.zeros(())
    return distances.flatten().topk(max(round(part * distances.numel()), 1)).values.mean()


def rescored(score: Tensor, scores: Tensor, likeness: Tensor, windows: Sequence[int]) -> Tensor:
    """A photo's score among those of its like: MuSc's re-scoring with constrained neighbourhoods (RsCIN).

    `scores` [n] of other photos and their `likeness` [n] to this one, cosines of the embeddings of whole
    photos. For every window k the k most alike, of which the first is the photo itself (likeness 1), are
    averaged with their likeness as weights, then the means of all windows. MuSc stretches scores to [0, 1]
    before, which changes no ranking, as every average is linear.
    """
    order = likeness.argsort(descending=True)
    weights = torch.cat([torch.ones(1), likeness[order].clamp(min=0)])
    known = torch.cat([score[None], scores[order]])
    found = [(weights[:k] * known[:k]).sum() / weights[:k].sum() for k in windows]
    return torch.stack(found).mean()
