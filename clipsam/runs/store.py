"""results.jsonl: one whole line of JSON per photo, appended as the photo is done.

Input: rows (dicts). Output: the file, and the rows it holds. A line that a kill or a power cut left
unfinished is dropped when the file is opened again. The last row of a path counts. Knows nothing of pictures
and models.

A row holds `path` (absolute) and `sha256` of the photo's file (null if it could not be read), the `time` when
it was done (UTC, ISO 8601), and then either `score`, `is_defective`, `regions` (each `box_xyxy`, `area_px`,
`score`, `defect`, `rle`: COCO with counts as text), `seconds` (of the models), `stages` (seconds by stage,
reading and writing too) and `files` (pictures, relative to the run folder), or `error` with `kind` and
`message`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from clipsam.errors import RunError
from clipsam.remote import as_path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from clipsam.result import Segmentation

Row = dict[str, Any]

SYNC_SECONDS = 1.0  # a killed process loses no row; a power cut loses at most those of this time


def result_row(path: Path, sha256: str | None, result: Segmentation, seconds: float) -> Row:
    """The row of a photo that was segmented; its pictures are still to be named in `files`."""
    row = result.to_dict() | {"path": str(path), "sha256": sha256, "seconds": round(seconds, 4)}
    return row | {"stages": {name: round(spent, 4) for name, spent in result.timings.items()}}


def error_row(path: Path, sha256: str | None, kind: str, message: str) -> Row:
    """The row of a photo that could not be read or segmented."""
    return {"path": str(path), "sha256": sha256, "error": {"kind": kind, "message": message}}


def is_suspicious(row: Row) -> bool:
    """Whether a person should look: the calibration's verdict, or else any region above the threshold."""
    if "error" in row:
        return False
    return bool(row["regions"]) if row["is_defective"] is None else bool(row["is_defective"])


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Rows with a score, the highest first; equal ones by path."""
    return sorted((row for row in rows if "error" not in row), key=lambda row: (-row["score"], row["path"]))


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file in its order, the last of each path; `RunError` if it is damaged."""
    rows, _ = _parse(path)
    return list(rows.values())


class ResultStore:
    """An open results file, held by one process: a context manager. `rows` maps a path to its row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)
        self._lock()
        self.rows, whole = _parse(path)
        self._file.truncate(whole)
        self._synced = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def done(self, path: Path, sha256: str) -> Row | None:
        """The row of a photo with these very bytes, if there is one."""
        row = self.rows.get(str(path))
        return row if row is not None and row["sha256"] == sha256 else None

    def append(self, row: Row) -> None:
        """Add a row, in one write. An older row of the same path counts no more."""
        try:
            self._file.write(_line(row))
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written: {error.strerror}") from error
        self.rows.pop(row["path"], None)
        self.rows[row["path"]] = row

    def compact(self) -> None:
        """Write the file anew, by path, only the rows that count; a kill leaves the old or the new file."""
        rows = sorted(self.rows.values(), key=lambda row: as_path(row["path"]).parts)
        lines = [_line(row) for row in rows]
        if self._path.read_bytes() == b"".join(lines):
            return
        fresh = self._path.with_suffix(".jsonl.new")
        file = fresh.open("ab", buffering=0)
        file.truncate(0)
        for line in lines:
            file.write(line)
        os.fsync(file.fileno())
        self._file.close()
        os.replace(fresh, self._path)
        self._file = file

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise RunError(
                f"{self._path.parent}: another process is writing this run; wait or choose another --out"
            ) from error


def _line(row: Row) -> bytes:
    # ASCII with escapes: file names that are no valid Unicode survive too.
    return json.dumps(row, allow_nan=False, separators=(", ", ": ")).encode("ascii") + b"\n"


def _parse(path: Path) -> tuple[dict[str, Row], int]:
    """Rows by path and the number of bytes that hold them; what follows is the unfinished rest of a kill."""
    rows: dict[str, Row] = {}
    whole = position = 0
    broken = 0
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):
        position += len(line)
        row = _row(line)
        if row is None:
            broken = broken or number
        elif broken:
            raise RunError(
                f"{path}, line {broken}: not a row of results; remove the line or start with --overwrite"
            )
        else:
            rows.pop(row["path"], None)
            rows[row["path"]] = row
            whole = position
    return rows, whole


def _row(line: bytes) -> Row | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and _is_whole(row) else None


def _is_whole(row: Row) -> bool:
    rest = {"error"} if "error" in row else {"score", "is_defective", "regions"}
    return {"path", "sha256"} | rest <= row.keys()
