"""The worker of a run on Ray: a warm segmenter, shards of photos in, rows and the bytes of pictures out.

Input: a function that gives the segmenter; `Ask`s. Output: an `Answer` per photo. A worker writes nothing;
what is wrong stands in its answers. A shard that comes again was with a worker that died: it is then done
with care, so that a photo that kills every worker is found out and gets an error. Knows nothing of Ray.
"""

from __future__ import annotations

import platform
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from clipsam.runs.ahead import map_ahead
from clipsam.runs.manifest import versions
from clipsam.runs.photowork import PhotoWork, Reading, Segmenter, finished_row, read
from clipsam.runs.pictures import PictureOptions, encoded_pictures
from clipsam.runs.store import Row, error_row

DEATHS = 3  # of workers over one photo, the first perhaps over another of its shard, before it is given up
AHEAD = 2  # photos read ahead in a shard: the network's time, not the processor's

Picture = tuple[str, str, bytes]  # kind, file relative to the run folder, contents


@dataclass(frozen=True)
class Ask:
    """One photo to do: its place among all, the name of its pictures, the hash of bytes that are done."""

    place: int
    path: Path
    name: str
    done: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came of one photo. `row` is None where the photo still has the bytes that were done before.

    `failure` says that the segmenter failed on it, `trouble` that this worker cannot work at all.
    """

    place: int
    row: Row | None = None
    pictures: tuple[Picture, ...] = ()
    failure: bool = False
    trouble: str = ""


class Attempts:
    """What was begun and not ended, and how often: outlives the workers, which all ask the same one."""

    def __init__(self) -> None:
        self._begun: Counter[str] = Counter()

    def begin(self, name: str) -> int:
        """How often this was begun before and never ended."""
        self._begun[name] += 1
        return self._begun[name] - 1

    def end(self, name: str) -> None:
        del self._begun[name]


class Worker:
    """Loads once, answers many. `expected` are versions of libraries that must be those of this machine."""

    def __init__(
        self,
        load: Callable[[], Segmenter],
        attempts: Attempts,
        options: PictureOptions,
        bit_depth: int | None = None,
        threads: int | None = None,
        expected: Mapping[str, str] | None = None,
    ) -> None:
        self._attempts = attempts
        self._options = options
        self._bit_depth = bit_depth
        self._work: PhotoWork | None = None
        self._trouble = _other_versions(expected or {})
        if self._trouble:
            return
        try:
            segmenter = load()
            if threads and "torch" in sys.modules:  # the segmenter has brought it along
                from clipsam.devices import compute_on

                compute_on(threads)
            if getattr(segmenter, "compiled", False):  # code does not travel, and is made for so many threads
                segmenter.compile()  # type: ignore[attr-defined]
            self._work = PhotoWork(segmenter, patience=0)  # whether to go on is not for one worker to say
        except Exception as error:
            self._trouble = "".join(traceback.format_exception_only(error)).strip()

    def answers(self, shard: Sequence[Ask]) -> Iterator[Answer]:
        """An answer for each photo, in their order."""
        work = self._work
        if work is None:
            where = f"the worker on {platform.node()} cannot work: {self._trouble}"
            yield from (Answer(ask.place, trouble=where) for ask in shard)
            return
        name = f"shard {shard[0].place}"
        if self._attempts.begin(name):
            yield from self._careful(work, shard)
        else:
            yield from self._quick(work, shard)
        self._attempts.end(name)

    def _quick(self, work: PhotoWork, shard: Sequence[Ask]) -> Iterator[Answer]:
        with ThreadPoolExecutor(1, "read") as reader:
            readings = map_ahead(reader, self._read, shard, weight=lambda _: 1.0, depth=AHEAD, limit=AHEAD)
            for ask, reading in zip(shard, readings, strict=True):
                yield self._answer(work, ask, reading)

    def _careful(self, work: PhotoWork, shard: Sequence[Ask]) -> Iterator[Answer]:
        """One photo after the other, so that there is no doubt which of them a worker died over."""
        for ask in shard:
            name = f"photo {ask.place}"
            if self._attempts.begin(name) >= DEATHS - 1:
                yield Answer(ask.place, _deadly(ask))
            else:
                yield self._answer(work, ask, self._read(ask))
            self._attempts.end(name)

    def _read(self, ask: Ask) -> Reading:
        return read(ask.path, ask.done, self._bit_depth)

    def _answer(self, work: PhotoWork, ask: Ask, reading: Reading) -> Answer:
        photo = reading.photo
        if photo is None:
            return Answer(ask.place, reading.error_row)
        start = time.perf_counter()
        result = work.segment(reading)
        seconds = time.perf_counter() - start
        if isinstance(result, dict):
            return Answer(ask.place, result, failure=result["error"]["kind"] == "failed")
        pictures: list[Picture] = []

        def encode() -> dict[str, str]:
            pictures.extend(encoded_pictures(ask.name, photo.pixels, result, self._options))
            return {kind: file for kind, file, _ in pictures}

        return Answer(ask.place, finished_row(reading, result, seconds, encode), tuple(pictures))


def _deadly(ask: Ask) -> Row:
    message = (
        f"{ask.path}: {DEATHS} workers died over it, out of memory perhaps; look at the photo, or give "
        "workers more memory by fewer --workers"
    )
    return error_row(ask.path, None, "failed", message)  # no hash: a later call tries it again


def _other_versions(expected: Mapping[str, str]) -> str:
    """What differs, in words; empty where nothing does."""
    here = versions()
    other = [
        f"it has {name} {here.get(name, 'not at all')}, and {wanted} is on the machine that started the run"
        for name, wanted in expected.items()
        if here.get(name) != wanted
    ]
    return "; ".join(other)


def shards(asks: Iterable[Ask], size: int) -> list[list[Ask]]:
    """The photos cut into lists of `size`, the last may be shorter."""
    asks = list(asks)
    return [asks[start : start + size] for start in range(0, len(asks), size)]
