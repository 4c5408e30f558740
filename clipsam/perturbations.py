"""Perturbations of a photo and its truth mask: what does a method lose when camera or light differ?

Input: pixels uint8 [H, W, 3], mask bool [H, W] or None, a name and a strength. Output: the same, changed. The
same photo always changes in the same way. Only rotation moves pixels, and moves the mask with them. Knows
nothing of datasets and methods.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from clipsam.errors import UsageError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Perturbation:
    """A change by name. What `strength` means and its default is in `PERTURBATIONS`."""

    name: str
    strength: float

    @classmethod
    def parse(cls, text: str) -> Perturbation:
        """Read "hue" or "hue=0.2"; `UsageError` says which names there are."""
        name, sign, number = text.partition("=")
        if name not in PERTURBATIONS:
            raise UsageError(f"perturbation '{name}' is unknown; expected one of {', '.join(PERTURBATIONS)}.")
        kind = PERTURBATIONS[name]
        try:
            strength = float(number) if sign else kind.default
        except ValueError as error:
            raise UsageError(f"perturbation '{text}': expected {kind.unit} after '='.") from error
        if not kind.lowest <= strength <= kind.highest:
            limits = f"from {kind.lowest:g} to {kind.highest:g}"
            raise UsageError(f"perturbation '{text}': expected {kind.unit}, {limits}.")
        return cls(name, strength)

    def __str__(self) -> str:
        return f"{self.name}={self.strength:g}"

    def apply(self, pixels: Pixels, mask: Mask | None) -> tuple[Pixels, Mask | None]:
        """The changed photo and mask, of the same size."""
        if self.name == "rotation":
            return _rotated(pixels, self.strength), None if mask is None else _rotated_mask(
                mask, self.strength
            )
        return PERTURBATIONS[self.name].change(pixels, self.strength), mask


@dataclass(frozen=True)
class Kind:
    """A kind of perturbation: the change of the pixels, the default strength, what it means, its limits."""

    change: Callable[[Pixels, float], Pixels]
    default: float
    unit: str
    lowest: float
    highest: float


def _rotated(pixels: Pixels, degrees: float) -> Pixels:
    """Turned about the centre; what comes in from outside is the mirrored photo."""
    height, width = pixels.shape[:2]
    margin = _margin(height, width)
    widths = [(side, side) for side in margin] + [(0, 0)] * (pixels.ndim - 2)
    turned = Image.fromarray(np.pad(pixels, widths, mode="symmetric")).rotate(
        degrees, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)[margin[0] : margin[0] + height, margin[1] : margin[1] + width]


def _rotated_mask(mask: Mask, degrees: float) -> Mask:
    return _rotated(mask.astype(np.uint8) * 255, degrees) >= 128


def _margin(height: int, width: int) -> tuple[int, int]:
    """How far the photo must be continued on each side, so that no angle turns a blank corner in."""
    diagonal = float(np.hypot(height, width))
    return int(np.ceil((diagonal - height) / 2)) + 1, int(np.ceil((diagonal - width) / 2)) + 1


def _hue(pixels: Pixels, turns: float) -> Pixels:
    hsv = np.array(Image.fromarray(pixels).convert("HSV"))
    hsv[:, :, 0] += np.uint8(round(turns * 256) % 256)  # wraps around, as hue does
    return np.asarray(Image.fromarray(hsv, "HSV").convert("RGB"))


def _saturation(pixels: Pixels, factor: float) -> Pixels:
    return np.asarray(ImageEnhance.Color(Image.fromarray(pixels)).enhance(factor))


def _brightness(pixels: Pixels, factor: float) -> Pixels:
    return np.asarray(ImageEnhance.Brightness(Image.fromarray(pixels)).enhance(factor))


def _noise(pixels: Pixels, sigma: float) -> Pixels:
    rng = np.random.default_rng(int(pixels.sum(dtype=np.uint64)))  # the photo is its own seed
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(sigma)
    return np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8)


def _blur(pixels: Pixels, sigma: float) -> Pixels:
    radius = sigma * max(pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))


def _jpeg(pixels: Pixels, quality: float) -> Pixels:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(quality))
    return np.asarray(Image.open(file))


PERTURBATIONS = {
    "rotation": Kind(_rotated, 15.0, "degrees, counter-clockwise", -180, 180),
    "hue": Kind(_hue, 0.1, "a part of the colour circle", -0.5, 0.5),
    "saturation": Kind(_saturation, 1.5, "a factor, 0 is grey", 0, 10),
    "brightness": Kind(_brightness, 1.3, "a factor", 0, 10),
    "noise": Kind(_noise, 10.0, "the sigma of Gaussian noise in grey levels of 255", 0, 255),
    "blur": Kind(_blur, 0.002, "the sigma as a fraction of the longer side", 0, 0.2),
    "jpeg": Kind(_jpeg, 30.0, "JPEG's quality", 1, 95),
}
