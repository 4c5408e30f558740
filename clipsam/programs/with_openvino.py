"""Programs of OpenVINO: traced modules as its own files, run on the CPU in float32, bfloat16 or int8.

Input and output: see `runtime.Runtime`. Its packages are imported when they are needed, and never report
home. Knows nothing of models.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipsam.errors import MissingExtra, UsageError
from clipsam.programs.runtime import Arrays
from clipsam.programs.telemetry import silence

_MARK = ["clipsam", "weights"]


class OpenVino:
    """A `Runtime`."""

    title, suffix, fixes_size = "OpenVINO", ".xml", True
    precisions: tuple[str, ...] = ("float32", "bfloat16", "int8")

    def need_to_run(self, precision: str) -> None:
        able = _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bfloat16" and "BF16" not in able:
            raise UsageError("this CPU does not compute in bfloat16; export without --bfloat16")

    def need_to_make(self, precision: str) -> None:
        self.need_to_run(precision)
        if precision == "int8":
            need_nncf()

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
        openvino = _openvino()
        model = openvino.convert_model(traced, **({"input": [1, 3, *size]} if size else {}))
        if pictures:
            from clipsam.programs.quantise import quantised

            model = quantised(model, pictures, exact)
        model.set_rt_info(mark, _MARK)
        # A program exists once its .xml does: a kill in between leaves nothing that would be taken for one.
        made = path.with_name(f".{os.getpid()}-{path.name}")
        openvino.save_model(model, made, compress_to_fp16=False)
        made.with_suffix(".bin").replace(path.with_suffix(".bin"))
        made.replace(path)

    def mark(self, path: Path) -> str:
        model = _openvino().Core().read_model(path)
        return str(model.get_rt_info(_MARK).astype(str)) if model.has_rt_info(_MARK) else ""

    def load(
        self, path: Path, size: tuple[int, int], precision: str
    ) -> Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]:
        core = _openvino().Core()
        model = core.read_model(path)
        model.reshape([1, 3, *size])  # a program of all sizes runs as fast as one of its own once it has one
        how = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            # else bfloat16, where the CPU has it, would be taken unasked
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
        }
        program = core.compile_model(model, "CPU", how)
        count = len(program.outputs)

        def run(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            answer = program(values)
            return [np.array(answer[number]) for number in range(count)]  # the next call writes over these

        return run


def _openvino() -> Any:
    silence()
    try:
        import openvino
    except ImportError as error:
        raise MissingExtra("running programs of OpenVINO", "openvino") from error
    return openvino


def need_nncf() -> Any:
    """The library that quantises; `MissingExtra` where it is not installed."""
    silence()
    try:
        import nncf
    except ImportError as error:
        raise MissingExtra("export to int8", "int8") from error
    return nncf
