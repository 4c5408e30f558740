"""The composed sample: a rendered part with none to three defects, photographed, with masks, boxes, types and
words.

Input: a seed (and a size); output: a `Sample`, always the same for the same seed. `Corpus` is a range of
seeds, for data loaders with workers. It does not know networks.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from clipsam.nano.corpus.camera import photograph
from clipsam.nano.corpus.captions import describe
from clipsam.nano.corpus.defects import DEFECTS, HELD_OUT, MOVING, SHARES, apply, conspicuity
from clipsam.nano.corpus.families import FAMILIES, TRAIN_OBJECTS, TRAIN_SURFACES
from clipsam.nano.corpus.families import HELD_OUT as HELD_OUT_FAMILIES
from clipsam.nano.corpus.part import Part, render_part

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
SPLITS = ("train", "validation")
SEEN_IN_PHOTO = 1.0  # in units of defects.conspicuity; below JUST_SEEN, as the camera adds noise of its own
_VALIDATION_SEEDS = 1 << 40  # keeps the seeds of the two splits apart


@dataclass(frozen=True)
class Instance:
    """One defect: its type, mask bool [H, W], and box (x0, y0, x1, y1) in px, the last two exclusive."""

    defect: str
    mask: Bools
    box_xyxy: tuple[int, int, int, int]


@dataclass(frozen=True)
class Sample:
    """A photographed part: `image` uint8 [H, W, 3], its defects, what it is called, and where part and pieces
    are.
    """

    image: NDArray[np.uint8]
    flawless: NDArray[np.uint8]  # the same photo without its defects
    instances: tuple[Instance, ...]
    product: str
    names: tuple[str, ...]
    pieces: tuple[tuple[str, Bools], ...]
    solid: Bools
    family: str
    caption: str
    seed: int

    @property
    def defects(self) -> tuple[str, ...]:
        """The types of its defects, one per instance."""
        return tuple(instance.defect for instance in self.instances)

    @property
    def mask(self) -> Bools:
        """All defects together, bool [H, W]."""
        whole = np.zeros(self.solid.shape, bool)
        for instance in self.instances:
            whole |= instance.mask
        return whole


def box_of(mask: Bools) -> tuple[int, int, int, int]:
    """The box (x0, y0, x1, y1) around a non-empty mask, the last two exclusive."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1


def render(
    seed: int,
    height: int = 256,
    width: int = 256,
    *,
    defects: Sequence[str] | None = None,
    families: Sequence[str] | None = None,
    p_normal: float = 0.3,
    max_defects: int = 3,
) -> Sample:
    """The sample of this seed: always the same for the same arguments.

    `defects` limits the types that may be drawn (default: all of DEFECTS) and `families` the parts (default:
    the training families); a share `p_normal` stays flawless, the others get 1 to `max_defects` defects, of
    different types where possible. Where no drawn type fits the part, the sample stays flawless. Raises
    KeyError for unknown types or families.
    """
    rng = np.random.default_rng(seed)
    allowed = tuple(DEFECTS) if defects is None else tuple(defects)
    family = _draw_family(rng, families)
    part = render_part(rng, height, width, (family,))
    wanted = () if rng.random() < p_normal else _draw_types(rng, allowed, max_defects, part)
    image, instances = _damage(rng, part, wanted, allowed)
    photo, flawless, instances = _photographed(rng, part.image, image, instances)
    names = tuple(dict.fromkeys(name.lower() for name in (part.product, *part.names)))
    return Sample(
        image=np.rint(photo * 255).astype(np.uint8),
        flawless=np.rint(flawless * 255).astype(np.uint8),
        instances=instances,
        product=part.product.lower(),
        names=names,
        pieces=tuple((piece.name, piece.mask) for piece in part.pieces),
        solid=part.solid,
        family=family,
        caption=describe(rng, names, [i.defect for i in instances]),
        seed=seed,
    )


@lru_cache(maxsize=1)
def product_names() -> tuple[str, ...]:
    """What the parts of all families are called, sorted; found by rendering each family small a few times."""
    rng = np.random.default_rng(0)
    parts = [render_part(rng, 64, 64, (family,)) for family in FAMILIES for _ in range(3)]
    return tuple(sorted({name.lower() for part in parts for name in (part.product, *part.names)}))


def _draw_family(rng: np.random.Generator, families: Sequence[str] | None) -> str:
    if families is None:
        families = TRAIN_SURFACES if rng.random() < 0.45 else TRAIN_OBJECTS
    return families[int(rng.integers(len(families)))]


