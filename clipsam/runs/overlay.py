"""The overlay: a photo with its suspicious regions outlined, boxed and named, at the photo's own size.

Input: the photo's pixels and its `Segmentation`. Output: a PIL image. Colours stand for fixed values on [0,
1] and nothing is drawn below the threshold, so two overlays can be compared and a good part looks like its
photo. Knows nothing of files.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.special import ndtri

from clipsam.strips import bounds, strips

if TYPE_CHECKING:
    from clipsam.result import Region, Segmentation

Box = tuple[int, int, int, int]  # x0, y0, x1, y1; the last two exclusive

# Score -> colour: amber up to 0.5, through orange, to crimson at 1.
_STOPS = ((0.0, (255, 214, 64)), (0.5, (255, 196, 40)), (0.75, (255, 120, 24)), (1.0, (246, 30, 84)))
RAMP: NDArray[np.uint8] = np.stack(
    [
        np.interp(np.arange(256) / 255, [at for at, _ in _STOPS], [colour[channel] for _, colour in _STOPS])
        for channel in range(3)
    ],
    axis=1,
).astype(np.uint8)

# Map value -> opacity of the tint, at most a quarter: the defect itself must stay visible.
_TINT = np.interp(np.arange(256), (0, 255), (0, 64)).astype(np.uint8)
_INK = (18, 20, 24)


def draw_overlay(pixels: NDArray[np.uint8], result: Segmentation) -> Image.Image:
    """RGB image of the photo's size: a tint by the map's value in the mask, outlines, boxes and labels."""
    image = Image.fromarray(pixels)
    if not result.regions:
        return image
    regions = sorted(result.regions, key=lambda region: -region.score)
    width = line_width(image.size)
    _tint(image, result)
    for region in reversed(regions):  # the strongest last, on top
        _outline(image, region, width)
    draw = ImageDraw.Draw(image, "RGBA")
    boxes = [_grown(region.box_xyxy, math.ceil(2 * width) + 1, image.size) for region in regions]
    for region, box in zip(reversed(regions), reversed(boxes), strict=True):
        _draw_box(draw, box, colour_of(region.score), max(1, round(0.6 * width)))
    _draw_labels(draw, image.size, regions, boxes, result.mask)
    return image


def colour_of(score: float) -> tuple[int, int, int]:
    """The colour of a score in [0, 1], the same in every picture."""
    red, green, blue = RAMP[round(255 * min(max(score, 0.0), 1.0))].tolist()
    return red, green, blue


def line_width(size: tuple[int, int]) -> float:
    """Width of an outline in pixels: thin, and equally thin to the eye when large photos are scaled down."""
    return min(max(math.sqrt(size[0] * size[1]) / 480, 1.4), 12.0)


def _tint(image: Image.Image, result: Segmentation) -> None:
    box = bounds(result.mask)
    if box is None:
        return
    x0, y0, x1, y1 = box
    for rows in strips((y1 - y0, x1 - x0)):
        place = slice(y0 + rows.start, y0 + rows.stop), slice(x0, x1)
        values = np.clip(result.anomaly_map[place] * 255, 0, 255).astype(np.uint8)
        alpha = np.where(result.mask[place], _TINT[values], 0).astype(np.uint8)
        image.paste(Image.fromarray(RAMP[values]), (x0, place[0].start), Image.fromarray(alpha))


def _outline(image: Image.Image, region: Region, width: float) -> None:
    """A smooth line just outside of the region with a dark rim, so that it shows on any ground.

    Blurring the mask by a Gaussian turns it into Phi(d / sigma) of the signed distance d to its edge, at
    least where the edge is not sharply bent; so a table over the 256 blurred values draws an anti-aliased
    line.
    """
    sigma = 0.9 * width
    pad = math.ceil(4 * sigma) + 1
    x0, y0 = region.box_xyxy[:2]
    mask = np.pad(region.crop.view(np.uint8), pad)
    mask *= 255
    rim, line = _line_tables(width, sigma)
    for rows in strips(mask.shape):
        first, last = max(rows.start - pad, 0), min(rows.stop + pad, len(mask))  # the blur reaches less far
        soft = Image.fromarray(mask[first:last]).filter(ImageFilter.GaussianBlur(sigma))
        soft = soft.crop((0, rows.start - first, soft.width, rows.stop - first))
        place = x0 - pad, y0 - pad + rows.start
        image.paste(_INK, place, soft.point(rim))
        image.paste(colour_of(region.score), place, soft.point(line))


@lru_cache(maxsize=32)
def _line_tables(width: float, sigma: float) -> tuple[list[int], list[int]]:
    """Opacity of rim and line, 0 to 255, for each blurred mask value."""
    with np.errstate(divide="ignore"):
        distance = np.abs(sigma * ndtri(np.arange(256) / 255) + width / 2)  # to the line, which lies outside
    line = np.clip(width / 2 + 0.5 - distance, 0, 1)
    rim = np.clip(width + 0.5 - distance, 0, 1) * 0.55
    return (255 * rim).astype(int).tolist(), (255 * line).astype(int).tolist()


def _draw_box(draw: ImageDraw.ImageDraw, box: Box, colour: tuple[int, int, int], width: int) -> None:
    x0, y0, x1, y1 = box
    draw.rectangle((x0 - 1, y0 - 1, x1, y1), outline=(*_INK, 80), width=width + 2)
    draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=(*colour, 235), width=width)


def _draw_labels(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    regions: list[Region],
    boxes: list[Box],
    mask: NDArray[np.bool_],
) -> None:
    """Type and score of each region, strongest first, where they hide neither a defect nor another label."""
    font = _font(font_size(size))
    taken: list[Box] = []
    for region, box in zip(regions, boxes, strict=True):
        for text in _texts(region, font):
            wide, high = _label_size(text, font)
            place = _place(box, wide, high, size, mask, taken)
            if place is not None:
                _draw_label(draw, place, text, font, colour_of(region.score))
                taken.append(place)
                break


def font_size(size: tuple[int, int]) -> int:
    """Height of the letters in pixels: readable on small photos, and on large ones fitted to a screen."""
    return round(min(max(math.sqrt(size[0] * size[1]) / 52, 11), 160))


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # comes with Pillow: the same on every machine


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _texts(region: Region, font: Font) -> list[str]:
    """What a label may say, the fullest first."""
    score = f"{region.score:.2f}"
    name = region.defect or ""
    return [f"{name} {score}", score] if name and _has_letters(name, font) else [score]


def _has_letters(text: str, font: Font) -> bool:
    """Whether the font can show every character; Pillow's own knows European alphabets, but not Chinese."""
    missing = bytes(font.getmask("\U0010ffff"))
    return all(character == " " or bytes(font.getmask(character)) != missing for character in text)


