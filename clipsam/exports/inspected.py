"""The inspected photos of a run, as exports need them: sizes and decoded regions beside the rows.

Input: a run folder. Output: `InspectedPhoto`s, one at a time, since masks are large. Photos that could not be
inspected are left out. Knows nothing of formats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from clipsam.errors import PhotoError, RunError
from clipsam.images import photo_size
from clipsam.remote import as_path
from clipsam.result import Region
from clipsam.runs.manifest import Manifest, read_manifest
from clipsam.runs.store import Row, read_rows


@dataclass(frozen=True)
class InspectedPhoto:
    """A photo with its row; `name` is its path below the folder that the run's photos lie in."""

    path: Path
    name: str
    row: Row
    width: int
    height: int

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Regions with decoded masks, the highest score first."""
        return tuple(Region.from_dict(region) for region in self.row["regions"])

    @property
    def decision(self) -> str:
        """OK or NG; "suspicious" or "unremarkable" while nothing is calibrated."""
        defective = self.row["is_defective"]
        if defective is None:
            return "suspicious" if self.row["regions"] else "unremarkable"
        return "NG" if defective else "OK"


class InspectedRun:
    """A run folder, read. Iterating gives its photos by path; `defects` are the types that were found.

    Raises `RunError` when the folder holds no run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        rows = read_rows(self.folder / "results.jsonl")
        self.rows = [row for row in rows if "error" not in row]
        self.left_out = len(rows) - len(self.rows)  # photos that could not be inspected
        self.defects = tuple(sorted({region["defect"] for row in self.rows for region in row["regions"]}))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[InspectedPhoto]:
        root = as_path(self.manifest["root"])
        for row in self.rows:
            path = as_path(row["path"])
            name = path.relative_to(root) if path.is_relative_to(root) else path
            width, height = self._size(row)
            yield InspectedPhoto(path, name.as_posix(), row, width, height)

    def _size(self, row: dict[str, Any]) -> tuple[int, int]:
        """Width and height, from what the run keeps, or else from the photo."""
        for region in row["regions"]:
            height, width = region["rle"]["size"]
            return width, height
        mask = self.folder / row.get("files", {}).get("mask", "")
        try:
            if mask.is_file():
                with Image.open(mask) as image:
                    return image.size
            return photo_size(row["path"])
        except (OSError, PhotoError) as error:
            raise RunError(
                f"{row['path']}: its size is not known: the photo and {mask} are gone; inspect it again"
            ) from error
