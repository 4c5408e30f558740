"""The camera: uneven light, lens, exposure, white balance, sensor noise, grey conversion and JPEG.

Input: a rendered image float32 [H, W, 3] in [0, 1] and a generator. Output: the photo, same shape and range.
It is purely photometric: nothing moves, so masks stay true. It does not know what is in the picture.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image
from scipy import ndimage

from clipsam.nano.corpus.noise import Field, axes, chance, log_uniform, smooth


def photograph(image: Field, rng: np.random.Generator) -> Field:
    """A photo [H, W, 3] of the rendered `image`, with random but plausible camera and lighting."""
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    if chance(rng, 0.75):
        planes = planes * uneven_light(rng, planes.shape[1], planes.shape[2])
    if chance(rng, 0.5):
        planes = blurred(rng, planes)
    if chance(rng, 0.7):
        planes = exposed(rng, planes)
    if chance(rng, 0.25):
        grey = np.float32(0.3) * planes[0] + np.float32(0.59) * planes[1] + np.float32(0.11) * planes[2]
        planes = np.broadcast_to(grey, planes.shape)
    if chance(rng, 0.7):
        planes = planes + sensor_noise(rng, planes)
    photo = np.ascontiguousarray(np.clip(planes, 0, 1).transpose(1, 2, 0), dtype=np.float32)
    return compressed(photo, int(rng.integers(55, 97))) if chance(rng, 0.35) else photo


def uneven_light(rng: np.random.Generator, height: int, width: int) -> Field:
    """Illumination [H, W] around 1: a slope, vignetting, a soft spot, or a soft shadow from outside the
    photo."""
    y, x = axes(height, width)
    y, x = y * np.float32(2 / height) - 1, x * np.float32(2 / width) - 1
    light = np.ones((height, width), dtype=np.float32)
    if chance(rng, 0.6):
        turn, slope = rng.uniform(0, 2 * math.pi), abs(rng.normal(0, 0.15))
        light += np.float32(slope) * (x * math.cos(turn) + y * math.sin(turn))
    if chance(rng, 0.4):
        light -= np.float32(rng.uniform(0.03, 0.3)) * (x * x + y * y) * np.float32(0.5)
    if chance(rng, 0.3):
        cy, cx, reach = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.3, 1.2)
        spot = np.exp(-(np.square(x - cx) + np.square(y - cy)) * np.float32(1 / reach**2))
        light += np.float32(rng.uniform(-0.2, 0.45)) * spot
    if chance(rng, 0.2):
        light += np.float32(rng.uniform(0.03, 0.12)) * smooth(rng, height, width, min(height, width) * 0.4)
    return np.maximum(light, 0.2)


def blurred(rng: np.random.Generator, planes: Field) -> Field:
    """Lens blur [3, H, W]: even, or growing away from a line or point of focus (depth of field)."""
    sigma = rng.uniform(0.3, 1.1)
    soft = np.stack([ndimage.gaussian_filter(plane, sigma, mode="nearest", truncate=3) for plane in planes])
    if chance(rng, 0.7):
        return soft
    height, width = planes.shape[1:]
    y, x = axes(height, width)
    turn = rng.uniform(0, 2 * math.pi)
    away = np.abs(
        (x / width - rng.uniform(0.2, 0.8)) * math.cos(turn)
        + (y / height - rng.uniform(0.2, 0.8)) * math.sin(turn)
    )
    weight = np.clip(away * np.float32(rng.uniform(1, 3)), 0, 1)
    return planes + weight * (soft - planes)


def exposed(rng: np.random.Generator, planes: Field) -> Field:
    """Exposure, contrast (gamma), black level and white balance applied to [3, H, W]."""
    gain = log_uniform(rng, 0.7, 1.3) * np.exp(rng.normal(0, 0.04, 3)).astype(np.float32)
    planes = np.maximum(planes, 0) * gain[:, None, None]
    if chance(rng, 0.6):
        planes = np.power(planes, np.float32(log_uniform(rng, 0.75, 1.4)))
    if chance(rng, 0.3):
        black = np.float32(rng.uniform(0, 0.1))
        planes = black + planes * (1 - black)
    return planes


def sensor_noise(rng: np.random.Generator, planes: Field) -> Field:
    """Noise [3, H, W] that grows with the square root of the light; grey or per channel."""
    height, width = planes.shape[1:]
    amount = np.float32(log_uniform(rng, 0.004, 0.05))
    channels = 3 if chance(rng, 0.6) else 1
    grain = rng.random((channels, height, width), dtype=np.float32) - np.float32(0.5)
    return grain * amount * np.sqrt(np.clip(planes, 0, 1) + np.float32(0.05)) * 2


def compressed(photo: Field, quality: int) -> Field:
    """The photo after JPEG at `quality`."""
    data = io.BytesIO()
    Image.fromarray((photo * 255 + 0.5).astype(np.uint8)).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data), dtype=np.float32) * np.float32(1 / 255)
