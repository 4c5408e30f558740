"""The drawing board of the corpus: planar colours, alpha painting, shading, pieces, and placement on the
photo.

Input: fields from `noise` and distances from `shapes`. Output: a finished `Part`.
It does not know which product is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipsam.nano.corpus.noise import Field, chance, rotated
from clipsam.nano.corpus.part import Part, Piece

Window = tuple[slice, slice]
Light = tuple[float, float, float]

MAX_PIECES = 8
MAX_WITHOUT = 4  # pieces that carry a picture of the part without them; each costs a full photo


def random_light(rng: np.random.Generator) -> Light:
    """A unit vector towards a light somewhere above the part."""
    turn, lift = rng.uniform(0, 2 * math.pi), rng.uniform(0.45, 1.2)
    flat = math.cos(lift)
    return (math.cos(turn) * flat, math.sin(turn) * flat, math.sin(lift))


def slopes(relief: Field) -> tuple[Field, Field]:
    """Forward differences (d/dx, d/dy) [H, W] of a height field."""
    dx, dy = np.zeros_like(relief), np.zeros_like(relief)
    np.subtract(relief[:, 1:], relief[:, :-1], out=dx[:, :-1])
    np.subtract(relief[1:], relief[:-1], out=dy[:-1])
    return dx, dy


def shading(relief: Field, light: Light, depth: float = 1.0, ambient: float = 0.3) -> Field:
    """Lambert shading [H, W], 1 on flat ground, of a height field in pixels scaled by `depth`.

    `ambient` is the share of light that comes from everywhere, so that no side turns black.
    """
    dx, dy = slopes(relief)
    dx, dy = dx * np.float32(depth), dy * np.float32(depth)
    lit = (light[2] - dx * light[0] - dy * light[1]) / np.sqrt(1 + dx * dx + dy * dy)
    return np.maximum(lit, 0) * np.float32((1 - ambient) / light[2]) + np.float32(ambient)


def gloss(relief: Field, light: Light, depth: float = 1.0, sharpness: float = 20.0) -> Field:
    """Specular highlight [H, W] in [0, 1] (Blinn-Phong) of a height field seen from straight above."""
    half = np.array([light[0], light[1], light[2] + 1.0])
    hx, hy, hz = (float(c) for c in half / np.linalg.norm(half))
    dx, dy = slopes(relief)
    dx, dy = dx * np.float32(depth), dy * np.float32(depth)
    facing = (hz - dx * hx - dy * hy) / np.sqrt(1 + dx * dx + dy * dy)
    return np.exp(np.float32(sharpness) * (np.minimum(facing, 1) - 1))


@dataclass(frozen=True)
class Place:
    """Where an object lies: centre (y, x) and size in pixels, its turn, and its own coordinates u, v [H,
    W]."""

    cy: float
    cx: float
    size: float
    angle: float
    u: Field
    v: Field

    @property
    def radius(self) -> Field:
        return np.sqrt(self.u * self.u + self.v * self.v)

    @property
    def turn(self) -> Field:
        """Polar angle [H, W] in turns, in [-0.5, 0.5]."""
        return np.arctan2(self.v, self.u) * np.float32(0.5 / math.pi)


def place(
    rng: np.random.Generator,
    height: int,
    width: int,
    fill: tuple[float, float] = (0.25, 0.47),
    *,
    upright: float = 0.4,
    cut: float = 0.12,
    aspect: float = 1.0,
) -> Place:
    """A random place for an object whose half-size is `fill` times the shorter side.

    With probability `upright` it is turned by (nearly) a quarter; with `cut` it may leave the photo.
    `aspect` is
    its length over its width: it is kept along u, and the size shrinks so that a long object still fits.
    """
    quarter = int(rng.integers(4)) if aspect < 1.3 else 2 * int(rng.integers(2)) + (height > width)
    angle = (
        quarter * math.pi / 2 + rng.normal(0, 0.03) if chance(rng, upright) else rng.uniform(0, 2 * math.pi)
    )
    size = rng.uniform(*fill) * min(height, width)
    c, s = abs(math.cos(angle)), abs(math.sin(angle))
    room_x, room_y = size * (c + s / aspect) / (width / 2), size * (s + c / aspect) / (height / 2)
    if chance(rng, cut):
        size *= rng.uniform(1.1, 1.9)
        cy, cx = height * rng.uniform(0.2, 0.8), width * rng.uniform(0.2, 0.8)
    else:
        size *= min(1.0, 0.97 / max(room_x, room_y)) if aspect >= 1.3 else 1.0
        slack_y = max(height / 2 - size * (s + c / aspect), 0.03 * height)
        slack_x = max(width / 2 - size * (c + s / aspect), 0.03 * width)
        cy = height / 2 + slack_y * rng.uniform(-0.8, 0.8)
        cx = width / 2 + slack_x * rng.uniform(-0.8, 0.8)
    u, v = rotated(height, width, angle, (cy, cx))
    return Place(cy, cx, size, angle, u, v)


def colour(red: float, green: float, blue: float) -> Field:
    """A colour [3] clipped to [0, 1]."""
    return np.clip(np.array([red, green, blue], dtype=np.float32), 0, 1)


def vary(rng: np.random.Generator, base: Sequence[float] | Field, amount: float = 0.08) -> Field:
    """`base` [3] with its brightness and each channel moved at random."""
    shift = rng.normal(0, amount) + rng.normal(0, amount / 3, 3)
    return np.clip(np.asarray(base, dtype=np.float32) + shift.astype(np.float32), 0.04, 1).astype(np.float32)


def any_colour(rng: np.random.Generator, vivid: float = 0.5) -> Field:
    """A random colour [3]: grey-ish at `vivid` 0, saturated at 1."""
    grey = rng.uniform(0.08, 0.92)
    return np.clip(grey + vivid * rng.uniform(-0.6, 0.6, 3), 0.02, 0.98).astype(np.float32)


class Canvas:
    """Planar colours [3, H, W] that families paint on; `finish` makes the `Part`."""

    def __init__(self, height: int, width: int, base: Field | float = 0.5) -> None:
        self.height, self.width = height, width
        self.pixels: Field = np.empty((3, height, width), dtype=np.float32)
        self.pixels[:] = base[:, None, None] if isinstance(base, np.ndarray) and base.ndim == 1 else base
        self.solid: NDArray[np.bool_] = np.zeros((height, width), dtype=bool)
        self._pieces: list[tuple[str, NDArray[np.bool_], Window, Field | None]] = []

    def window(self, cy: float, cx: float, reach: float) -> Window | None:
        """The slices within `reach` pixels of a point; None when that lies outside the photo."""
        y0, y1 = max(int(cy - reach), 0), min(int(cy + reach) + 2, self.height)
        x0, x1 = max(int(cx - reach), 0), min(int(cx + reach) + 2, self.width)
        return (slice(y0, y1), slice(x0, x1)) if y0 < y1 and x0 < x1 else None

    def paint(self, alpha: Field, paint: Field | float, where: Window | None = None) -> None:
        """Lay `paint` (a colour [3], a grey field [h, w] or colours [3, h, w]) over the canvas with
        `alpha` [h, w]."""
        target = self.pixels if where is None else self.pixels[:, where[0], where[1]]
        layer = paint[:, None, None] if isinstance(paint, np.ndarray) and paint.ndim == 1 else paint
        target += alpha * (layer - target)

    def ramp(self, value: Field, dark: Field, light: Field) -> None:
        """Fill the canvas with a blend of two colours [3]; `value` [H, W] 0 is `dark`, 1 is `light`."""
        np.multiply(value, (light - dark)[:, None, None], out=self.pixels)
        self.pixels += dark[:, None, None]

    def shade(self, factor: Field | float, where: Window | None = None) -> None:
        """Multiply the colours by `factor` [h, w]."""
        target = self.pixels if where is None else self.pixels[:, where[0], where[1]]
        target *= factor

    def glow(self, amount: Field, tint: Field | None = None, where: Window | None = None) -> None:
        """Add light: `amount` [h, w] of white, or of `tint` [3]."""
        target = self.pixels if where is None else self.pixels[:, where[0], where[1]]
        target += amount if tint is None else amount * tint[:, None, None]

    def piece(self, name: str, alpha: Field, paint: Field | float, where: Window | None = None) -> None:
        """Paint something that belongs to the part and remember how the photo looked before."""
        here = where or (slice(0, self.height), slice(0, self.width))
        seen = alpha > 0.3
        if len(self._pieces) < MAX_PIECES and int(np.count_nonzero(seen)) >= 12:
            spare = len([1 for p in self._pieces if p[3] is not None]) < MAX_WITHOUT
            before = self.pixels[:, here[0], here[1]].copy() if spare else None
            touched = alpha > 0.004
            self._pieces.append((name, np.stack([seen, touched]), here, before))
        self.paint(alpha, paint, where)

    def note(self, name: str, mask: NDArray[np.bool_]) -> None:
        """Remember a region [H, W] of the part that was painted already and cannot be taken away."""
        if len(self._pieces) < MAX_PIECES and int(np.count_nonzero(mask)) >= 12:
            here = (slice(0, self.height), slice(0, self.width))
            self._pieces.append((name, np.stack([mask, mask]), here, None))

    def finish(
        self,
        names: Sequence[str],
        kind: str,
        light: Light,
        relief: Field | None = None,
    ) -> Part:
        """The part; the first of `names` is the product. A surface is solid everywhere."""
        np.clip(self.pixels, 0, 1, out=self.pixels)
        image = np.ascontiguousarray(self.pixels.transpose(1, 2, 0))
        solid = np.ones((self.height, self.width), dtype=bool) if kind == "surface" else self.solid
        return Part(
            image=image,
            product=names[0],
            names=tuple(names),
            solid=solid,
            pieces=tuple(self._finished(image, *piece) for piece in self._pieces),
            relief=None if relief is None else np.ascontiguousarray(relief, dtype=np.float32),
            light=light,
            kind=kind,
        )

    def _finished(
        self, image: Field, name: str, masks: NDArray[np.bool_], here: Window, before: Field | None
    ) -> Piece:
        mask = np.zeros((self.height, self.width), dtype=bool)
        mask[here] = masks[0]
        if before is None:
            return Piece(name, mask)
        without = image.copy()
        patch = without[here]
        old = np.clip(before, 0, 1).transpose(1, 2, 0)
        patch[masks[1]] = old[masks[1]]
        return Piece(name, mask, without)
