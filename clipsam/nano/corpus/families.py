"""All families of flawless parts by name, and which of them training never sees.

Input: none. Output: `FAMILIES`, `HELD_OUT`, `TRAIN_SURFACES`, `TRAIN_OBJECTS`. It does not draw anything
itself.
"""

from __future__ import annotations

from clipsam.nano.corpus.objects import OBJECTS
from clipsam.nano.corpus.part import Family
from clipsam.nano.corpus.surfaces import SURFACES

FAMILIES: dict[str, Family] = {**SURFACES, **OBJECTS}

# Validation families: two surfaces and three objects unlike any that training draws.
HELD_OUT: tuple[str, ...] = ("honeycomb", "solar_cell", "zipper", "bearing", "hazelnut")

TRAIN_SURFACES: tuple[str, ...] = tuple(name for name in SURFACES if name not in HELD_OUT)
TRAIN_OBJECTS: tuple[str, ...] = tuple(name for name in OBJECTS if name not in HELD_OUT)
