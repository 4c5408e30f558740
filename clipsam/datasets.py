"""Datasets read in place: MVTec AD, VisA, BTAD, MPDD, folders laid out like MVTec AD, and CSV lists.

Input: a kind and a root. Output: `Dataset`, the test photos of every category with their masks, sorted by
path. Only names and lists are read here; `dataset_check.py` looks into the files. Of training splits only
the names of good photos are listed. Knows nothing of models or metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipsam.errors import UsageError
from clipsam.prompts import product_name, product_words

GOOD = "good"
PHOTO_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

MVTEC = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw",
    "tile", "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
VISA = (
    "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3",
    "pcb4", "pipe_fryum",
)  # fmt: skip
BTAD = ("01", "02", "03")
MPDD = ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes")

_TITLES = {
    "mvtec": "MVTec AD",
    "visa": "VisA",
    "btad": "BTAD",
    "mpdd": "MPDD",
    "folder": "folder",
    "csv": "CSV",
}
KINDS = tuple(_TITLES)


@dataclass(frozen=True)
class Sample:
    """A test photo. `defect` is "good" or the type of the defect. Good photos need no `mask`; one
    that a list gives them must be empty. A defective one without a mask counts for the image figures only.
    """

    image: Path
    mask: Path | None
    defect: str

    @property
    def is_defective(self) -> bool:
        return self.defect != GOOD


@dataclass(frozen=True)
class Problem:
    """Something wrong with a dataset. A `stray` file is left out; every other kind spoils the figures.

    Kinds: `stray`, `mask missing`, `mask ambiguous`, `mask empty`, `mask unreadable`, `size mismatch`,
    `label mismatch`, `photo unreadable`, `bad row`.
    """

    kind: str
    path: Path
    message: str

    @property
    def is_fault(self) -> bool:
        return self.kind != "stray"

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.message}"


@dataclass(frozen=True)
class Category:
    """The test photos of one product. `product` is how sentences call it; `train` are its good photos
    outside the test split, for methods that take references.
    """

    name: str
    product: str
    samples: tuple[Sample, ...]
    train: tuple[Path, ...] = ()
    batch: tuple[Path, ...] = ()  # all test photos, where `samples` is one process's share of them


@dataclass(frozen=True)
class Dataset:
    """Categories that are present, names of official ones that are absent, and what was wrong so far.

    `limit` says that this is a sample: at most so many photos of each type of defect in each category.
    """

    kind: str
    root: Path
    categories: tuple[Category, ...]
    absent: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    limit: int | None = None

    @property
    def title(self) -> str:
        return _TITLES[self.kind]

    @property
    def name(self) -> str:
        """How tables call it: "mvtec", or for folders and lists the name of the root."""
        return self.kind if self.kind not in ("folder", "csv") else self.root.stem

    def only(self, names: Sequence[str]) -> Dataset:
        """The dataset with these categories alone, in its own order; all of them when `names` is empty."""
        present = {category.name for category in self.categories}
        wrong = [name for name in names if name not in present]
        if wrong:
            shown = ", ".join(sorted(present))
            raise UsageError(f"{self.root} has no category {', '.join(wrong)}; present are: {shown}.")
        if not names:
            return self
        return replace(self, categories=tuple(c for c in self.categories if c.name in names))

    def limited(self, limit: int) -> Dataset:
        """A sample for quick comparisons: of each category at most `limit` photos of each type of
        defect and as many good ones, taken at even steps through the list."""
        if limit < 1:
            raise UsageError(f"limit is {limit}; expected at least 1 photo per type of defect.")
        kept = (replace(c, samples=_spread(c.samples, limit)) for c in self.categories)
        return replace(self, categories=tuple(kept), limit=limit)

    def called(self, products: dict[str, str]) -> Dataset:
        """The dataset with categories called otherwise in sentences: category name -> words."""
        self.only(list(products))
        renamed = (replace(c, product=products.get(c.name, c.product)) for c in self.categories)
        return replace(self, categories=tuple(renamed))


def _spread(samples: tuple[Sample, ...], limit: int) -> tuple[Sample, ...]:
    """At most `limit` samples per type of defect, at even steps, in the order of before."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.defect, []).append(sample)
    kept = {
        group[index * len(group) // min(limit, len(group))]
        for group in groups.values()
        for index in range(min(limit, len(group)))
    }
    return tuple(sample for sample in samples if sample in kept)


def open_dataset(kind: str, root: str | Path, categories: Sequence[str] = ()) -> Dataset:
    """Read the lists of a dataset.

    Args:
        kind: "mvtec", "visa", "btad", "mpdd", "folder" (one category or a folder of them, laid out like
            MVTec AD) or "csv".
        root: the folder that holds the categories; for "csv" the file.
        categories: names to keep; empty keeps all.

    Raises:
        UsageError: the root is not such a dataset, or a category is not there.
    """
    root = Path(root)
    if kind not in KINDS:
        raise UsageError(f"dataset '{kind}' is unknown; expected one of {', '.join(KINDS)}.")
    if not root.exists():
        raise UsageError(f"{root} does not exist; expected the root of {_TITLES[kind]}.")
    if kind == "csv":
        from clipsam.dataset_lists import read_csv_list

        dataset = read_csv_list(root)
    elif kind == "visa":
        from clipsam.dataset_lists import read_visa

        dataset = read_visa(root)
    elif kind == "folder":
        dataset = _read_folder(root)
    else:
        dataset = _read_official(kind, root)
    return dataset.only(categories)


def words_for(kind: str, category: str) -> str:
    """How sentences call a category: from the prompt files for MVTec AD and VisA, else its name, tidied."""
    if kind in ("mvtec", "visa"):
        return product_name(kind, category)
    if kind == "btad":  # its products have numbers only
        return "industrial product"
    return product_words(category.replace("_", " "))


def _read_official(kind: str, root: Path) -> Dataset:
    names, good = {"mvtec": (MVTEC, GOOD), "mpdd": (MPDD, GOOD), "btad": (BTAD, "ok")}[kind]
    inner = root / "BTech_Dataset_transformed"
    if kind == "btad" and inner.is_dir():
        root = inner
    present = [name for name in names if (root / name / "test").is_dir()]
    if not present:
        hint = "that is one category: pass its parent" if (root / "test").is_dir() else "found none of them"
        raise UsageError(
            f"{root}: {hint}; expected <root>/<category>/test/<defect>/ for {', '.join(names)} - for other "
            "products use the dataset 'folder'."
        )
    others = [p for p in _folders(root) if p.name not in names and (p / "test").is_dir()]
    problems = [
        Problem("stray", p, f"not a category of {_TITLES[kind]}; see dataset 'folder'") for p in others
    ]
    categories = []
    for name in present:
        category, found = read_category(root / name, words_for(kind, name), good=good)
        categories.append(category)
        problems += found
    absent = tuple(name for name in names if name not in present)
    return Dataset(kind, root, tuple(categories), absent, tuple(problems))


def _read_folder(root: Path) -> Dataset:
    folders = [root] if (root / "test").is_dir() else [p for p in _folders(root) if (p / "test").is_dir()]
    if not folders:
        raise UsageError(
            f"{root} holds no test/ folder, nor do the folders in it; expected <category>/test/good/, "
            "<category>/test/<defect>/ and <category>/ground_truth/<defect>/."
        )
    read = [read_category(folder, words_for("folder", folder.resolve().name)) for folder in folders]
    problems = tuple(problem for _, found in read for problem in found)
    return Dataset("folder", root.resolve(), tuple(category for category, _ in read), (), problems)


def read_category(folder: Path, product: str, *, good: str = GOOD) -> tuple[Category, list[Problem]]:
    """A category in MVTec's layout: test/<good>, test/<defect>, ground_truth/<defect>/<stem>_mask.* or
    <stem>.*."""
    samples: list[Sample] = []
    problems = [Problem("stray", p, "a file among the folders of test/") for p in _files(folder / "test")]
    defects = _folders(folder / "test")
    for defect in defects:
        photos, strays = _photos(defect)
        problems += strays
        if defect.name == good:
            samples += [Sample(photo, None, GOOD) for photo in photos]
            continue
        paired, found = _pair(photos, folder / "ground_truth" / defect.name, defect.name)
        samples += paired
        problems += found
    truths = _folders(folder / "ground_truth") if (folder / "ground_truth").is_dir() else []
    names = {defect.name for defect in defects} - {good}
    problems += [
        Problem("stray", p, f"no test/{p.name}/ belongs to it") for p in truths if p.name not in names
    ]
    train = folder / "train" / good
    flawless = tuple(_photos(train)[0]) if train.is_dir() else ()
    return Category(folder.resolve().name, product, tuple(samples), flawless), problems


def _pair(photos: list[Path], truth: Path, defect: str) -> tuple[list[Sample], list[Problem]]:
    masks: dict[str, list[Path]] = {}
    files, problems = _photos(truth) if truth.is_dir() else ([], [])
    for mask in files:
        masks.setdefault(mask.stem.removesuffix("_mask"), []).append(mask)
    samples = []
    for photo in photos:
        found = masks.pop(photo.stem, [])
        samples.append(Sample(photo, found[0] if found else None, defect))
        if not found:
            expected = truth / f"{photo.stem}_mask.png"
            problems.append(Problem("mask missing", photo, f"expected its mask at {expected}"))
        elif len(found) > 1:
            names = ", ".join(path.name for path in found)
            problems.append(Problem("mask ambiguous", photo, f"found {names}; expected one of them"))
    strays = (path for rest in masks.values() for path in rest)
    problems += [Problem("stray", path, f"a mask without a photo in test/{defect}/") for path in strays]
    return samples, problems


def _photos(folder: Path) -> tuple[list[Path], list[Problem]]:
    """Photos of one folder, sorted by name, and what else lies there."""
    files = _files(folder)
    photos = [path for path in files if path.suffix.lower() in PHOTO_SUFFIXES]
    strays = [Problem("stray", p, "not a photo") for p in files if p.suffix.lower() not in PHOTO_SUFFIXES]
    strays += [Problem("stray", p, "a folder among photos; it is not read") for p in _folders(folder)]
    return photos, strays


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in _visible(folder.iterdir()) if not path.is_dir())


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in _visible(folder.iterdir()) if path.is_dir())


def _visible(paths: Iterable[Path]) -> Iterable[Path]:
    """Leave out what file browsers and notebooks strew about (.DS_Store, .ipynb_checkpoints, Thumbs.db)."""
    return (
        p for p in paths if not p.name.startswith(".") and p.name.lower() not in ("thumbs.db", "desktop.ini")
    )
