"""Runtime: what writes and runs programs. OpenVINO and ONNX Runtime are each a file of their own.

Input: the name of one, and a precision. Output: a `Runtime`. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipsam.errors import UsageError

Arrays = Sequence[NDArray[np.float32]]


class Runtime(Protocol):
    """Writes traced modules to files, and runs these on the CPU."""

    title: str
    suffix: str
    fixes_size: bool  # a loaded program serves one size, whatever its file serves
    precisions: tuple[str, ...]

    def need_to_run(self, precision: str) -> None:
        """Raise `MissingExtra` where a package is missing that running takes, `UsageError` where the CPU
        lacks the precision.
        """

    def need_to_make(self, precision: str) -> None:
        """The same for making programs, and running them."""

    def write(
        self,
        traced: Any,
        path: Path,
        *,
        mark: str,
        size: tuple[int, int] | None,
        pictures: Arrays = (),
        exact: Arrays = (),
    ) -> None:
        """Write a traced module with the hash of its weights; a kill in between leaves no file that would
        be taken for one. `size`: of its input, None for all; `pictures`: quantise to int8 by these, but for
        the weights `exact`.
        """

    def mark(self, path: Path) -> str:
        """The hash that a program was written with, "" where it has none."""

    def load(
        self, path: Path, size: tuple[int, int], precision: str
    ) -> Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """The program, ready for values [1, 3, *size], on as many threads as torch has."""


def find_runtime(backend: str, precision: str) -> Runtime:
    """The runtime of that name; `UsageError` where there is none, or it lacks the precision."""
    from clipsam.programs.with_onnx import OnnxRuntime
    from clipsam.programs.with_openvino import OpenVino

    known: dict[str, Runtime] = {"openvino": OpenVino(), "onnx": OnnxRuntime()}
    if backend not in known:
        raise UsageError(f"there is no export to {backend!r}; expected one of: {', '.join(known)}")
    if precision not in known[backend].precisions:
        raise UsageError(
            f"programs of {known[backend].title} are never in {precision}; expected one of: "
            f"{', '.join(known[backend].precisions)}"
        )
    return known[backend]
