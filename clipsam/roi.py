"""Roi: where on a photo to look. Outside of it the map is 0 and nothing counts.

Input: a JSON file with polygons per product, or a mask image (white: inspect, black: ignore). Output: a mask
bool [H, W] for a photo of any size of the same shape. Coordinates are pixels of the photo that they were
drawn on: x to the right, y down, from its upper left corner. Knows nothing of models.

    {"format": "clipsam-roi-1",
     "products": {"bottle": {"photo_size": [900, 900],
                             "include": [[[80, 80], [820, 80], [820, 820], [80, 820]]],
                             "ignore": [[[400, 400], [500, 400], [450, 480]]]}}}

A pixel is inspected where its centre lies in a polygon of `include` (in all of the photo if there is none)
and in none of `ignore`. A polygon that crosses itself is filled by the even-odd rule. `photo_size` is width
and height.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipsam.errors import PhotoError, UsageError
from clipsam.images import MAX_PIXELS, Photo, read_photo

FORMAT = "clipsam-roi-1"
SHAPE_TOLERANCE = 0.01  # of the aspect ratio: more is another camera or another crop

Polygon = tuple[tuple[float, float], ...]
"""Corners (x, y) in px; the last is joined to the first."""


@dataclass(frozen=True, eq=False)
class Roi:
    """Zones of one product's photos. Raises `UsageError` where they make no sense or leave nothing to
    inspect.

    `photo_size` (width, height) in px is what the polygons were drawn on; `drawn` bool [height, width] is a
    mask image, which has no polygons beside it.
    """

    photo_size: tuple[int, int]
    include: tuple[Polygon, ...] = ()
    ignore: tuple[Polygon, ...] = ()
    drawn: NDArray[np.bool_] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        width, height = self.photo_size
        if min(width, height) < 1 or width * height > MAX_PIXELS:
            raise UsageError(
                f"a region of interest was drawn on a photo of {width} x {height} px; expected a real size"
            )
        if self.drawn is None and not (self.include or self.ignore):
            raise UsageError(
                "the region of interest has no polygon; expected at least one in include or in ignore"
            )
        for zone, polygons in (("include", self.include), ("ignore", self.ignore)):
            for number, polygon in enumerate(polygons, start=1):
                _check(polygon, f"{zone} {number}", self.photo_size)
        if not self.mask(height, width).any():
            raise UsageError(
                "the region of interest leaves nothing to inspect; expected zones to include that the zones "
                "to ignore do not cover"
            )

    @classmethod
    def from_mask(cls, mask: NDArray[np.bool_]) -> Roi:
        """The region that is True in `mask` [H, W]."""
        return cls((mask.shape[1], mask.shape[0]), drawn=np.array(mask, dtype=bool))

    @classmethod
    def load(cls, path: str | Path, product: str = "object") -> Roi:
        """The region of `product` in a JSON file, or a mask image: bright (from 128) is inspected, dark is
        not.

        Raises `UsageError` for a file that is neither, and for a product that the file does not name.
        """
        path = Path(path)
        if path.suffix.lower() != ".json":
            return _from_image(path)
        products = _read(path)
        if product not in products:
            raise UsageError(
                f"{path} has no region for the product {product!r}; it has: {', '.join(map(repr, products))} "
                "- draw one, or name one of these with --product"
            )
        try:
            return cls.from_dict(products[product])
        except UsageError as error:
            raise UsageError(f"{path}, product {product!r}: {error}") from error

    def save(self, path: str | Path, product: str = "object") -> Path:
        """Write the polygons of `product` into a JSON file, beside those of other products; or a mask as PNG.

        In one step: nobody meets half a file. Raises `UsageError` where the suffix does not fit or the file
        that is there is no such file.
        """
        path = Path(path)
        suffix = ".json" if self.drawn is None else ".png"
        if path.suffix.lower() != suffix:
            kind = "polygons are kept as .json" if self.drawn is None else "a mask is kept as .png"
            raise UsageError(f"{path}: {kind}; rename the file")
        fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.drawn is not None:
                Image.fromarray(self.drawn.astype(np.uint8) * 255).save(fresh, format="PNG")
            else:
                products = (_read(path) if path.exists() else {}) | {product: self.to_dict()}
                content = {"format": FORMAT, "products": products}
                fresh.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            os.replace(fresh, path)
        except OSError as error:
            raise UsageError(f"{path}: the region cannot be written: {error.strerror}") from error
        return path

    def to_dict(self) -> dict[str, Any]:
        """The polygons as JSON types: what stands in the file for one product. A mask image has none."""
        if self.drawn is not None:
            raise UsageError("a region that is a mask image has no polygons; save it as .png")
        return {
            "photo_size": list(self.photo_size),
            "include": [[list(corner) for corner in polygon] for polygon in self.include],
            "ignore": [[list(corner) for corner in polygon] for polygon in self.ignore],
        }

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Roi:
        """The region that `to_dict` wrote, or a page or a person; `UsageError` says what is wrong with it."""
        if not isinstance(row, Mapping):
            raise UsageError(f"a region is {row!r:.40}; expected photo_size, include and ignore")
        if unknown := row.keys() - {"photo_size", "include", "ignore"}:
            raise UsageError(
                f"a region has the key {min(unknown)!r}; expected photo_size, include and ignore"
            )
        size: Any = row.get("photo_size")
        if not (_is_list(size, 2) and all(isinstance(side, int) for side in size)):
            raise UsageError(f"photo_size is {size!r:.40}; expected [width, height] in px")
        include, ignore = (_polygons(row.get(zone, []), zone) for zone in ("include", "ignore"))
        return cls((size[0], size[1]), include, ignore)

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of the zones."""
        if self.drawn is not None:
            facts = str(self.photo_size).encode() + np.packbits(self.drawn).tobytes()
        else:
            facts = json.dumps(self.to_dict(), sort_keys=True).encode()
        return hashlib.sha256(facts).hexdigest()

    def manifest(self) -> dict[str, Any]:
        """What stands in `run.json`."""
        return {"photo_size": list(self.photo_size), "hash": self.hash}

    def mask(self, height: int, width: int) -> NDArray[np.bool_]:
        """What to inspect of a photo of this size, bool [H, W], read only; scaled from the size it was drawn
        on.

        Raises `PhotoError` of kind `other-shape` where the aspect ratio differs by more than 1 %, or where
        nothing of the region is left at this size.
        """
        drawn_on = self.photo_size
        if abs(math.log(width * drawn_on[1] / (height * drawn_on[0]))) > SHAPE_TOLERANCE:
            raise PhotoError(
                f"the photo has {width} x {height} px, but the region of interest was drawn on "
                f"{drawn_on[0]} x {drawn_on[1]}, another shape; draw one for these photos",
                "other-shape",
            )
        mask = _rendered(self, height, width)
        if (height, width) != drawn_on[::-1] and not mask.any():
            raise PhotoError(
                f"at {width} x {height} px nothing is left of the region of interest", "other-shape"
            )
        return mask

    def of(self, photo: Photo) -> NDArray[np.bool_]:
        """What to inspect of this photo, as `mask`; a `PhotoError` names it."""
        try:
            return self.mask(*photo.pixels.shape[:2])
        except PhotoError as error:
            raise PhotoError(f"{photo.path or 'the photo'}: {error}", error.kind) from error


