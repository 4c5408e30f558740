"""Calibrations as files: JSON with the promise in words, the thresholds, the good scores and the setup.

Input: a `Calibration` or a path. Output: the other. The thresholds in the file are for readers; they are
computed anew from the scores, and a file where they differ was edited by hand and is refused.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipsam.calibrate import Calibration, PhotoScore
from clipsam.conformal import rate_of
from clipsam.errors import CalibrationError, ClipsamError

FORMAT = "clipsam-calibration-1"


def save_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Write a calibration in one step: nobody meets half a file. Raises `CalibrationError` where it cannot
    be.
    """
    path = Path(path)
    content = {
        "format": FORMAT,
        **calibration.facts(),
        "reading": {"bit_depth": calibration.bit_depth},
        "setup": dict(calibration.setup),
        "good": [asdict(photo) for photo in calibration.good],
        "bad": [asdict(photo) for photo in calibration.bad],
    }
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        os.replace(fresh, path)
    except OSError as error:
        raise CalibrationError(f"{path}: the calibration cannot be written: {error.strerror}") from error
    return path


def check_writable(path: str | Path) -> None:
    """`CalibrationError` where `save_calibration` could not write there: to be known before photos are
    scored for an hour.
    """
    path = Path(path)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "a folder; expected the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.touch()
        fresh.unlink()
    except OSError as error:
        raise CalibrationError(f"{path}: the calibration cannot be written: {error.strerror}") from error


def load_calibration(path: str | Path) -> Calibration:
    """Read a calibration; `CalibrationError` where the file is missing, no calibration, damaged or edited."""
    path = Path(path)
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CalibrationError(
            f"there is no {path}; expected a file that clipsam calibrate --out wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise CalibrationError(f"{path}: cannot be read as a calibration: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise CalibrationError(
            f"{path}: format {found!r}; expected {FORMAT!r}, as clipsam calibrate --out writes it"
        )
    try:
        calibration = Calibration(
            false_alarms=rate_of(content["false_alarms"]),
            good=_photos(content["good"]),
            setup=dict(content["setup"]),
            bad=_photos(content["bad"]),
            bit_depth=content["reading"]["bit_depth"],
            created=str(content["created"]),
        )
        told = [content[name] for name in ("id", "score_threshold", "pixel_threshold")]
    except (KeyError, TypeError, ValueError, ClipsamError) as error:
        raise CalibrationError(
            f"{path}: damaged ({type(error).__name__}: {error}); calibrate anew"
        ) from error
    if told != [calibration.id, calibration.score_threshold, calibration.pixel_threshold]:
        raise CalibrationError(
            f"{path}: its thresholds or its id do not follow from its scores, so it was edited; the promise "
            "no longer holds - calibrate anew, with another --false-alarms if another threshold is wanted"
        )
    return calibration


def _photos(rows: list[dict[str, Any]]) -> tuple[PhotoScore, ...]:
    return tuple(
        PhotoScore(str(row["name"]), str(row["sha256"]), float(row["score"]), float(row["peak"]))
        for row in rows
    )
