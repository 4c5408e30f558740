"""The error classes of clipsam. Each message is one sentence: what was found, what was expected, how to mend
it.

    ClipsamError
    ├── UsageError      an argument, option or combination of them makes no sense
    ├── PhotoError      a photo cannot be read; `kind` is a short machine-readable reason
    ├── PromptError     a prompt file or defect name is wrong; says file, line and key
    ├── WeightsError    weights are missing, damaged, or not the ones that were recorded
    ├── TowerError      a CLIP tower cannot give what is asked of it (no patch tokens, unknown attention mode)
    ├── CalibrationError  a calibration cannot be made or used (too few photos, another setup, edited)
    ├── RunError        a run folder cannot be used (written by another run, damaged)
    ├── SourceError     a camera or a video cannot be opened, or gives no more frames
    ├── StoreError      the station's store cannot be opened, read or written
    └── MissingExtra    an optional dependency is not installed; says the exact install line

The command line prints the message of a `ClipsamError` without a traceback and exits with 1.
"""

from __future__ import annotations


class ClipsamError(Exception):
    """Base of every error that a user can cause and mend."""


class UsageError(ClipsamError, ValueError):
    """An argument, option or combination of them makes no sense."""


class PhotoError(ClipsamError):
    """A photo cannot be read.

    `kind` is one of `missing`, `empty`, `truncated`, `not-an-image`, `too-large`, `unsupported`,
    `unreadable`, or `other-shape` where it does not fit the region of interest.
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        super().__init__(message)
        self.kind = kind


class PromptError(ClipsamError):
    """A prompt file or a defect name is wrong."""


class WeightsError(ClipsamError):
    """Weights are missing, damaged, or not the ones that were recorded."""


class TowerError(ClipsamError):
    """A CLIP tower cannot give what is asked of it."""


class CalibrationError(ClipsamError):
    """A calibration cannot be made of these photos, or cannot be used with this setup."""


class RunError(ClipsamError):
    """A run folder cannot be used."""


class SourceError(ClipsamError):
    """A camera or a video cannot be opened, or gives no more frames."""


class StoreError(ClipsamError):
    """The station's store cannot be opened, read or written."""


class MissingExtra(ClipsamError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(
            f"{feature} needs an optional dependency; install it with: pip install 'clipsam[{extra}]'"
        )