def _draw_types(rng: np.random.Generator, allowed: Sequence[str], most: int, part: Part) -> tuple[str, ...]:
    """One to `most` types; types that need loose pieces only where the part has some. Those that move things
    come first.
    """
    loose = any(piece.without is not None for piece in part.pieces)
    fitting = [d for d in allowed if loose or d not in ("missing part", "misplaced part")] or list(allowed)
    shares = np.array([SHARES.get(d, 1.0) * (1.6 if d.endswith(" part") else 1.0) for d in fitting])
    count = min(most, int(rng.choice((1, 2, 3), p=(0.55, 0.32, 0.13))), len(fitting))
    drawn = rng.choice(len(fitting), size=count, replace=False, p=shares / shares.sum())
    types = [fitting[int(k)] for k in drawn]
    if count > 1 and rng.random() < 0.15:  # now and then two of a kind
        types[1] = types[0]
    return tuple(sorted(types, key=lambda d: MOVING.index(d) if d in MOVING else len(MOVING)))


def _damage(
    rng: np.random.Generator, part: Part, wanted: Sequence[str], allowed: Sequence[str]
) -> tuple[NDArray[np.float32], tuple[Instance, ...]]:
    """The damaged picture float32 [H, W, 3] and its instances, which overlap little."""
    taken = np.zeros(part.solid.shape, bool)
    instances: list[Instance] = []
    queue = list(wanted)
    if wanted:  # spare types, for where the wanted ones do not fit
        queue += [allowed[int(k)] for k in rng.integers(len(allowed), size=3)]
    for defect in queue:
        if len(instances) >= len(wanted):
            break
        change = apply(rng, part, defect)
        if change is None:
            continue
        image, mask = change
        if (mask & taken).sum() > 0.2 * min(mask.sum(), max(1, taken.sum())):
            continue
        part = replace(part, image=image)
        taken |= mask
        instances.append(Instance(defect, mask, box_of(mask)))
    return part.image, tuple(instances)


def _photographed(
    rng: np.random.Generator, flawless: Floats, image: Floats, instances: tuple[Instance, ...]
) -> tuple[Floats, Floats, tuple[Instance, ...]]:
    """The photos float32 [H, W, 3] of `image` and `flawless`, and those instances that can still be seen.

    The same camera looks at both pictures: what glare, darkness, blur or grey conversion have
    wiped out would be a wrong label.
    """
    again = copy.deepcopy(rng)
    photo = photograph(image, rng)
    if not instances:
        return photo, photo, ()
    clean = photograph(flawless, again)
    seen = tuple(i for i in instances if conspicuity(clean, photo, i.mask) > SEEN_IN_PHOTO)
    return photo, clean, seen


class Corpus:
    """`size` samples, each made when it is asked for: indexable, iterable, picklable, the same for the same
    `seed`.

    The training split draws the training families; validation draws the held-out ones half of the time. With
    `hold_out`, training never draws the types HELD_OUT. Raises ValueError for another split.
    """

    def __init__(
        self,
        size: int,
        seed: int = 0,
        split: str = "train",
        *,
        height: int = 256,
        width: int = 256,
        hold_out: bool = True,
        p_normal: float = 0.3,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; expected one of {', '.join(SPLITS)}")
        self.size, self.seed, self.split = size, seed, split
        self.height, self.width, self.p_normal = height, width, p_normal
        held = HELD_OUT if hold_out and split == "train" else ()
        self.defects = tuple(d for d in DEFECTS if d not in held)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.size:
            raise IndexError(index)
        seed = (self.seed << 24) + index + (_VALIDATION_SEEDS if self.split == "validation" else 0)
        held = HELD_OUT_FAMILIES if self.split == "validation" and index % 2 else None
        return render(
            seed, self.height, self.width, defects=self.defects, families=held, p_normal=self.p_normal
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(self.size))


def outlined(sample: Sample, colour: tuple[int, int, int] = (255, 0, 0)) -> NDArray[np.uint8]:
    """The picture uint8 [H, W, 3] with a thin line just outside each defect."""
    image = sample.image.copy()
    for instance in sample.instances:
        near = ndimage.binary_dilation(instance.mask)
        image[ndimage.binary_dilation(near) & ~near] = colour
    return image


def draw_preview(
    path: str | Path, n: int = 48, seed: int = 0, *, split: str = "train", columns: int = 8
) -> None:
    """Write a contact sheet: `n` samples, each beside itself with its defects outlined, and their types
    below.
    """
    from PIL import ImageDraw

    side, foot = 160, 14
    rows = -(-n // columns)
    sheet = Image.new("RGB", (columns * 2 * side, rows * (side + foot)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, sample in enumerate(Corpus(n, seed, split)):
        x, y = index % columns * 2 * side, index // columns * (side + foot)
        for k, picture in enumerate((sample.image, outlined(sample))):
            sheet.paste(
                Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), (x + k * side, y)
            )
        draw.text(
            (x + 2, y + side + 1), f"{sample.family}: {', '.join(sample.defects) or 'flawless'}", fill="black"
        )
    sheet.save(path)
