"""Compiled towers: the parts of CLIP's image tower and of SAM's image encoder that repeat, as torch.compile
makes them.

Input: loaded models. Output: the same models, whose parts are compiled code from then on. What was compiled
is kept in the cache folder, so that the next process only loads it. Which parts a tower has is its own affair
(`Tower.parts`, `sam_backends.parts`). Knows nothing of sentences, prompts, maps and SAM's decoder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clipsam.errors import UsageError
from clipsam.hashes import cache_folder
from clipsam.heatmap import features_of, patch_grid
from clipsam.sam_backends import parts

if TYPE_CHECKING:
    from clipsam.clip import ClipEncoder
    from clipsam.sam import SamRefiner
    from clipsam.settings import HeatmapSettings

log = logging.getLogger(__name__)

VARIANTS = 64  # of one part: of shapes, of windowed and global blocks; torch gives up after 8
PHOTOS = ((384, 512), (512, 512))  # an oblong first: what is compiled for a square serves squares alone


class Compiled:
    """The method `name` of `owner`, compiled as it is called, until it is `settled`; and anew in a process
    that it travels to. `dynamic`: whether sides of its inputs vary.
    """

    def __init__(self, owner: Any, name: str, dynamic: bool) -> None:
        _prepare()
        self._made_of = (owner, name, dynamic)
        self._eager = getattr(type(owner), name).__get__(owner)
        self._run = torch.compile(self._eager, dynamic=dynamic)

    def attach(self) -> None:
        """Take the method's place."""
        owner, name, _ = self._made_of
        setattr(owner, name, self)

    def settle(self) -> None:
        """From now on no photo waits for the compiler: what no code was made for runs as it always did."""
        self._run = torch._dynamo.run(self._eager)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._run(*given, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return Compiled, self._made_of


def compile_towers(clip: ClipEncoder, sam: SamRefiner | None, settings: HeatmapSettings) -> None:
    """Compile what repeats in both image towers, by running them on blank pictures. Later photos find their
    code made, one for all sizes; batches (of tiles) and very long photos go without.

    The first time on a machine that takes about a minute, later seconds. Code is made for the present number
    of threads: change it before, not after. Raises `UsageError` where torch cannot compile, for want of a C++
    compiler above all.
    """
    _require_compiler()
    log.warning("compiling the image towers: about a minute the first time on this machine, seconds later")
    made = [Compiled(owner, name, dynamic=True) for owner, name in clip.tower.parts()]
    for layer in parts(sam.model, sam.backend) if sam else ():
        made.append(Compiled(layer, "forward", dynamic=False))  # SAM always sees the same square
    for part in made:
        part.attach()
    with _told():
        _warm_up(clip, sam, settings)
    for part in made:
        part.settle()


def eagerly(call: Callable[[], Any]) -> Callable[[], Any]:
    """The same call without compiled code, for as long as it takes: for measuring, in one thread."""

    def called() -> Any:
        with torch.compiler.set_stance("force_eager"):
            return call()

    return called


def _warm_up(clip: ClipEncoder, sam: SamRefiner | None, settings: HeatmapSettings) -> None:
    for photo, size in zip(PHOTOS, (settings.sizes[0], settings.sizes[-1]), strict=True):
        rows, columns = patch_grid(photo, size, clip.patch_size, square=settings.square)
        pixels = torch.zeros(1, 3, rows * clip.patch_size, columns * clip.patch_size)
        features_of(pixels, clip, settings)
    if sam is not None:
        with torch.inference_mode():
            sam._embed(np.zeros((*PHOTOS[-1], 3), np.uint8))


def _prepare() -> None:
    """Where code is kept, unless the user says so, and how torch's compiler is to behave.

    Where the cache folder cannot be written, torch takes one of its own among temporary files.
    """
    import torch._dynamo
    import torch._inductor.config

    folder = cache_folder() / "compiled"
    theirs = os.path.join(tempfile.gettempdir(), "torchinductor_")  # named when libraries import the compiler
    if os.environ.get("TORCHINDUCTOR_CACHE_DIR", theirs).startswith(theirs):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder.absolute())
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        torch._inductor.config.compile_threads = 1  # else a pool of processes stays beside this one
    for limit in ("recompile_limit", "cache_size_limit"):  # its name before and after torch 2.6
        with contextlib.suppress(AttributeError):
            setattr(torch._dynamo.config, limit, max(VARIANTS, getattr(torch._dynamo.config, limit)))


def _require_compiler() -> None:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, RuntimeError) as error:
        raise UsageError(
            "compiling the image towers takes a C++ compiler, and none was found; install one (g++ or "
            "clang++, or let the variable CXX name it), or leave out --compile (compiled=True)"
        ) from error


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """While open, what torch's compiler cannot do is a sentence."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        inner = getattr(error, "inner_exception", error)
        lines = [line for line in str(inner).splitlines() if line.strip()] or [type(inner).__name__]
        reason = next((line for line in lines if "error:" in line), lines[0]).strip()
        raise UsageError(
            f"torch cannot compile the image towers here ({reason}); it takes a C++ compiler and Python's "
            "headers: install them, or leave out --compile (compiled=True)"
        ) from error
