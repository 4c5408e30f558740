"""The close-up families by name. Input: none. Output: `SURFACES`; it does not know how they are drawn."""

from __future__ import annotations

from clipsam.nano.corpus import surfaces_fibre as fibre
from clipsam.nano.corpus import surfaces_joined as joined
from clipsam.nano.corpus import surfaces_metal as metal
from clipsam.nano.corpus import surfaces_mineral as mineral
from clipsam.nano.corpus.part import Family

SURFACES: dict[str, Family] = {
    "woven": fibre.woven,
    "knitted": fibre.knitted,
    "carpet": fibre.carpet,
    "leather": fibre.leather,
    "wood": fibre.wood,
    "fibre_board": fibre.fibre_board,
    "paper": fibre.paper,
    "felt": fibre.felt,
    "striped_cloth": fibre.striped_cloth,
    "random_texture": fibre.random_texture,
    "brushed": metal.brushed,
    "rolled": metal.rolled,
    "ground": metal.ground,
    "cast": metal.cast,
    "turned_face": metal.turned_face,
    "perforated": metal.perforated,
    "mesh": metal.mesh,
    "embossed": metal.embossed,
    "grainy_strip": metal.grainy_strip,
    "foil": metal.foil,
    "rail": metal.rail,
    "tiles": mineral.tiles,
    "terrazzo": mineral.terrazzo,
    "marble": mineral.marble,
    "concrete": mineral.concrete,
    "brick": mineral.brick,
    "road": mineral.road,
    "cobbles": mineral.cobbles,
    "printed": mineral.printed,
    "foam": mineral.foam,
    "glazed": mineral.glazed,
    "glass": mineral.glass,
    "orange_peel": mineral.orange_peel,
    "rubber": mineral.rubber,
    "honeycomb": mineral.honeycomb,
    "solar_cell": mineral.solar_cell,
    "stitched": joined.stitched,
    "weld": joined.weld,
    "layered": joined.layered,
    "panel": joined.panel,
}