def _label_size(text: str, font: Font) -> tuple[int, int]:
    _, top, _, bottom = font.getbbox("Ag", anchor="ls")
    high = bottom - top
    return math.ceil(font.getlength(text) + 0.95 * high), math.ceil(1.4 * high)


def _place(
    box: Box, wide: int, high: int, size: tuple[int, int], mask: NDArray[np.bool_], taken: list[Box]
) -> Box | None:
    """The place about the box that covers the least of any defect; None if there is none in the photo."""
    x0, y0, x1, y1 = box
    gap = max(2, high // 8)
    corners = [
        (x0, y0 - high - gap),
        (x1 - wide, y0 - high - gap),
        (x0, y1 + gap),
        (x1 - wide, y1 + gap),
        (x1 + gap, y0),
        (x0 - wide - gap, y0),
        (x1 + gap, y1 - high),
        (x0 - wide - gap, y1 - high),
        (x0 + gap, y0 + gap),
        (x1 - wide - gap, y1 - high - gap),
    ]
    best, least = None, math.inf
    for left, top in corners:
        # A label that sticks out a little is pushed back in; the cost of what it covers then decides.
        left, top = min(max(left, 0), size[0] - wide), min(max(top, 0), size[1] - high)
        place = (left, top, left + wide, top + high)
        if left < 0 or top < 0 or any(_overlap(place, other) for other in taken):
            continue
        covered = float(mask[top : top + high, left : left + wide].sum())
        if covered < least:
            best, least = place, covered
    return best


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_label(
    draw: ImageDraw.ImageDraw, place: Box, text: str, font: Font, colour: tuple[int, int, int]
) -> None:
    x0, y0, x1, y1 = place
    high = y1 - y0
    draw.rounded_rectangle((x0, y0, x1 - 1, y1 - 1), radius=high * 0.2, fill=(*_INK, 205))
    bar = max(2, round(high * 0.14))
    draw.rectangle((x0 + bar, y0 + bar, x0 + 2 * bar - 1, y1 - 1 - bar), fill=(*colour, 255))
    draw.text((x0 + 3 * bar, y0 + high * 0.71), text, font=font, fill=(255, 255, 255, 255), anchor="ls")


def _grown(box: Box, by: int, size: tuple[int, int]) -> Box:
    x0, y0, x1, y1 = box
    return max(x0 - by, 0), max(y0 - by, 0), min(x1 + by, size[0]), min(y1 + by, size[1])
