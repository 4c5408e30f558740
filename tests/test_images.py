"""Every kind of file a plant sends: decoded right, or refused with the right kind."""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsam.errors import PhotoError, UsageError
from clipsam.images import Photo, as_photo, file_sha256, photo_size, read_photo

RAMP = np.linspace(0, 255, 24 * 16).astype(np.uint8).reshape(16, 24)
COLOUR = np.stack([RAMP, RAMP[::-1], np.full_like(RAMP, 90)], axis=2)


def save(pixels: np.ndarray | Image.Image, path: Path, **options: object) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def kind_of(path: Path, **options: object) -> str:
    with pytest.raises(PhotoError) as caught:
        read_photo(path, **options)
    assert str(path) in str(caught.value)
    return caught.value.kind


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "webp", "ppm", "PNG"])
def test_lossless_formats_give_the_pixels_back(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(COLOUR, tmp_path / f"a.{suffix}", **options)
    photo = read_photo(path)
    np.testing.assert_array_equal(photo.pixels, COLOUR)
    assert photo.pixels.dtype == np.uint8
    assert photo.path == path
    assert photo.sha256 == file_sha256(path)
    assert photo_size(path) == (24, 16)


def test_jpeg_is_near(tmp_path: Path) -> None:
    photo = read_photo(save(COLOUR, tmp_path / "a.jpg", quality=95, subsampling=0))
    assert np.abs(photo.pixels.astype(int) - COLOUR).mean() < 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Each way of storing the picture gives the same upright one: landscape, its upper left corner bright."""
    upright = np.zeros((16, 24), np.uint8)
    upright[:6, :9] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    image = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB")
    pixels = read_photo(save(image, tmp_path / f"a.{suffix}", exif=exif)).pixels
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels[..., 0].astype(int) - upright).mean() < 12


def test_damaged_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = save(COLOUR, tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\x00\x09garbage")
    assert read_photo(path).pixels.shape == (16, 24, 3)


def test_grey_16_bit_is_scaled_by_a_fixed_rule(tmp_path: Path) -> None:
    """Never by the photo's own range: a dark photo stays dark."""
    values = np.array([[0, 257, 1000], [32768, 40000, 65535]], np.uint16)
    expected = np.floor(values / 257 + 0.5).astype(np.uint8)
    for name in ("a.png", "a.tif", "a.pgm"):
        pixels = read_photo(save(values, tmp_path / name)).pixels
        np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2), err_msg=name)
    dark = read_photo(save(values // 16, tmp_path / "dark.png")).pixels
    assert dark.max() == 16


def test_bit_depth_names_another_full_scale(tmp_path: Path) -> None:
    path = save(np.array([[0, 2048, 4095]], np.uint16), tmp_path / "a.png")
    assert read_photo(path, bit_depth=12).pixels[0, :, 0].tolist() == [0, 128, 255]
    assert read_photo(path).pixels[0, :, 0].tolist() == [0, 8, 16]
    assert (
        kind_of(path, bit_depth=10) == "unsupported"
    )  # 4095 is no 10-bit value: nothing is clipped in silence
    with pytest.raises(UsageError):
        read_photo(path, bit_depth=8)


def test_big_endian_16_bit_tiff(tmp_path: Path) -> None:
    values = np.array([[0, 25700, 65535]], ">u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes())
    assert read_photo(save(image, tmp_path / "a.tif")).pixels[0, :, 0].tolist() == [0, 100, 255]


def test_16_bit_colour_takes_the_high_byte(tmp_path: Path) -> None:
    values = (COLOUR.astype(np.uint16) << 8) | 37
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path = tmp_path / "a.png"
    path.write_bytes(png_file(24, 16, 16, 2, zlib.compress(raw)))
    np.testing.assert_array_equal(read_photo(path).pixels, COLOUR)
    assert kind_of(path, bit_depth=12) == "unsupported"
    assert read_photo(path, bit_depth=16).pixels.shape == (16, 24, 3)


def test_float_tiff(tmp_path: Path) -> None:
    path = save(np.array([[0.0, 0.5, 1.0]], np.float32), tmp_path / "a.tif")
    assert read_photo(path).pixels[0, :, 0].tolist() == [0, 128, 255]
    counts = save(np.array([[0.0, 4095.0]], np.float32), tmp_path / "counts.tif")
    assert kind_of(counts) == "unsupported"
    assert read_photo(counts, bit_depth=12).pixels[0, :, 0].tolist() == [0, 255]
    assert kind_of(save(np.array([[0.0, np.nan]], np.float32), tmp_path / "nan.tif")) == "unsupported"


def test_32_bit_integers_need_a_bit_depth(tmp_path: Path) -> None:
    path = save(np.array([[0, 1023]], np.int32), tmp_path / "a.tif")
    assert kind_of(path) == "unsupported"
    assert read_photo(path, bit_depth=10).pixels[0, :, 0].tolist() == [0, 255]


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, :] = [(200, 0, 0, 255), (200, 0, 0, 0), (0, 0, 0, 128)]
    pixels = read_photo(save(rgba, tmp_path / "a.png")).pixels
    assert pixels[0].tolist() == [[200, 0, 0], [255, 255, 255], [127, 127, 127]]
    grey = Image.fromarray(rgba).convert("LA")
    assert read_photo(save(grey, tmp_path / "la.png")).pixels[0, 1].tolist() == [255, 255, 255]


def test_palette_with_and_without_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert read_photo(save(image, tmp_path / "p.png")).pixels[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    pixels = read_photo(save(image, tmp_path / "t.png", transparency=0)).pixels
    assert pixels[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_cmyk_and_one_bit(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    for name in ("c.tif", "c.jpg"):
        red = read_photo(save(cmyk, tmp_path / name)).pixels[4, 4]
        assert red[0] > 240
        assert red[1:].max() < 15
    bits = Image.fromarray(RAMP > 127)
    assert bits.mode == "1"
    for name in ("b.png", "b.tif", "b.bmp"):
        pixels = read_photo(save(bits, tmp_path / name)).pixels
        assert sorted(set(pixels.ravel().tolist())) == [0, 255]


@pytest.mark.parametrize(
    "name", ["Prüf ling №7 划痕.png", "two  blanks .png", "[3]*.png", "-x.png", "a.b.c.png"]
)
def test_names_with_anything_in_them(tmp_path: Path, name: str) -> None:
    path = save(COLOUR, tmp_path / name)
    np.testing.assert_array_equal(read_photo(path).pixels, COLOUR)


def png_file(width: int, height: int, depth: int, colour: int, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_decompression_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_file(60000, 60000, 8, 2, zlib.compress(bytes(1000))))
    assert kind_of(path) == "too-large"
    small = save(COLOUR, tmp_path / "a.png")
    assert kind_of(small, max_pixels=24 * 16 - 1) == "too-large"
    assert read_photo(small, max_pixels=24 * 16).pixels.shape == (16, 24, 3)


def test_photo_above_the_limits_of_pillow_is_read(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """200 megapixels: Image.open would refuse it. One bit per pixel keeps the file and this test small."""
    path = tmp_path / "line_scan.png"
    path.write_bytes(png_file(16, 12_500_000, 1, 0, b""))
    assert photo_size(path) == (16, 12_500_000)
    assert kind_of(path) == "truncated"  # it went on to decoding, which found no data
    assert not [w for w in recwarn if "Bomb" in w.category.__name__]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "ppm"])
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, suffix: str, keep: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(noise, tmp_path / f"a.{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: max(int(len(data) * keep), 20)])
    assert kind_of(path) == "truncated"


def test_compressed_tiff_truncated_and_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(noise, tmp_path / "a.tif", compression="tiff_lzw")
    np.testing.assert_array_equal(read_photo(path).pixels, noise)
    path.write_bytes(path.read_bytes()[:-4000])
    assert kind_of(path) == "truncated"


def test_damage_in_the_middle(tmp_path: Path) -> None:
    path = save(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8), tmp_path / "a.png")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    assert kind_of(path) == "truncated"


def test_other_bad_files(tmp_path: Path) -> None:
    empty, text, missing = tmp_path / "e.png", tmp_path / "t.png", tmp_path / "gone.png"
    empty.touch()
    text.write_text("this is no image")
    assert kind_of(empty) == "empty"
    assert kind_of(text) == "not-an-image"
    assert kind_of(missing) == "missing"
    assert kind_of(tmp_path) == "unsupported"
    link = tmp_path / "link.png"
    link.symlink_to(missing)
    assert kind_of(link) == "missing"
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert kind_of(pipe) == "unsupported"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path: Path) -> None:
    path = save(COLOUR, tmp_path / "a.png")
    path.chmod(0)
    assert kind_of(path) == "unreadable"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    """Bytes flipped anywhere: either pixels or a PhotoError, whatever the format."""
    random = np.random.default_rng(3)
    for suffix in ("png", "jpg", "bmp", "tif", "webp", "ppm"):
        path = save(COLOUR, tmp_path / f"a.{suffix}")
        data = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(60):
            damaged = data.copy()
            damaged[random.integers(0, min(len(data), 200), 3)] = random.integers(0, 256, 3)
            path.write_bytes(damaged.tobytes())
            with contextlib.suppress(PhotoError):
                assert read_photo(path, max_pixels=10_000_000).pixels.ndim == 3


def test_as_photo(tmp_path: Path) -> None:
    path = save(COLOUR, tmp_path / "a.png")
    for image in (path, str(path), Image.open(path), COLOUR):
        np.testing.assert_array_equal(as_photo(image).pixels, COLOUR)
    grey = as_photo(RAMP)
    np.testing.assert_array_equal(grey.pixels, np.repeat(RAMP[..., None], 3, axis=2))
    assert as_photo(grey) is grey
    assert as_photo(COLOUR).path is None
    assert isinstance(as_photo(path), Photo)
    assert as_photo(path).sha256 == file_sha256(path)
    turned = Image.fromarray(COLOUR)
    turned.getexif()[274] = 6
    assert as_photo(turned).pixels.shape == (24, 16, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_arrays_of_other_kinds_are_refused(array: np.ndarray) -> None:
    with pytest.raises(UsageError, match="array"):
        as_photo(array)
