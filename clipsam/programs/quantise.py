"""int8: an OpenVINO model -> the same with matrices and convolutions in eight bits, by NNCF.

Input: a model and rendered pictures, from which the ranges of activations are taken. Output: a model that
computes in float32 still what is measured to suffer. Source of the method: NNCF's post-training quantisation,
with smoothed activations for transformers (arXiv 2211.10438). Knows nothing of files and towers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipsam.programs.runtime import Arrays
from clipsam.programs.with_openvino import need_nncf

_PRODUCTS = ("MatMul", "Convolution")


def quantised(model: Any, pictures: Arrays, exact: Sequence[NDArray[np.float32]]) -> Any:
    """`pictures`: inputs [1, 3, H, W]; products with the weights `exact` stay as they are, and those of two
    activations.
    """
    nncf = need_nncf()
    return nncf.quantize(
        model,
        nncf.Dataset(pictures),
        model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(pictures),
        ignored_scope=nncf.IgnoredScope(names=list(_kept(model, exact)), validate=False),
    )


def _kept(model: Any, exact: Sequence[NDArray[np.float32]]) -> Iterator[str]:
    """Names of products that stay in float32; weights are known by their values, since names change."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in _PRODUCTS:
            weight = operation.input_value(1).get_node()
            constant = weight.get_type_name() == "Constant"
            if not constant or any(np.array_equal(weight.data, values) for values in exact):
                yield operation.get_friendly_name()
