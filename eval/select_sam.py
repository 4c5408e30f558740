"""Choose how masks and the photo's own contrast change the map of preset `nano`, on rendered pictures alone.

python eval/select_sam.py [--count 48] [--side 384] [--seed 0] [--only WORDS]

Prints pixel F1-max, PRO, AP and AUROC of the coarse map and of each choice, and the threshold of the best
F1. Half of the pictures show families that training never draws. The coarse map of a picture is made once.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from clipsam.clip import ClipEncoder
from clipsam.edges import sharpen
from clipsam.fusion import fuse
from clipsam.metrics import PixelMetrics
from clipsam.nano.corpus.compose import Corpus
from clipsam.nano.validate import seen
from clipsam.presets import NANO, Preset
from clipsam.prompts import load_prompts
from clipsam.regions import region_prompts
from clipsam.sam import SamRefiner
from clipsam.settings import FusionSettings, SamSettings

SHARPENED = (  # weight, reach and guide of the photo's own cue
    (0.3, 0.01, 0.0),
    (0.3, 0.02, 0.0),
    (0.3, 0.04, 0.0),
    (0.6, 0.02, 0.0),
    (0.0, 0.02, 0.015),
    (0.3, 0.02, 0.015),
    (0.3, 0.02, 0.03),
    (0.6, 0.02, 0.015),
)
FIGURES = ("pixel_f1_max", "pro", "pixel_ap", "pixel_auroc")


def choices() -> dict[str, Preset]:
    """The choices by name."""
    plain = replace(NANO, sam_settings=SamSettings(), fusion=FusionSettings())
    masks_alone = FusionSettings(weighting="agreement")
    found = {"plain lift": plain}
    for weight, reach, guide in SHARPENED:
        fusion = FusionSettings(weight=0.0, edge_weight=weight, edge_reach=reach, edge_guide=guide)
        found[f"photo alone: {weight} within {reach}, guided {guide}"] = replace(plain, fusion=fusion)
    for merge in ("lift", "redraw"):
        fusion = replace(masks_alone, merge=merge)
        found[f"masks {merge} by agreement"] = replace(plain, fusion=fusion)
        fusion = replace(fusion, edge_weight=0.3, edge_guide=0.015)
        found[f"masks {merge} by agreement and photo"] = replace(plain, fusion=fusion)
    for change in ({"strategy": "mmr"}, {"strategy": "cascade"}, {"edges": 0.01}, {"crop": 12}):
        found[f"masks lift {change}"] = replace(
            plain, fusion=masks_alone, sam_settings=replace(plain.sam_settings, **change)
        )
    for weight in (0.5, 0.75, 1.0):
        fusion = FusionSettings(weight=weight)
        found[f"masks lift fully, weight {weight}"] = replace(plain, fusion=fusion)
        fusion = replace(fusion, edge_weight=0.4, edge_guide=0.015)
        found[f"masks lift fully, weight {weight}, and photo"] = replace(plain, fusion=fusion)
    both = replace(masks_alone, edge_weight=0.4, edge_guide=0.015)
    for context in (1.4, 2.0, 4.0):
        asked = replace(plain.sam_settings, crop=48, crop_context=context)
        found[f"masks lift, crops {context} times as wide, and photo"] = replace(
            plain, fusion=both, sam_settings=asked
        )
        for merge in ("lift", "redraw"):
            full = replace(both, weighting="fixed", merge=merge)
            found[f"masks {merge} fully, crops {context} times as wide, and photo"] = replace(
                plain, fusion=full, sam_settings=asked
            )
        redrawn = replace(both, merge="redraw")
        found[f"masks redraw, crops {context} times as wide, and photo"] = replace(
            plain, fusion=redrawn, sam_settings=asked
        )
    for strategy in ("mmr", "cascade"):
        asked = replace(plain.sam_settings, strategy=strategy)
        found[f"masks lift {strategy} and photo"] = replace(plain, fusion=both, sam_settings=asked)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=48, help="validation pictures")
    parser.add_argument("--side", type=int, default=384, help="px of a rendered picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="choices whose name holds this")
    options = parser.parse_args()
    clip, sam = ClipEncoder.from_spec(NANO.clip), SamRefiner.from_spec(NANO.sam)
    ensemble = load_prompts(NANO.prompts)
    presets = {name: preset for name, preset in choices().items() if options.only in name}
    scores = {name: PixelMetrics() for name in ("coarse", *presets)}
    size = {"height": options.side, "width": options.side}
    for sample in Corpus(options.count, options.seed, "validation", **size):
        coarse = seen(clip, ensemble, sample, NANO.heatmap).anomaly
        scores["coarse"].update(coarse, sample.mask)
        prompts = region_prompts(coarse, NANO.regions)
        for name, preset in presets.items():
            ask = preset.fusion.weight > 0
            masks = sam.refine(sample.image, prompts, coarse, preset.sam_settings) if ask else ()
            sharp = sharpen(coarse, sample.image, preset.fusion)
            scores[name].update(fuse(sharp, masks, preset.fusion), sample.mask)
    for name, metrics in scores.items():
        found = metrics.compute()
        figures = " ".join(f"{100 * float(found[key] or 0):5.1f}" for key in FIGURES)
        print(f"{name:50} {figures}   threshold {found['pixel_threshold']:.2f}", flush=True)


if __name__ == "__main__":
    main()
