"""run.json: what made a run, and how it went. Opening a run folder, and refusing one that was made otherwise.

Input: the segmenter's manifest, the options of reading and writing, the rows. Output: the file, always
whole, since it is written beside and moved into place. Knows nothing of photos and models.

`clipsam`, `preset`, `weights`, `prompts` and so on are settings: a run goes on only under the very same. The
rest is the story of the run: `versions`, `device`, `root` (names in maps/, masks/ and overlays/ mirror the
folders below it), `inputs`, `state` (running, interrupted, finished), `counts`, `seconds` by stage,
`wall_seconds`, `engine` ...
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipsam import __version__
from clipsam.differences import differences, in_short
from clipsam.errors import RunError
from clipsam.images import MAX_PIXELS
from clipsam.remote import as_path
from clipsam.runs.store import Row, is_suspicious

if TYPE_CHECKING:
    from clipsam.runs.pictures import PictureOptions

FORMAT = "clipsam-run-1"
PICTURE_FOLDERS = ("maps", "masks", "overlays")

Manifest = dict[str, Any]

# What may differ between two sittings of one run: all else in run.json are settings.
STORY = {
    "format", "id", "versions", "device", "root", "inputs", "skipped", "state", "started", "updated",
    "counts", "seconds", "wall_seconds", "photos_per_second", "peak_memory_mb", "drift", "engine",
}  # fmt: skip
_NEEDED = {"root", "versions", "wall_seconds"}  # to go on with a run, and to report it
_LIBRARIES = (
    "torch", "open-clip-torch", "timm", "transformers", "numpy", "scipy", "pillow", "pycocotools",
)  # fmt: skip


class OtherSettings(RunError):
    """The folder holds a run that was made with other settings."""


def run_settings(method: Mapping[str, Any], bit_depth: int | None, pictures: PictureOptions) -> Manifest:
    """All that decides the results of a run: the segmenter's manifest, and how photos are read and pictures
    written.
    """
    reading = {"bit_depth": bit_depth, "max_pixels": MAX_PIXELS}
    return {**method, "reading": reading, "pictures": asdict(pictures)}


def open_run(
    folder: Path,
    settings: Manifest,
    *,
    root: Path,
    inputs: Sequence[str],
    overwrite: bool = False,
) -> Manifest:
    """Start a run in a new or empty folder, or go on with the run that is there; gives its manifest.

    `settings` is what decides the results. Raises `RunError` when the folder holds something else, or a run
    with other settings or of photos elsewhere; `overwrite` removes such a run (and never anything else)
    first.
    """
    # Through JSON and back, so that tuples and the like compare equal to what is read from the file.
    settings = json.loads(
        json.dumps({"clipsam": __version__, "calibration_id": None, **settings}, default=str)
    )
    story = {"versions": versions(), "device": settings.pop("device", None), "inputs": list(inputs)}
    settings = {key: value for key, value in settings.items() if key not in STORY}
    if overwrite:
        _remove(folder)
    if (folder / "run.json").exists():
        manifest = read_manifest(folder)
        _check_same(folder, manifest, settings, root)
        manifest.update(story)
        manifest.setdefault("id", uuid.uuid4().hex)
    else:
        _check_empty(folder)
        manifest = {
            "format": FORMAT,
            "id": uuid.uuid4().hex,  # the same wherever the folder is moved to: the station's store knows it
            **settings,
            **story,
            "root": str(root),
            "started": now(),
            "wall_seconds": 0.0,
        }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.jsonl").touch()
        write_manifest(folder, manifest | {"state": "running"})
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {error.strerror}") from error
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a run folder; `RunError` if there is none or it is damaged."""
    path = folder / "run.json"
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{folder}: not a run folder: it has no run.json; expected what inspect --out wrote"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise RunError(f"{path}: format {found!r}; expected {FORMAT!r}, as this version of clipsam writes it")
    if lacking := _NEEDED - manifest.keys():
        raise RunError(
            f"{path}: lacks {', '.join(sorted(lacking))}; inspect the photos anew in another --out"
        )
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Put run.json in place in one step: whoever reads it meets the old or the new one, never half of one."""
    fresh = folder / "run.json.new"
    try:
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(manifest | {"updated": now()}, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, folder / "run.json")
    except OSError as error:
        raise RunError(f"{folder / 'run.json'}: cannot be written: {error.strerror}") from error


def story_of(rows: Iterable[Row]) -> Manifest:
    """Counts and seconds of all rows: the same, whether the run was done in one sitting or in five."""
    rows = list(rows)
    errors = Counter(row["error"]["kind"] for row in rows if "error" in row)
    seconds: Counter[str] = Counter()
    for row in rows:
        seconds.update(row.get("stages", {}))
    return {
        "counts": {
            "photos": len(rows),
            "done": len(rows) - errors.total(),
            "suspicious": sum(is_suspicious(row) for row in rows),
            "defective": sum(row.get("is_defective") is True for row in rows),
            "errors": errors.total(),
            "errors_by_kind": dict(sorted(errors.items())),
        },
        "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
    }


def versions() -> dict[str, str]:
    """Versions of clipsam, Python, the platform and the libraries that take part, without importing them."""
    found = {"clipsam": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _check_same(folder: Path, manifest: Manifest, settings: Manifest, root: Path) -> None:
    before = {key: value for key, value in manifest.items() if key not in STORY}
    if changed := differences(before, settings):
        raise OtherSettings(
            f"{folder} holds a run with other settings: {in_short(changed)}; choose another --out, or "
            "--overwrite"
        )
    if not root.is_relative_to(as_path(manifest["root"])):
        raise RunError(
            f"{folder} holds a run of the photos below {manifest['root']}, and these lie below {root}; "
            "choose another --out, or --overwrite"
        )


def _check_empty(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{folder}: a file; expected a folder for the run - choose another --out")
    if folder.is_dir() and any(
        name.name != "results.jsonl" or name.stat().st_size for name in folder.iterdir()
    ):
        raise RunError(f"{folder}: not a run folder, and not empty; choose another --out")


def _remove(folder: Path) -> None:
    """Remove a run: only what clipsam wrote, and only where it wrote it."""
    if not (folder / "run.json").exists():
        return
    read_manifest(folder)
    try:
        for name in PICTURE_FOLDERS:
            if (folder / name).is_dir():
                shutil.rmtree(folder / name)
        for name in ("report.html", "results.jsonl", "run.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: the run cannot be removed: {error}") from error
