"""Programs of ONNX: traced modules as .onnx files, run by ONNX Runtime on the CPU.

Input and output: see `runtime.Runtime`. Its packages are imported when they are needed: `onnxruntime` runs a
program, `onnx` and `onnxscript` only write one. Knows nothing of models.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipsam.errors import MissingExtra
from clipsam.programs.runtime import Arrays

_MARK = "clipsam.weights"


class OnnxRuntime:
    """A `Runtime`."""

    title, suffix, fixes_size = "ONNX", ".onnx", False
    precisions: tuple[str, ...] = ("float32",)

    def need_to_run(self, precision: str) -> None:
        _onnxruntime()

    def need_to_make(self, precision: str) -> None:
        _onnxruntime()
        try:
            import onnx  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise MissingExtra("export to ONNX", "onnx") from error

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
        with _quietly(), torch.inference_mode(False), torch.no_grad():
            program = torch.onnx.export(traced, dynamo=True, optimize=True, verbose=False)
        assert program is not None  # with dynamo it never is
        program.model.metadata_props[_MARK] = mark
        made = path.with_name(f".{os.getpid()}-{path.name}")
        program.save(made, external_data=False)
        made.replace(path)

    def mark(self, path: Path) -> str:
        about = _session(path).get_modelmeta().custom_metadata_map
        return str(about.get(_MARK, ""))

    def load(
        self, path: Path, size: tuple[int, int], precision: str
    ) -> Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]:
        session = _session(path)
        name = session.get_inputs()[0].name

        def run(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            return list(session.run(None, {name: values}))

        return run


def _session(path: Path) -> Any:
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    # Threads that spin between photos take the cores from decoding and writing.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporter tells of every pass that it makes."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("running programs of ONNX", "onnx") from error
    onnxruntime.disable_telemetry_events()  # its builds for Windows have them
    return onnxruntime
