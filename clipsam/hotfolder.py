"""A hot folder: which photos in it are whole, which were picked before, and where they go afterwards.

Input: a folder that cameras write into. Output: arrivals, each once, and their moves. A file is whole when
its size and time have stood still for a while; whether it can be decoded is for its reader to say. Knows
nothing of models and results.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipsam.errors import UsageError
from clipsam.finding import RUN_FILES, SUFFIXES

PICKED = ".clipsam-picked"  # photos that are being inspected, where they are moved afterwards
BUCKETS = ("ok", "ng", "error")


@dataclass(frozen=True)
class Arrival:
    """A file that stands still: `path` is where it can be read now, `name` its path in the hot folder."""

    path: Path
    name: Path
    size: int
    mtime_ns: int


@dataclass
class _Candidate:
    """A file that was seen and not handed out yet."""

    size: int
    mtime_ns: int
    since: float  # of this size and time, monotonic seconds
    not_before: float = 0.0  # it could not be decoded, and is tried again then


class HotFolder:
    """One hot folder. `move_to` has the buckets ok, ng and error that photos go to; None: they stay.

    `settle` seconds a file must stand still; `journal` remembers photos that stay, across restarts. Hidden
    files and folders, run folders and the buckets are left alone. Raises `UsageError` for no folder.
    """

    def __init__(
        self, folder: Path, *, move_to: Path | None = None, settle: float = 1.0, journal: Path | None = None
    ) -> None:
        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder; expected the one that photos arrive in")
        self.folder = folder.absolute()
        self.move_to = None if move_to is None else move_to.absolute()
        self._settle = settle
        self._seen = _Seen(journal) if move_to is None else None
        self._waiting: dict[Path, _Candidate] = {}

    @property
    def waiting(self) -> int:
        """Files that are there and not whole yet."""
        return len(self._waiting)

    def arrivals(self) -> list[Arrival]:
        """Photos that stand still and are not done, the oldest first."""
        present = dict(self._scan())
        self._waiting = {path: seen for path, seen in self._waiting.items() if path in present}
        ready = [(path, status) for path, status in present.items() if self._stands_still(path, status)]
        ready.sort(key=lambda found: (found[1].st_mtime_ns, found[0]))
        return [Arrival(path, path.relative_to(self.folder), s.st_size, s.st_mtime_ns) for path, s in ready]

    def pick(self, arrival: Arrival) -> Arrival | None:
        """Take a photo that was decoded, in one step that only one process can win; None where it is gone.

        None too where it was written to in between: it is then an arrival again.
        """
        if self.move_to is None or arrival.path != self.folder / arrival.name:
            return arrival
        picked = self.folder / PICKED / arrival.name
        picked.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(arrival.path, picked)
        except FileNotFoundError:
            self.forget(arrival)
            return None
        status = picked.stat()
        if (status.st_size, status.st_mtime_ns) != (arrival.size, arrival.mtime_ns):
            os.rename(picked, arrival.path)
            return None
        return Arrival(picked, arrival.name, arrival.size, arrival.mtime_ns)

    def left_behind(self) -> list[Arrival]:
        """Photos that an earlier process picked and did not finish."""
        if self.move_to is None:
            return []
        root = self.folder / PICKED
        found = [(path, path.stat()) for path in sorted(root.rglob("*")) if path.is_file()]
        return [Arrival(path, path.relative_to(root), s.st_size, s.st_mtime_ns) for path, s in found]

    def wait_for(self, arrival: Arrival, seconds: float) -> None:
        """It could not be decoded, and may be half-written: it arrives again when it has changed, or after
        `seconds`.
        """
        seen = self._waiting.get(self.folder / arrival.name)
        if seen is not None:
            seen.not_before = time.monotonic() + seconds

    def stood_still(self, arrival: Arrival) -> float:
        """For how many seconds the file has had this size and time."""
        seen = self._waiting.get(self.folder / arrival.name)
        return math.inf if seen is None else time.monotonic() - seen.since

    def place(self, arrival: Arrival, bucket: str) -> Path:
        """Where the photo will be found when it is done: a name that is free, or where it is."""
        if self.move_to is None:
            return arrival.path
        return _free(self.move_to / bucket / arrival.name)

    def finish(self, arrival: Arrival, place: Path) -> None:
        """The photo is done, and its row written: move it to its place, never to pick it again."""
        if place != arrival.path:
            _move(arrival.path, place)
        elif self._seen is not None:
            self._seen.add(arrival)
        self.forget(arrival)

    def forget(self, arrival: Arrival) -> None:
        """The photo is gone, or done."""
        self._waiting.pop(self.folder / arrival.name, None)

    def _stands_still(self, path: Path, status: os.stat_result) -> bool:
        if self._seen is not None and self._seen.has(path, status.st_size, status.st_mtime_ns):
            return False
        now = time.monotonic()
        seen = self._waiting.get(path)
        if seen is None or (seen.size, seen.mtime_ns) != (status.st_size, status.st_mtime_ns):
            # What was last written long ago need not be watched: after a restart a full folder goes at once.
            age = min(max(time.time() - status.st_mtime, 0.0), self._settle)
            seen = self._waiting[path] = _Candidate(status.st_size, status.st_mtime_ns, now - age)
        stands = now - seen.since >= self._settle - 1e-6  # sums of times are rounded
        return stands and now >= seen.not_before

    def _scan(self) -> Iterator[tuple[Path, os.stat_result]]:
        buckets = set() if self.move_to is None else {self.move_to / bucket for bucket in BUCKETS}
        for root, folders, names in os.walk(self.folder):
            here = Path(root)
            if RUN_FILES.issubset(names):
                folders.clear()
                continue
            folders[:] = [name for name in folders if name[0] != "." and here / name not in buckets]
            for name in names:
                path = here / name
                if name[0] == "." or path.suffix.lower() not in SUFFIXES:
                    continue
                try:
                    yield path, path.stat()
                except OSError:  # gone since it was listed
                    continue


class _Seen:
    """Photos that were done and stay where they are: a line per photo, in a file that survives restarts."""

    def __init__(self, journal: Path | None) -> None:
        self._done: dict[str, tuple[int, int]] = {}
        self._journal = journal
        if journal is not None:
            self._read(journal)

    def _read(self, journal: Path) -> None:
        if journal.exists():
            for line in journal.read_bytes().splitlines():
                try:
                    path, size, mtime_ns = json.loads(line)
                except ValueError:  # the unfinished line of a kill
                    continue
                if os.path.lexists(path):  # what is gone cannot come twice
                    self._done[path] = (size, mtime_ns)
        journal.parent.mkdir(parents=True, exist_ok=True)
        fresh = journal.with_suffix(".new")
        fresh.write_bytes(b"".join(_line(path, *marks) for path, marks in self._done.items()))
        os.replace(fresh, journal)

    def has(self, path: Path, size: int, mtime_ns: int) -> bool:
        return self._done.get(str(path)) == (size, mtime_ns)

    def add(self, arrival: Arrival) -> None:
        self._done[str(arrival.path)] = (arrival.size, arrival.mtime_ns)
        if self._journal is not None:
            with self._journal.open("ab") as file:
                file.write(_line(str(arrival.path), arrival.size, arrival.mtime_ns))


def _move(path: Path, place: Path) -> None:
    """Move a file; whoever watches the target sees the whole of it or nothing, on another disk too.

    Should another watch have taken the name since it was chosen, the next free one is taken: a photo is never
    overwritten.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    source = path
    if path.stat().st_dev != place.parent.stat().st_dev:
        source = place.with_name(f".{place.name}.{os.getpid()}.new")
        shutil.copy2(path, source)
        with source.open("rb") as copy:
            os.fsync(copy.fileno())  # the original goes next
    target = place
    while not _named(source, target):
        target = _free(place)
    if source != path:
        path.unlink()


def _named(source: Path, target: Path) -> bool:
    """Give a file another name in one step; False if that is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        if os.path.lexists(target):  # no hard links here, such as on some shares: there is no one step
            return False
        os.rename(source, target)
        return True
    source.unlink()
    return True


def _free(place: Path) -> Path:
    """`place`, or the first of place-1, place-2 ... that no file has."""
    found, number = place, 1
    while os.path.lexists(found):
        found = place.with_name(f"{place.stem}-{number}{place.suffix}")
        number += 1
    return found


def _line(path: str, size: int, mtime_ns: int) -> bytes:
    return json.dumps([path, size, mtime_ns]).encode("ascii") + b"\n"
