"""One model's programs in a folder: found, or made when they are first asked for, and kept.

Input: values of any size. Output: what the module gives for them. A file is `NAME.xml` (`.onnx`) where one
program serves every size, else `NAME-HEIGHTxWIDTH.xml`. Knows nothing of CLIP and SAM.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipsam.errors import UsageError, WeightsError
from clipsam.programs.modules import Exportable
from clipsam.programs.runtime import Runtime
from clipsam.programs.tracing import LEAST, MOST, trace

log = logging.getLogger(__name__)

PICTURES = 48  # rendered ones, from which int8 takes its ranges
KEPT = 16  # loaded programs of one model: photos of ever new aspects must not fill the memory

Program = Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]


@dataclass
class Programs:
    """One model's programs in `folder`; what is missing is made, and kept."""

    folder: Path
    name: str
    module: Exportable
    weights_hash: str
    runtime: Runtime
    precision: str = "float32"

    def __post_init__(self) -> None:
        self._loaded: OrderedDict[tuple[int, int] | None, Program] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """For the way to another process, which finds the same files and loads them itself."""
        return vars(self) | {"folder": self.folder.absolute(), "_loaded": OrderedDict()}

    def __call__(self, values: Tensor) -> list[Tensor]:
        """Values [b, 3, H, W] -> the outputs of the module, float32, batch first."""
        program = self._program((values.shape[-2], values.shape[-1]))
        rows = [program(one[None].float().numpy()) for one in values]
        return [torch.cat([torch.from_numpy(part) for part in parts]) for parts in zip(*rows, strict=True)]

    def path(self, size: tuple[int, int]) -> Path:
        """The file that serves values [1, 3, *size]."""
        whose = self.name if self._any(size) else f"{self.name}-{size[0]}x{size[1]}"
        return self.folder / f"{whose}{self.runtime.suffix}"

    def _any(self, size: tuple[int, int]) -> bool:
        """Whether the program of all sizes serves this one."""
        step = self.module.step
        return step is not None and all(LEAST <= side // step <= MOST for side in size)

    def make(self, size: tuple[int, int]) -> Path:
        """Write the program for values [1, 3, *size]; gives its file, which was perhaps there."""
        path = self.path(size)
        if path.is_file():
            return path
        if not self.folder.is_dir():
            raise WeightsError(
                f"there is no {self.folder} on this machine; expected the folder of clipsam export, which "
                "every machine of a run needs at the same place"
            )
        self.runtime.need_to_make(self.precision)
        only = None if self._any(size) else size
        traced = trace(self.module, only, self.module.step)
        eight = (
            {"pictures": list(self.module.pictures(PICTURES, only)), "exact": self.module.exact()}
            if self.precision == "int8"
            else {}
        )
        try:
            self.runtime.write(traced, path, mark=self.weights_hash, size=only, **eight)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(
                f"{self.runtime.title} cannot take {self.name} at {size[1]}x{size[0]} px ({reason}); run it "
                "without export"
            ) from error
        return path

    def _program(self, size: tuple[int, int]) -> Program:
        key = None if self._any(size) and not self.runtime.fixes_size else size
        if key not in self._loaded:
            path = self.path(size)
            if not path.is_file():
                sizes = "" if self._any(size) else f" for {size[1]}x{size[0]} px"
                log.warning("%s: making the program of %s%s, once", self.folder, self.name, sizes)
                self.make(size)
            same_weights(path, self.name, self.runtime.mark(path), self.weights_hash)
            self._loaded[key] = self.runtime.load(path, size, self.precision)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def same_weights(where: Path, name: str, found: str | None, expected: str) -> None:
    """Raise `WeightsError` where a program comes from other weights."""
    if found != expected:
        raise WeightsError(
            f"{where} was exported from other weights of {name} ({(found or 'none')[:12]}) than are loaded "
            f"({expected[:12]}); export anew with clipsam export"
        )
