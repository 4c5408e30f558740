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
            return torch.export.export(module.eval(), (example,), dynamic_shapes=(sides,))
        resized = _Positions([])
        with resized:
            module.eval()(example)
        with _Positions(resized.known):
            return torch.export.export(module, (example.clone(),))


def _steps(name: str) -> Any:
    return torch.export.Dim(name, min=LEAST, max=MOST)


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
