"""Progress on stderr: a bar with photos/s and the time left, or plain lines where there is no terminal.

Input: the steps of `inspect_photos`. Writes nothing to stdout.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tqdm import tqdm

from clipsam.runs.store import is_suspicious

if TYPE_CHECKING:
    from clipsam.runs.sitting import Step

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """A context manager whose `step` is given to `inspect_photos`."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._start = self._told = time.monotonic()
        self._suspicious = self._errors = self._worked = 0
        self._calibrated = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, step: Step) -> None:
        """One photo is done."""
        self._errors += "error" in step.row
        self._suspicious += is_suspicious(step.row)
        self._calibrated |= step.row.get("is_defective") is not None
        self._worked += not step.resumed
        if sys.stderr.isatty():
            self._draw(step)
        elif time.monotonic() - self._told >= SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            print(self.line(step.number, step.total, self._told - self._start), file=sys.stderr, flush=True)

    def line(self, number: int, total: int, seconds: float) -> str:
        """How far the run is after `seconds`, in words."""
        rate = self._worked / seconds if seconds > 0 else 0.0
        left = f", {(total - number) / rate:.0f} s left" if rate > 0 else ""
        return f"{number}/{total} photos, {rate:.1f} photos/s{left}{self._found()}"

    def _draw(self, step: Step) -> None:
        if self._bar is None:
            self._bar = tqdm(total=step.total, unit="photo", file=sys.stderr, dynamic_ncols=True)
        self._bar.set_postfix_str(self._found().strip(", "), refresh=False)
        if step.resumed:
            # What was done before took no time, and must not flatter the rate and the time left.
            self._bar.initial += 1
            self._bar.n += 1
            self._bar.last_print_n += 1
        else:
            self._bar.update()

    def _found(self) -> str:
        errors = f", {self._errors} not readable" if self._errors else ""
        return f", {self._suspicious} {'defective' if self._calibrated else 'suspicious'}{errors}"
