"""Photos on other file systems: whatever fsspec opens, s3://, gs://, https://, memory:// ...

Input: URLs. Output: `RemotePath`s, and the bytes behind them. fsspec is imported when the first URL comes;
it brings no cloud's file system itself (s3fs and gcsfs are packages of their own). Knows nothing of photos.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from clipsam.errors import MissingExtra, PhotoError, UsageError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # a Path has only one slash left; and a drive has one letter
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/+|$)")
_SPEAKERS = {
    "s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs",
    "http": "aiohttp requests", "https": "aiohttp requests",
}  # fmt: skip


# To those who check types a RemotePath is a Path, so that photos near and far are of one type. It can do all
# that a Path can do without a disk, and `exists`.
if TYPE_CHECKING:
    _Path = Path
else:
    _Path = PurePosixPath


class RemotePath(_Path):
    """The URL of a file as a path: `parts`, `name`, `relative_to` and so on; `str()` is the URL again."""

    def __str__(self) -> str:
        text = super().__str__()
        found = _SCHEME.match(text)  # which a part of a URL, relative to another, does not have
        return f"{found[1]}://{text[found.end() :]}" if found else text

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is something behind the URL; asks the file system."""
        files, name = _file_system(self)
        return bool(_ask(self, files.exists, name))


def is_url(given: object) -> bool:
    """Whether this names something on a file system of its own, and not a file of this machine."""
    return bool(_URL.match(str(given)))


def as_path(given: str | Path) -> Path:
    """The path that a string names: a URL, or a file of this machine."""
    if isinstance(given, (Path, RemotePath)):
        return given
    return RemotePath(given) if is_url(given) else Path(given)


def read_remote(path: RemotePath) -> io.BytesIO:
    """The file behind a URL, fetched once and whole; `PhotoError` when it is missing, empty or unreadable."""
    try:
        files, name = _file_system(path)
        data = files.cat_file(name)
    except FileNotFoundError as error:
        raise PhotoError(f"{path}: no such file", "missing") from error
    except IsADirectoryError as error:
        raise PhotoError(f"{path}: a folder; expected a photo", "unsupported") from error
    except Exception as error:  # each file system has classes of its own
        reason = f"{type(error).__name__}: {error}"
        raise PhotoError(f"{path}: cannot be fetched: {reason}", "unreadable") from error
    if not data:
        raise PhotoError(f"{path}: the file is empty", "empty")
    return io.BytesIO(data)


def list_remote(url: str) -> tuple[list[RemotePath], RemotePath, bool]:
    """The files that a URL names, sorted: those below a folder, those that match a pattern, or the file
    itself, be it there or not. Then the folder they are counted from, and whether they were found by looking.

    Raises `UsageError` where the URL cannot be used or nobody answers, `MissingExtra` without fsspec.
    """
    files, name = _file_system(url)
    if _ask(url, files.isdir, name):
        return _as_paths(files, _ask(url, files.find, name)), RemotePath(url), True
    if re.search(r"[*?\[]", name) and not _ask(url, files.exists, name):
        matches = [match for match in _ask(url, files.glob, name) if not files.isdir(match)]
        fixed = RemotePath(url)
        while re.search(r"[*?\[]", str(fixed)):
            fixed = fixed.parent
        return _as_paths(files, matches), fixed, True
    path = RemotePath(url)
    return [path], path.parent, False


def _as_paths(files: Any, names: Sequence[str]) -> list[RemotePath]:
    paths = [RemotePath(files.unstrip_protocol(name)) for name in names]
    return sorted(paths, key=lambda path: path.parts)


def _file_system(url: str | RemotePath) -> tuple[Any, str]:
    """The file system of a URL, which fsspec keeps, and the name of the file there."""
    url = str(url)
    if "::" in url:
        raise UsageError(f"{url}: a URL within a URL; expected one, such as s3://bucket/folder")
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise MissingExtra(f"{url}: a URL", "remote") from error
    scheme = url.partition(":")[0]
    try:
        return url_to_fs(url)
    except ImportError as error:
        package = _SPEAKERS.get(scheme, "the package that fsspec names for it")
        raise UsageError(f"{scheme}:// is not spoken here yet ({error}); pip install {package}") from error
    except ValueError as error:
        raise UsageError(
            f"{url}: fsspec knows no file system {scheme}://; expected such as s3://, gs:// or https://"
        ) from error


def _ask(url: object, question: Any, name: str) -> Any:
    try:
        return question(name)
    except Exception as error:  # each file system has classes of its own
        raise UsageError(
            f"{url} does not answer: {type(error).__name__}: {error}; look at the address, the network and "
            "what you are allowed there"
        ) from error
