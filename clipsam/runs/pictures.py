"""The pictures of a run: maps, masks and overlays, each photo's under the name that mirrors its own.

Input: a photo's pixels and its `Segmentation`. Output: files in maps/, masks/ and overlays/, or their bytes,
which can travel before they are written. A map is 16-bit PNG, value / 65535 on the fixed scale [0, 1], or
float TIFF; a mask is 0 and 255; all have the photo's own size. Knows nothing of rows and settings.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsam.errors import RunError, UsageError
from clipsam.finding import SUFFIXES
from clipsam.runs.overlay import draw_overlay
from clipsam.strips import strips

if TYPE_CHECKING:
    from clipsam.result import Segmentation

MAP_FORMATS = ("png16", "tiff", "none")
JPEG_LIMIT = 65_500  # pixels along a side; what is longer becomes a PNG
NAME_LIMIT = 240  # bytes; file systems take 255, and a suffix is added


@dataclass(frozen=True)
class PictureOptions:
    """Which pictures a run keeps; masks always."""

    maps: str = "png16"
    overlays: bool = True

    def __post_init__(self) -> None:
        if self.maps not in MAP_FORMATS:
            raise UsageError(
                f"maps cannot be written as {self.maps!r}; choose one of: {', '.join(MAP_FORMATS)}"
            )


def picture_names(photos: Sequence[Path], root: Path) -> dict[Path, str]:
    """For each photo the name of its pictures below maps/ and so on, without suffix: its path from `root`.

    The photo's own suffix is dropped, except where a.png and a.jpg lie side by side, or where what is left
    would look like a photo (a.jpg.png): so no two photos of a run share a name.
    """
    stems = Counter(_folded(photo.with_suffix("")) for photo in photos)
    names = {}
    for photo in photos:
        stem = photo.with_suffix("")
        alone = stems[_folded(stem)] == 1 and stem.suffix.lower() not in SUFFIXES
        names[photo] = shortened((stem if alone else photo).relative_to(root)).as_posix()
    return names


def encoded_pictures(
    name: str, pixels: NDArray[np.uint8], result: Segmentation, options: PictureOptions
) -> Iterator[tuple[str, str, bytes]]:
    """The pictures of one photo, one after the other: kind (mask, map, overlay), file relative to the run
    folder, its bytes. `pixels` uint8 [H, W, 3].
    """
    mask = Image.fromarray(result.mask.view(np.uint8) * np.uint8(255))
    yield "mask", f"masks/{name}.png", _encoded(mask, "PNG", compress_level=1)
    if options.maps == "png16":
        yield "map", f"maps/{name}.png", map_to_png(result.anomaly_map)
    elif options.maps == "tiff":
        values = Image.fromarray(np.asarray(result.anomaly_map, np.float32))
        yield "map", f"maps/{name}.tiff", _encoded(values, "TIFF")
    if options.overlays:
        overlay = draw_overlay(pixels, result)
        if max(pixels.shape) <= JPEG_LIMIT:
            yield "overlay", f"overlays/{name}.jpg", _encoded(overlay, "JPEG", quality=90, subsampling=0)
        else:
            yield "overlay", f"overlays/{name}.png", _encoded(overlay, "PNG")


def save_pictures(folder: Path, name: str, pictures: Iterable[tuple[str, str, bytes]]) -> dict[str, str]:
    """Write encoded pictures of the photo `name`; gives their paths relative to `folder` by kind.

    Raises `RunError` when the disk does not take them.
    """
    files = {}
    try:
        for kind, file, data in pictures:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
            files[kind] = file
            del data  # before the next is made
    except OSError as error:
        raise RunError(f"{folder}: the pictures of {name} cannot be written: {error}") from error
    return files


def write_pictures(
    folder: Path, name: str, pixels: NDArray[np.uint8], result: Segmentation, options: PictureOptions
) -> dict[str, str]:
    """Write the pictures of one photo; gives their paths relative to `folder` by kind: map, mask, overlay.

    `pixels` uint8 [H, W, 3]; raises `RunError` when the disk does not take them.
    """
    return save_pictures(folder, name, encoded_pictures(name, pixels, result, options))


def map_to_png(anomaly_map: NDArray[np.floating]) -> bytes:
    """A 16-bit grey PNG of a map [H, W] in [0, 1]: value = pixel / 65535.

    Written by hand: at 900 x 900 this takes 22 ms where Pillow's quickest takes 47, because it tries every
    row filter while a smooth map is always best told as differences to the row above, and its noisy low
    bytes have no repetitions worth a search.
    """
    height, width = anomaly_map.shape
    above = np.zeros(2 * width, np.uint8)
    packer, packed = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE), []
    for part in strips(anomaly_map.shape):
        values = (np.clip(anomaly_map[part], 0, 1) * 65535 + 0.5).astype(">u2")
        raw = values.view(np.uint8).reshape(len(values), 2 * width)
        rows = np.empty((len(values), 1 + 2 * width), np.uint8)
        rows[:, 0] = 2  # filter "up"
        np.subtract(raw[0], above, out=rows[0, 1:])
        np.subtract(raw[1:], raw[:-1], out=rows[1:, 1:])
        above = raw[-1]
        packed.append(packer.compress(rows.data))
    packed.append(packer.flush())
    header = struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)
    chunks: tuple[tuple[bytes, list[bytes]], ...] = ((b"IHDR", [header]), (b"IDAT", packed), (b"IEND", []))
    return b"".join([b"\x89PNG\r\n\x1a\n", *(part for kind, body in chunks for part in _chunk(kind, body))])


def read_map(path: Path) -> NDArray[np.float32]:
    """A written map back as float32 [H, W] in [0, 1]."""
    with Image.open(path) as image:
        values = np.asarray(image, np.float32)
    return values if path.suffix == ".tiff" else values / np.float32(65535)


def _encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    target = BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def _chunk(kind: bytes, body: Sequence[bytes]) -> list[bytes]:
    """A chunk of a PNG, in the pieces that it came in: a large one is copied once, not thrice."""
    check = zlib.crc32(kind)
    for part in body:
        check = zlib.crc32(part, check)
    return [struct.pack(">I", sum(map(len, body))), kind, *body, struct.pack(">I", check)]


def _folded(path: Path) -> str:
    return str(path).casefold()  # A.png and a.jpg share a name where file systems do not tell case


def shortened(path: Path) -> Path:
    """The path, its last name cut where a file system would refuse it, and still its own."""
    if len(os.fsencode(path.name)) <= NAME_LIMIT:
        return path
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]
    return path.with_name(f"{path.name[:50]}-{digest}")
