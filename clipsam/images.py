"""Photos as they come: any common image file, decoded safely to RGB.

Input: a path, a PIL image or an array. Output: `Photo`, uint8 RGB the way a viewer would show it. Whatever is
wrong with a file is a `PhotoError` with a `kind`; its header is judged before a pixel is decoded. Nothing is
ever stretched to an image's own range: the same value in two photos stays the same grey.

How the less common files are read:

- EXIF and TIFF orientation is applied. Of several pages or frames the first is read.
- 16-bit grey: value / full scale. Full scale is what the file declares (65535; 4095 in a 12-bit TIFF) unless
  `bit_depth` names another, as for a camera that puts 0-4095 into 16-bit files. A value above it is an error.
- 16-bit colour: the high byte of each channel, all that Pillow gives; another `bit_depth` is refused.
- Float grey: 1.0 is white, or the full scale of `bit_depth`. Values outside, and not-a-number, are errors.
- Alpha (also a palette's or a grey's transparent colour) is laid over white.
- CMYK by Pillow's plain conversion, without colour management; palette, 1-bit, YCbCr as expected.
"""

from __future__ import annotations

import hashlib
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from clipsam.errors import PhotoError, UsageError
from clipsam.finding import FoundPhotos, find_photos
from clipsam.remote import RemotePath, as_path, read_remote
from clipsam.strips import strips

__all__ = [
    "FoundPhotos",
    "Photo",
    "as_photo",
    "decode_file",
    "decode_photo",
    "file_sha256",
    "find_photos",
    "open_photo",
    "photo_size",
    "read_photo",
]

MAX_PIXELS = 300_000_000  # 0.9 GB as RGB; a 16k x 16k line scan still passes

PhotoFile = BufferedReader | BytesIO  # open, on disk or fetched

# The formats are opened by their own classes and not through Image.open, which knows dozens more (some of
# them start other programs) and warns or fails at a process-wide pixel limit of its own.
_OPENERS: tuple[tuple[bytes, str, Callable[[Any], Image.Image]], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG", PngImagePlugin.PngImageFile),
    (b"\xff\xd8\xff", "JPEG", JpegImagePlugin.jpeg_factory),
    (b"BM", "BMP", BmpImagePlugin.BmpImageFile),
    (b"II*\0", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"II+\0", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"MM\0+", "TIFF", TiffImagePlugin.TiffImageFile),
    (b"RIFF", "WebP", WebPImagePlugin.WebPImageFile),
    (b"P5", "PGM", PpmImagePlugin.PpmImageFile),
    (b"P6", "PPM", PpmImagePlugin.PpmImageFile),
)

# What Pillow's decoders raise when a file is damaged; they agree on no class of their own.
_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo: `pixels` uint8 [H, W, 3] RGB; its file, if any, and the SHA-256 (hex) of that file."""

    pixels: NDArray[np.uint8]
    path: Path | None = None
    sha256: str | None = None


def as_photo(image: Photo | str | Path | Image.Image | NDArray[np.uint8]) -> Photo:
    """A photo from a path, a PIL image, or a uint8 array [H, W, 3] (RGB) or [H, W] (grey).

    Raises `PhotoError` for an unreadable file and `UsageError` for an array of another shape or type.
    """
    if isinstance(image, Photo):
        return image
    if isinstance(image, (str, Path, RemotePath)):
        return read_photo(image)
    if isinstance(image, Image.Image):
        where = getattr(image, "filename", "") or "the image"
        return Photo(_rgb(image, where, None))
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise UsageError(
            f"a photo given as an array is {array.dtype} {list(array.shape)}; expected uint8 [H, W, 3] in "
            "RGB order or [H, W] - scale deeper data to 0-255 by a fixed rule and drop alpha first"
        )
    if array.size == 0:
        raise UsageError(f"a photo given as an array has no pixels: shape {list(array.shape)}")
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    return Photo(np.ascontiguousarray(array))


def read_photo(path: str | Path, *, bit_depth: int | None = None, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode a photo file to RGB; see the top of this file for the rules.

    `bit_depth` (9 to 32) is the number of used bits in 16-bit grey and float files; 8-bit files ignore it.
    Raises `PhotoError` of kind `missing`, `empty`, `truncated` (damaged anywhere after a good start),
    `not-an-image`, `too-large` (more than `max_pixels`, by its header), `unsupported` or `unreadable`.
    """
    if bit_depth is not None and not 9 <= bit_depth <= 32:
        raise UsageError(
            f"bit depth {bit_depth} makes no sense; expected 9 to 32, such as 12 for a 12-bit camera"
        )
    path = as_path(path)
    with open_photo(path) as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return decode_file(file, path, sha256, bit_depth=bit_depth, max_pixels=max_pixels)


