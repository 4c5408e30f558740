"""The object families by name. Input: none. Output: `OBJECTS`; it does not know how they are drawn."""

from __future__ import annotations

from clipsam.nano.corpus import objects_electric as electric
from clipsam.nano.corpus import objects_flat as flat
from clipsam.nano.corpus import objects_food as food
from clipsam.nano.corpus import objects_metal as metal
from clipsam.nano.corpus import objects_pills as pills
from clipsam.nano.corpus import objects_round as round_parts
from clipsam.nano.corpus import objects_screw as screw
from clipsam.nano.corpus import objects_swatch as swatches
from clipsam.nano.corpus.part import Family

OBJECTS: dict[str, Family] = {
    "bottle": round_parts.bottle,
    "cap": round_parts.cap,
    "washer": round_parts.washer,
    "gear": round_parts.gear,
    "bearing": round_parts.bearing,
    "tablet": pills.tablet,
    "capsule": pills.capsule,
    "cable": round_parts.cable,
    "lens": round_parts.lens,
    "brush": round_parts.brush,
    "helix": metal.helix,
    "ball_screw": screw.ball_screw,
    "rope": screw.rope,
    "vial": screw.vial,
    "polished": screw.polished,
    "bolt": metal.bolt,
    "spring": metal.spring,
    "shaft": metal.shaft,
    "magnetic_tile": metal.magnetic_tile,
    "metal_plate": metal.metal_plate,
    "rotor": metal.rotor,
    "casting": metal.casting,
    "cookie": food.cookie,
    "bread": food.bread,
    "hazelnut": food.hazelnut,
    "heap": food.heap,
    "circuit_board": electric.circuit_board,
    "connector": electric.connector,
    "package": electric.package,
    "label": flat.label,
    "zipper": flat.zipper,
    "tray": flat.tray,
    "moulded": flat.moulded,
    "pouch": flat.pouch,
    "swatch": swatches.swatch,
}
