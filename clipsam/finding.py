"""Finding photos: files, folders and glob patterns to a sorted list of paths.

Input: what a user names. Output: `FoundPhotos`. Opens no file; whether a path holds a readable photo is for
`clipsam/images.py` to say.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsam.errors import UsageError

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pnm"}
)
RUN_FILES = frozenset({"run.json", "results.jsonl"})  # a folder that holds these is a run, not photos


@dataclass(frozen=True)
class FoundPhotos:
    """What was found: absolute paths, sorted; what was passed over and why; the folder above all inputs."""

    photos: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...]
    root: Path


def find_photos(inputs: Sequence[str | Path]) -> FoundPhotos:
    """Expand files, folders (with all sub-folders) and glob patterns to photo paths.

    In folders, files count as photos by their suffix; hidden files and folders are left out; other files,
    folders met twice (links may form loops) and run folders are listed in `skipped`. A file that is named
    outright is kept whatever it is, and so is one that does not exist: reading it then says what is wrong,
    and nothing vanishes. Sorted by path; a file that is reached twice, also through links, counts once.
    """
    if not inputs:
        raise UsageError("no photos named; expected photos, folders or glob patterns")
    skipped: list[tuple[Path, str]] = []
    folders_seen: set[str] = set()
    found: list[Path] = []
    roots: list[str] = []
    for given in inputs:
        named, root = _expand(given)
        roots.append(root)
        for path in named:
            if not path.is_dir():
                found.append(path)
                continue
            inside = list(_walk(path, folders_seen, skipped))
            if not inside:
                skipped.append((path, "no photos in this folder"))
            found.extend(inside)
    photos = _without_duplicates(sorted(set(found), key=lambda path: path.parts), skipped)
    return FoundPhotos(photos, tuple(skipped), _common_folder(roots))


def _expand(given: str | Path) -> tuple[list[Path], str]:
    """The absolute paths that one input names, and the folder that they are counted from."""
    path = Path(os.path.abspath(Path(given).expanduser()))
    if not os.path.lexists(path) and glob.has_magic(str(path)):
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        fixed = path
        while glob.has_magic(str(fixed)):
            fixed = fixed.parent
        # Matches go by suffix, as in a folder: `*` would otherwise make every stray file an error.
        matches = [match for match in matches if match.is_dir() or match.suffix.lower() in SUFFIXES]
        return matches or [path], str(fixed)
    return [path], str(path if path.is_dir() else path.parent)


def _walk(folder: Path, seen: set[str], skipped: list[tuple[Path, str]]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in seen:
        skipped.append((folder, "this folder was visited before, by another name or through a link"))
        return
    seen.add(real)
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        skipped.append((folder, f"this folder cannot be read: {error.strerror}"))
        return
    if RUN_FILES.issubset(names):
        skipped.append((folder, "this folder holds the results of a run"))
        return
    for name in names:
        path = folder / name
        if name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, seen, skipped)
        elif path.suffix.lower() in SUFFIXES:
            yield path
        else:
            skipped.append((path, "not a photo by its suffix"))


def _without_duplicates(paths: list[Path], skipped: list[tuple[Path, str]]) -> tuple[Path, ...]:
    first: dict[str, Path] = {}
    for path in paths:
        real = os.path.realpath(path)
        if real in first:
            skipped.append((path, f"the same file as {first[real]}"))
        else:
            first[real] = path
    return tuple(first.values())


def _common_folder(folders: list[str]) -> Path:
    try:
        return Path(os.path.commonpath(folders))
    except ValueError as error:  # Windows: on two drives
        raise UsageError(
            "the photos lie on different drives; expected one folder above all - inspect each drive alone"
        ) from error