def decode_file(
    file: PhotoFile,
    path: Path,
    sha256: str | None,
    *,
    bit_depth: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Photo:
    """Decode an open photo file from its start, as `read_photo` does; `path` is what errors call it."""
    file.seek(0)
    try:
        return Photo(_decode(file, path, bit_depth, max_pixels), path, sha256)
    except MemoryError as error:
        raise PhotoError(f"{path}: not enough memory to decode it", "too-large") from error


def decode_photo(data: bytes, name: str = "the photo", *, max_pixels: int = MAX_PIXELS) -> Photo:
    """Decode the bytes of a photo file, as `read_photo` does; `name` is what errors call it."""
    if not data:
        raise PhotoError(f"{name}: the file is empty", "empty")
    try:
        pixels = _decode(BytesIO(data), Path(name), None, max_pixels)
    except MemoryError as error:
        raise PhotoError(f"{name}: not enough memory to decode it", "too-large") from error
    return Photo(pixels, None, hashlib.sha256(data).hexdigest())


def file_sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes; `PhotoError` when it is missing, empty or unreadable."""
    with open_photo(as_path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def photo_size(path: str | Path) -> tuple[int, int]:
    """Width and height by the file's header, before any rotation; `PhotoError` as in `read_photo`."""
    path = as_path(path)
    with open_photo(path) as file:
        return _open_image(file, path).size


def open_photo(path: Path) -> PhotoFile:
    """Open a photo's file; `PhotoError` when it is missing, empty, no file or unreadable. What a URL names is
    fetched, once and whole.
    """
    if isinstance(path, RemotePath):
        return read_remote(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise PhotoError(f"{path}: a folder; expected a photo", "unsupported")
        if not stat.S_ISREG(status.st_mode):  # a pipe or device would block for ever
            raise PhotoError(f"{path}: not a regular file; expected a photo", "unsupported")
        if status.st_size == 0:
            raise PhotoError(f"{path}: the file is empty", "empty")
        return path.open("rb")
    except FileNotFoundError as error:
        reason = "a link to a file that is gone" if path.is_symlink() else "no such file"
        raise PhotoError(f"{path}: {reason}", "missing") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise PhotoError(f"{path}: cannot be opened: {error}", "unreadable") from error


def _open_image(file: PhotoFile, path: Path) -> Image.Image:
    """The image with its header read and nothing decoded."""
    start = file.read(16)
    file.seek(0)
    for magic, name, opener in _OPENERS:
        if not start.startswith(magic) or (name == "WebP" and start[8:12] != b"WEBP"):
            continue
        try:
            image = opener(file)
            if min(image.size) < 1:
                raise ValueError(f"{image.width} x {image.height} pixels")
            return image
        except _DAMAGE as error:
            if "mode" in str(error) or isinstance(error, NotImplementedError):
                raise PhotoError(
                    f"{path}: {name} of a kind that cannot be read: {error}", "unsupported"
                ) from error
            raise PhotoError(
                f"{path}: starts like {name} but its header is damaged: {error}", "truncated"
            ) from error
    raise PhotoError(f"{path}: not an image; expected PNG, JPEG, BMP, TIFF, WebP, PGM or PPM", "not-an-image")


def _decode(file: PhotoFile, path: Path, bit_depth: int | None, max_pixels: int) -> NDArray[np.uint8]:
    image = _open_image(file, path)
    if image.width * image.height > max_pixels:
        raise PhotoError(
            f"{path}: {image.width} x {image.height} pixels; at most {max_pixels / 1e6:g} million are read - "
            "cut it into parts or scale it down",
            "too-large",
        )
    packing = _packing(image)
    if bit_depth not in (None, 16) and "16" in packing and len(image.getbands()) > 1:
        raise PhotoError(
            f"{path}: 16-bit colour can only be read at its full scale, not at {bit_depth} bits - "
            "convert it to grey or to 8 bits",
            "unsupported",
        )
    try:
        image.load()
    except _DAMAGE as error:
        raise PhotoError(f"{path}: damaged, it cannot be decoded to its end: {error}", "truncated") from error
    return _rgb(image, path, bit_depth, declared=_declared_bits(image))


def _packing(image: Image.Image) -> str:
    """How the pixels are packed in the file, as Pillow's decoder is told: "RGB", "RGB;16B", "I;12", ..."""
    tiles = getattr(image, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def _declared_bits(image: Image.Image) -> int:
    """Bits of an integer grey sample. PGM counts as 16 since Pillow scales its maximum value to 65535."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2.get(258, (16,))[0])  # BitsPerSample
    return 16


def _rgb(
    image: Image.Image, where: str | Path, bit_depth: int | None, *, declared: int | None = None
) -> NDArray[np.uint8]:
    """uint8 [H, W, 3] of any decoded image, upright."""
    turn = _TURNS.get(_orientation(image))
    try:
        if image.mode == "F" or image.mode == "I" or image.mode.startswith("I;"):
            image = Image.fromarray(
                _grey(image, where, bit_depth, declared or (32 if image.mode == "I" else 16))
            )
        if turn is not None:
            image = image.transpose(turn)
        pixels = np.empty((image.height, image.width, 3), np.uint8)
        for rows in strips(pixels.shape):  # Pillow and numpy copy: of a large photo never the whole
            whole = rows.stop - rows.start == image.height
            part = image if whole else image.crop((0, rows.start, image.width, rows.stop))
            if part.has_transparency_data or part.mode in ("RGBa", "La"):
                part = _over_white(part)
            pixels[rows] = np.asarray(part if part.mode == "RGB" else part.convert("RGB"))
        return pixels
    except _DAMAGE as error:  # a colour space that Pillow does not convert, such as LAB
        raise PhotoError(
            f"{where}: pixels of mode {image.mode} cannot be read: {error}", "unsupported"
        ) from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(274, 1))
    except (
        Exception
    ):  # damaged EXIF data comes as errors of every class, and is no reason to refuse the pixels
        return 1


def _over_white(image: Image.Image) -> Image.Image:
    straight = {"RGBa": "RGBA", "La": "LA"}.get(image.mode)  # premultiplied alpha
    image = (image.convert(straight) if straight else image).convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image)


def _grey(image: Image.Image, where: str | Path, bit_depth: int | None, declared: int) -> NDArray[np.uint8]:
    """uint8 [H, W] of deep grey values by the fixed rule at the top of this file."""
    values: NDArray[Any] = np.asarray(image)
    floating = image.mode == "F"
    if declared > 16 and not floating and bit_depth is None:
        raise PhotoError(
            f"{where}: {declared}-bit values have no known white; say how many bits are used (bit depth)",
            "unsupported",
        )
    bits = bit_depth or (None if floating else declared)
    full = float(2**bits - 1) if bits else 1.0
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= full):  # written so that not-a-number fails too
        raise PhotoError(
            f"{where}: grey values from {low:g} to {high:g}; expected 0 to {full:g} - "
            "read it with its real bit depth",
            "unsupported",
        )
    if (
        values.dtype.kind in "ui" and high < 65536
    ):  # a table is several times quicker than arithmetic per pixel
        table = np.arange(65536) * (255.0 / full) + 0.5
        return np.minimum(table, 255).astype(np.uint8)[values.astype(np.uint16, copy=False)]
    return (values * (255.0 / full) + 0.5).astype(np.uint8)
