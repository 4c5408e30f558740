from __future__ import annotations

import numpy as np
from scipy import special

from clipsam.odds import logit, sigmoid


def test_the_sigmoid_is_scipys() -> None:
    values = np.linspace(-300, 300, 4001, dtype=np.float32)
    np.testing.assert_allclose(sigmoid(values.copy()), special.expit(values), atol=2e-7)
    assert sigmoid(values) is values


def test_the_logit_is_scipys_and_finite_at_0_and_1() -> None:
    values = np.linspace(0, 1, 1001, dtype=np.float32)
    found = np.empty_like(values)
    logit(found, values)
    np.testing.assert_allclose(found, special.logit(np.clip(values.astype(float), 1e-3, 0.999)), atol=1e-4)
