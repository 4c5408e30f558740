"""Tracing: a module -> the graph of its operations, by `torch.export`.

Input: a module of values [1, 3, H, W]. Output: an `ExportedProgram`, of one size or of all sizes in steps.
Knows nothing of what runs it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LEAST, MOST = 2, 512  # steps of a side that one graph of all sizes serves


def trace(module: nn.Module, size: tuple[int, int] | None, step: int | None) -> Any:
    """The graph for values [1, 3, *size], or, where `size` is None, for all sides that are `LEAST` to `MOST`
    times `step`; the results are those of the module itself.
    """
    height, width = size or (8 * (step or 1), 12 * (step or 1))
    example = torch.rand(1, 3, height, width)
    with torch.inference_mode(False), torch.no_grad():
        if size is None:
            sides = {2 + axis: step * _steps(name) for axis, name in enumerate(("rows", "columns"))}
            with _Sooner():
                return torch.export.export(module.eval(), (example,), dynamic_shapes=(sides,))
        resized = _Positions([])
        with resized:
            module.eval()(example)
        with _Sooner(), _Positions(resized.known):
            return torch.export.export(module, (example.clone(),))


def _steps(name: str) -> Any:
    return torch.export.Dim(name, min=LEAST, max=MOST)


class _Sooner(TorchFunctionMode):
    """The same results by operations that runtimes on a CPU are quicker at: the patches of a photo as rows of
    a matrix product instead of a convolution, and norms of maps [b, h, w, c] as of tokens [b, n, c], which
    saves OpenVINO two changes of layout for each.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.layer_norm and args and args[0].ndim == 4:
            maps, *rest = args
            return func(maps.flatten(1, 2), *rest, **kwargs or {}).unflatten(1, maps.shape[1:3])
        if func is F.conv2d and len(args) == 7 and _cuts_patches(*args):  # as nn.Conv2d calls it
            return _patches(*args[:3])
        return func(*args, **kwargs or {})


def _cuts_patches(
    pixels: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, groups: int
) -> bool:
    side = weight.shape[-1]
    plain = (groups, *padding, *dilation) == (1, 0, 0, 1, 1)
    return plain and pixels.shape[1] == 3 and (*weight.shape[2:], *stride) == (side,) * 4


def _patches(pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of pixels [b, 3, H, W], sides multiples of s, by weights [c, 3, s, s] at stride s."""
    side = weight.shape[-1]
    split = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    rows = split.permute(0, 2, 4, 1, 3, 5).flatten(3)
    return F.linear(rows, weight.flatten(1), bias).permute(0, 3, 1, 2)


class _Positions(TorchFunctionMode):
    """Antialiased resizing, which only position embeddings see: done once, then part of the program.

    Neither OpenVINO nor ONNX has such an operation. The results are kept in the order of the calls, or taken
    from `known`.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.known, self._given = known, iter(list(known))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.interpolate or not kwargs.get("antialias"):
            return func(*args, **kwargs)
        given = next(self._given, None)
        if given is None:
            given = func(*args, **kwargs)
            self.known.append(given)
        return given
