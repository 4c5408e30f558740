"""SHA-256 of files, remembered by (path, size, modification time), because 2.5 GB of weights take seconds.

Input: paths. Output: hex digests. The memory is a JSON file in the cache folder; a read-only or missing cache
folder only costs time. Knows nothing of models. Proofs that must not trust the memory pass `fresh=True`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

REMEMBERED_FROM = 8 * 2**20  # bytes; hashing what is smaller costs less than looking it up is worth

_memory: dict[str, str] = {}


def cache_folder() -> Path:
    """Where clipsam keeps what it can compute again: `$CLIPSAM_CACHE`, or `~/.cache/clipsam`."""
    return Path(os.environ.get("CLIPSAM_CACHE") or "~/.cache/clipsam").expanduser()


def file_sha256(path: Path, *, fresh: bool = False) -> str:
    """Hex SHA-256 of a file's bytes. `fresh` reads them even when the file looks unchanged."""
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
    if not fresh and (known := _recall(key, status.st_size)):
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _remember(key, digest, status.st_size)
    return digest


def files_sha256(paths: Sequence[Path]) -> str:
    """One hash for several files: of one file its own SHA-256, else that of sorted lines `hash  name`."""
    if len(paths) == 1:
        return file_sha256(paths[0])
    lines = sorted((path.name, file_sha256(path)) for path in paths)
    return hashlib.sha256("".join(f"{digest}  {name}\n" for name, digest in lines).encode()).hexdigest()


def _recall(key: str, size: int) -> str | None:
    if key not in _memory and size >= REMEMBERED_FROM:
        _memory.update(_read_memory())
    return _memory.get(key)


def _remember(key: str, digest: str, size: int) -> None:
    _memory[key] = digest
    if size < REMEMBERED_FROM:
        return
    path = cache_folder() / "hashes.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {**_read_memory(), key: digest}
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        os.replace(scratch, path)
    except OSError:
        return  # no cache folder: the next process hashes again


def _read_memory() -> dict[str, str]:
    try:
        kept = json.loads((cache_folder() / "hashes.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