def only(values: NDArray[np.float32], inside: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """The map [H, W], 0 outside of `inside`, what is inspected; None is everywhere."""
    return values if inside is None else np.where(inside, values, np.float32(0))


@lru_cache(maxsize=4)
def _rendered(roi: Roi, height: int, width: int) -> NDArray[np.bool_]:
    if roi.drawn is not None:
        image = Image.fromarray(roi.drawn.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
        mask = np.array(image, dtype=bool)
    else:
        scale = (width / roi.photo_size[0], height / roi.photo_size[1])
        mask = np.full((height, width), not roi.include)
        for polygon in roi.include:
            mask |= fill(polygon, (height, width), scale)
        for polygon in roi.ignore:
            mask &= ~fill(polygon, (height, width), scale)
    mask.flags.writeable = False
    return mask


def fill(
    polygon: Polygon, shape: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.bool_]:
    """The pixels of [H, W] whose centres lie inside a polygon, by the even-odd rule.

    `scale` is for x and y. Polygons that share an edge share no pixel and leave none out.
    """
    height, width = shape
    crossings = np.zeros((height, width + 1), np.uint8)
    corners = np.asarray(polygon, np.float64) * scale
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        low, high = sorted((y0, y1))
        rows = np.arange(max(math.ceil(low - 0.5), 0), min(math.ceil(high - 0.5), height))
        if len(rows):  # centres at y0 <= y < y1: a corner counts for one of its two edges
            at = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
            crossings[rows, np.clip(np.ceil(at - 0.5), 0, width).astype(np.intp)] ^= 1
    return np.bitwise_xor.accumulate(crossings, axis=1)[:, :-1].astype(bool)


def _check(polygon: Polygon, name: str, size: tuple[int, int]) -> None:
    if len(polygon) < 3:
        raise UsageError(f"the polygon {name} has {len(polygon)} corners; expected three or more")
    corners = np.asarray(polygon, np.float64)
    for x, y in corners:
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise UsageError(
                f"the polygon {name} has a corner at {x:g}, {y:g}; expected one on the photo of "
                f"{size[0]} x {size[1]} px"
            )
    if not fill(polygon, (size[1], size[0])).any():
        raise UsageError(f"the polygon {name} is empty: no pixel of the photo lies inside")


def _from_image(path: Path) -> Roi:
    try:
        values = read_photo(path).pixels.mean(axis=2)
    except PhotoError as error:
        raise UsageError(
            f"{error}; expected a region of interest: a .json file with polygons, or a mask image"
        ) from error
    if not (values >= 128).any():
        raise UsageError(f"{path} is all dark: it leaves nothing to inspect; expected white where to look")
    return Roi.from_mask(values >= 128)


def _read(path: Path) -> dict[str, Any]:
    """What stands in the file for each product."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"there is no {path}; expected a file with regions of interest") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read as regions of interest: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise UsageError(f"{path}: format {found!r}; expected {FORMAT!r} (see clipsam/roi.py)")
    products = content.get("products")
    if not isinstance(products, dict) or not products:
        raise UsageError(f"{path}: no products; expected at least one with its photo_size and zones")
    return products


def _polygons(given: Any, zone: str) -> tuple[Polygon, ...]:
    if not isinstance(given, list):
        raise UsageError(f"{zone} is {given!r:.40}; expected a list of polygons")
    for number, polygon in enumerate(given, start=1):
        if not isinstance(polygon, list) or not all(_is_corner(corner) for corner in polygon):
            raise UsageError(
                f"the polygon {zone} {number} is {polygon!r:.40}; expected corners such as [[x, y], ...]"
            )
    return tuple(tuple((float(x), float(y)) for x, y in polygon) for polygon in given)


def _is_corner(given: Any) -> bool:
    return _is_list(given, 2) and all(isinstance(n, int | float) and math.isfinite(n) for n in given)


def _is_list(given: Any, length: int) -> bool:
    return isinstance(given, Sequence) and not isinstance(given, str) and len(given) == length
