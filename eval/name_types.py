"""How well words tell types of defects apart, on rendered validation pictures alone.

python eval/name_types.py [--weights DIR] [--count 600] [--side 384] [--out eval/results/nano/name_types.json]

Where a picture has two defects of different types one after the other, the share of a named type
(`CoarseMap.shares`) should be higher on its own defect than on the other; asked for the other type, it
should follow. With the sentences of `prompts/industrial.toml`, and with paraphrases that training never uses.
Beside it: how often the type with the highest share is the right one. Half of the pictures show families that
training never draws.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from clipsam.clip import ClipEncoder
from clipsam.heatmap import CoarseMap
from clipsam.nano.corpus.captions import WORDS
from clipsam.nano.corpus.compose import Corpus, Sample
from clipsam.nano.models import WEIGHTS
from clipsam.nano.validate import mean_on, seen, told_apart
from clipsam.presets import PRESETS
from clipsam.prompts import PromptEnsemble, load_prompts
from clipsam.runs.manifest import versions

Answers = dict[str, list[bool]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS / "clip")
    parser.add_argument("--count", type=int, default=600, help="validation pictures")
    parser.add_argument("--side", type=int, default=384, help="px of a rendered picture")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    encoder, side = ClipEncoder.from_dir(options.weights), options.side
    ensembles = {"industrial": load_prompts("industrial"), "paraphrased": paraphrased()}
    samples = Corpus(options.count, 0, "validation", height=side, width=side)
    found = {"count": options.count, "side": side, "versions": versions()}
    found |= measured(encoder, ensembles, samples)
    text = json.dumps(found, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def paraphrased() -> PromptEnsemble:
    """The default ensemble, each of its types in the words that are kept for validation."""
    ensemble = load_prompts("industrial")
    return replace(
        ensemble, defects=tuple(replace(one, states=WORDS[one.name].held_out) for one in ensemble.defects)
    )


def measured(
    encoder: ClipEncoder, ensembles: dict[str, PromptEnsemble], samples: Corpus
) -> dict[str, dict[str, float]]:
    """Of each ensemble percentages of what is right, and of how many cases: see `pairs` and `names`."""
    answers: dict[str, Answers] = {which: {} for which in ensembles}
    settings = PRESETS["nano"].heatmap
    for sample in samples:
        for which, ensemble in ensembles.items():
            coarse = seen(encoder, ensemble, sample, settings)
            for name, answer in (*pairs(coarse, sample), *names(coarse, sample)):
                answers[which].setdefault(name, []).append(answer)
    return {which: summed_up(given) for which, given in answers.items()}


def summed_up(answers: Answers) -> dict[str, float]:
    """In per cent, and the numbers of cases."""
    scores = {name: round(100 * float(np.mean(right)), 1) for name, right in answers.items()}
    return scores | {"named_cases": len(answers["named"]), "defects": len(answers["first"])}


def pairs(coarse: CoarseMap, sample: Sample) -> Iterator[tuple[str, bool]]:
    """`named`: a named type ranks its own defect above the other; `followed`: both types of a pair do."""
    right = told_apart(coarse, sample)
    yield from (("named", answer) for answer in right)
    yield from (("followed", one and other) for one, other in zip(right[::2], right[1::2], strict=True))


def names(coarse: CoarseMap, sample: Sample) -> Iterator[tuple[str, bool]]:
    """`first`: the type with the highest share on a defect is its own; `among_three`: it is one of the three
    highest."""
    shares = coarse.shares
    for one in sample.instances:
        ranked = np.argsort([-mean_on(grid, one.mask) for grid in shares])
        place = list(ranked).index(coarse.defects.index(one.defect))
        yield "first", place == 0
        yield "among_three", place < 3


if __name__ == "__main__":
    main()
