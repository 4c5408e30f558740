"""Finding photos: files, folders and glob patterns to a sorted list of paths.

Input: what a user names, URLs of other file systems too. Output: `FoundPhotos`. Opens no file; whether a path
holds a readable photo is for `clipsam/images.py` to say.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipsam.errors import UsageError
from clipsam.remote import RemotePath, is_url, list_remote

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
    if any(map(is_url, inputs)):
        return _find_remote([str(given) for given in inputs])
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


def _find_remote(urls: list[str]) -> FoundPhotos:
    """What `find_photos` does, on one other file system."""
    if len(places := {url.partition("://")[0] if is_url(url) else "this machine" for url in urls}) > 1:
        raise UsageError(
            f"the photos lie on different file systems ({', '.join(sorted(places))}); inspect each alone"
        )
    photos: set[RemotePath] = set()
    skipped: list[tuple[Path, str]] = []
    roots = []
    for url in urls:
        files, root, looked = list_remote(url)
        roots.append(root)
        if not looked:
            photos.update(files)  # named outright
            continue
        runs = _runs_among(files)
        skipped += [(run, "this folder holds the results of a run") for run in sorted(runs)]
        for path in files:
            inside = path.relative_to(root)
            if any(part.startswith(".") for part in inside.parts) or runs.intersection(path.parents):
                continue
            if path.suffix.lower() in SUFFIXES:
                photos.add(path)
            else:
                skipped.append((path, "not a photo by its suffix"))
        if not files:
            skipped.append((root, "no photos in this folder"))
    ordered = sorted(photos, key=lambda path: path.parts)
    above = (roots[0], *roots[0].parents)
    shared = next(folder for folder in above if all(root.is_relative_to(folder) for root in roots))
    return FoundPhotos(tuple(ordered), tuple(skipped), shared)


def _runs_among(files: list[RemotePath]) -> set[RemotePath]:
    """The folders among these files that are run folders."""
    held = {name: {path.parent for path in files if path.name == name} for name in RUN_FILES}
    return set.intersection(*held.values())


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
