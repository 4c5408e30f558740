"""Every layout read in place, and every mistake in one found before anything is scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsam.dataset_check import check_dataset, read_mask, refuse_faults, without_faults
from clipsam.datasets import MVTEC, Dataset, open_dataset
from clipsam.errors import PhotoError, UsageError


def photo(path: Path, size: tuple[int, int] = (12, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 90)).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (12, 8), value: int = 255, mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, size)
    if value:
        image.paste(value, (2, 2, 5, 6))
    image.save(path)
    return path


def mvtec_category(folder: Path, suffix: str = ".png") -> Path:
    for number in range(2):
        photo(folder / f"test/good/{number:03}{suffix}")
        photo(folder / f"test/scratch/{number:03}{suffix}")
        mask(folder / f"ground_truth/scratch/{number:03}_mask.png")
    photo(folder / "train/good/000.png")
    (folder / "readme.txt").write_text("as in the official archive")
    return folder


def layout(dataset: Dataset) -> dict[str, list[tuple[str, str, str | None]]]:
    return {
        c.name: [(s.image.name, s.defect, s.mask.name if s.mask else None) for s in c.samples]
        for c in dataset.categories
    }


def kinds(dataset: Dataset) -> list[tuple[str, str]]:
    return [(problem.kind, problem.path.name) for problem in check_dataset(dataset)]


SCRATCHED = [
    ("000.png", "good", None),
    ("001.png", "good", None),
    ("000.png", "scratch", "000_mask.png"),
    ("001.png", "scratch", "001_mask.png"),
]


def test_mvtec_says_which_categories_are_absent(tmp_path: Path) -> None:
    mvtec_category(tmp_path / "metal_nut")
    mvtec_category(tmp_path / "bottle")
    dataset = open_dataset("mvtec", tmp_path)
    assert layout(dataset) == {"bottle": SCRATCHED, "metal_nut": SCRATCHED}
    assert [c.product for c in dataset.categories] == ["bottle", "metal nut"]
    assert dataset.absent == tuple(name for name in MVTEC if name not in ("bottle", "metal_nut"))
    assert kinds(dataset) == []
    assert list(layout(open_dataset("mvtec", tmp_path, ["metal_nut"]))) == ["metal_nut"]


def test_mpdd_and_btad(tmp_path: Path) -> None:
    mvtec_category(tmp_path / "mpdd/bracket_black")
    dataset = open_dataset("mpdd", tmp_path / "mpdd")
    assert layout(dataset) == {"bracket_black": SCRATCHED}
    assert dataset.categories[0].product == "bracket black"
    inner = tmp_path / "btad/BTech_Dataset_transformed/03"
    photo(inner / "test/ok/0000.bmp")
    photo(inner / "test/ko/0001.bmp")
    mask(inner / "ground_truth/ko/0001.bmp")
    dataset = open_dataset("btad", tmp_path / "btad")
    assert layout(dataset) == {"03": [("0001.bmp", "ko", "0001.bmp"), ("0000.bmp", "good", None)]}
    assert dataset.absent == ("01", "02")
    assert kinds(dataset) == []


def test_folder_of_one_and_of_many_categories(tmp_path: Path) -> None:
    mvtec_category(tmp_path / "set/gear_wheel", ".jpg")
    (tmp_path / "set/notes").mkdir()
    many = open_dataset("folder", tmp_path / "set")
    assert list(layout(many)) == ["gear_wheel"]
    assert many.name == "set"
    assert many.categories[0].product == "gear wheel"
    assert open_dataset("folder", tmp_path / "set/gear_wheel").categories[0].name == "gear_wheel"
    assert many.called({"gear_wheel": "cog"}).categories[0].product == "cog"


def test_a_sample_is_spread_over_the_photos_of_each_type(tmp_path: Path) -> None:
    root = mvtec_category(tmp_path / "lid")
    for number in range(2, 9):
        photo(root / f"test/scratch/{number:03}.png")
        mask(root / f"ground_truth/scratch/{number:03}_mask.png")
    data = open_dataset("folder", root).limited(3)
    names = [(s.defect, s.image.name) for s in data.categories[0].samples]
    assert names == [("good", f"{n:03}.png") for n in (0, 1)] + [
        ("scratch", f"{n:03}.png") for n in (0, 3, 6)
    ]
    assert data.limit == 3
    with pytest.raises(UsageError, match="expected at least 1 photo"):
        data.limited(0)


def visa(root: Path) -> Path:
    rows = ["object,split,label,image,mask"]
    for number, (split, label) in enumerate(
        [("train", "normal"), ("test", "normal"), ("test", "anomaly"), ("test", "anomaly")]
    ):
        kind = "Normal" if label == "normal" else "Anomaly"
        image = f"pcb1/Data/Images/{kind}/{number:03}.JPG"
        photo(root / image)
        truth = ""
        if label == "anomaly":
            truth = f"pcb1/Data/Masks/Anomaly/{number:03}.png"
            mask(root / truth, value=number)  # small class ids
        rows.append(f"pcb1,{split},{label},{image},{truth}")
    (root / "split_csv").mkdir(parents=True)
    (root / "split_csv/1cls.csv").write_text("\n".join(rows) + "\n")
    return root


def test_visa_official_split_with_class_ids_in_masks(tmp_path: Path) -> None:
    dataset = open_dataset("visa", visa(tmp_path / "VisA"))
    assert layout(dataset) == {
        "pcb1": [
            ("002.JPG", "defect", "002.png"),
            ("003.JPG", "defect", "003.png"),
            ("001.JPG", "good", None),
        ]
    }
    assert dataset.categories[0].product == "printed circuit board"
    assert kinds(dataset) == []
    truth = dataset.categories[0].samples[0].mask
    assert truth
    assert np.asarray(Image.open(truth)).max() == 2
    assert read_mask(truth).sum() == 12


def test_csv_list(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        photo(tmp_path / f"photos/{name} ü.png")
    mask(tmp_path / "truth/b.png")
    table = tmp_path / "list.csv"
    table.write_text(
        "Image, Mask ,Label,category,split\n"
        "photos/a ü.png,,OK,lid,test\n"
        "photos/b ü.png,truth/b.png,oil stain,lid,test\n"
        "photos/c ü.png,,ok,lid,train\n",
        encoding="utf-8-sig",
    )
    dataset = open_dataset("csv", table)
    assert layout(dataset) == {"lid": [("a ü.png", "good", None), ("b ü.png", "oil stain", "b.png")]}
    assert dataset.name == "list"
    assert kinds(dataset) == []
    table.write_text("image,mask,label\nphotos/a ü.png,-,ng\nphotos/b ü.png,,ng\n", encoding="utf-8")
    dataset = open_dataset("csv", table)
    assert kinds(dataset) == [("mask missing", "b ü.png")]  # "-" says that it is not known
    assert dataset.categories[0].samples[0].mask is None
    table.write_text("image,mask\nphotos/a ü.png,\nphotos/b ü.png,truth/b.png\n", encoding="utf-8")
    assert [row[1] for row in layout(open_dataset("csv", table))["list"]] == ["good", "defect"]


def test_all_mistakes_are_found_at_once(tmp_path: Path) -> None:
    root = mvtec_category(tmp_path / "lid")
    (root / "ground_truth/scratch/000_mask.png").unlink()  # mask missing
    photo(root / "test/scratch/002.png")
    mask(root / "ground_truth/scratch/002_mask.png", size=(8, 12))  # turned by 90 degrees
    photo(root / "test/scratch/003.png")
    mask(root / "ground_truth/scratch/003_mask.png", value=0)  # nothing marked
    photo(root / "test/scratch/004.png")
    mask(root / "ground_truth/scratch/004_mask.png")
    mask(root / "ground_truth/scratch/004.png")  # which one?
    mask(root / "ground_truth/scratch/099_mask.png")  # no photo
    mask(root / "ground_truth/dent/000_mask.png")  # no test/dent
    photo(root / "test/scratch/005.png")
    (root / "ground_truth/scratch/005_mask.png").write_bytes(b"not a picture")
    (root / "test/scratch/006.png").write_bytes(b"nor this")
    mask(root / "ground_truth/scratch/006_mask.png")
    (root / "test/scratch/notes.txt").write_text("x")
    (root / "test/scratch/old").mkdir()
    (root / "test/scratch/.DS_Store").write_text("x")
    (root / "test/scratch/.ipynb_checkpoints").mkdir()
    photo(root / "test/loose.png")
    dataset = open_dataset("folder", root)
    assert kinds(dataset) == [
        ("mask ambiguous", "004.png"),
        ("mask empty", "003_mask.png"),
        ("mask missing", "000.png"),
        ("mask unreadable", "005_mask.png"),
        ("photo unreadable", "006.png"),
        ("size mismatch", "002_mask.png"),
        ("stray", "dent"),
        ("stray", "099_mask.png"),
        ("stray", "loose.png"),
        ("stray", "notes.txt"),
        ("stray", "old"),
    ]
    problems = check_dataset(dataset)
    with pytest.raises(UsageError, match="6 faults") as refusal:
        refuse_faults(problems)
    assert "the mask is 8x12, its photo 12x8" in str(refusal.value)
    assert "000_mask.png" in str(refusal.value)
    assert layout(without_faults(dataset, problems))["lid"] == [SCRATCHED[0], SCRATCHED[1], SCRATCHED[3]]


def test_stray_files_alone_stop_nothing(tmp_path: Path) -> None:
    root = mvtec_category(tmp_path / "lid")
    (root / "test/good/Thumbs.db").write_text("x")
    (root / "test/good/readme.md").write_text("x")
    problems = check_dataset(open_dataset("folder", root))
    assert [problem.kind for problem in problems] == ["stray"]
    refuse_faults(problems)


def test_csv_mistakes(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    mask(tmp_path / "full.png")
    table = tmp_path / "list.csv"
    table.write_text("image,mask,label\na.png,,scratch\na.png,full.png,good\n,,good\ngone.png,,good\n")
    assert kinds(open_dataset("csv", table)) == [
        ("bad row", "list.csv"),
        ("label mismatch", "full.png"),
        ("mask missing", "a.png"),
        ("photo unreadable", tmp_path.name),
        ("photo unreadable", "gone.png"),
    ]


@pytest.mark.parametrize(
    ("kind", "root", "message"),
    [
        ("imagenet", ".", "unknown; expected one of mvtec"),
        ("mvtec", "nowhere", "does not exist"),
        ("mvtec", "bottle", "that is one category: pass its parent"),
        ("mvtec", "empty", "found none of them"),
        ("folder", "empty", "holds no test/ folder"),
        ("visa", ".", "1cls.csv is missing"),
        ("csv", ".", "is a folder"),
        ("csv", "wrong.csv", "has no column image; found photo, label"),
        ("csv", "none.csv", "lists no photo"),
    ],
)
def test_wrong_roots_say_what_was_expected(tmp_path: Path, kind: str, root: str, message: str) -> None:
    mvtec_category(tmp_path / "bottle")
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong.csv").write_text("photo,label\na,b\n")
    (tmp_path / "none.csv").write_text("image,label\n")
    with pytest.raises(UsageError, match=message):
        open_dataset(kind, tmp_path / root)


def test_a_category_that_is_not_there(tmp_path: Path) -> None:
    mvtec_category(tmp_path / "bottle")
    with pytest.raises(UsageError, match="no category cable; present are: bottle"):
        open_dataset("mvtec", tmp_path, ["cable"])


def test_converted_visa_gets_a_hint(tmp_path: Path) -> None:
    mvtec_category(tmp_path / "pcb1")
    with pytest.raises(UsageError, match="use the dataset 'folder'"):
        open_dataset("visa", tmp_path)


def test_masks_of_other_modes(tmp_path: Path) -> None:
    for mode, value in (("1", 1), ("P", 3), ("RGBA", 255), ("RGB", 9), ("I;16", 400)):
        picture = Image.new(mode, (6, 4), (0, 0, 0, 255) if mode == "RGBA" else 0)
        picture.paste((value, 0, 0, 255) if mode == "RGBA" else value, (1, 1, 3, 3))
        picture.save(tmp_path / "mask.png")
        assert read_mask(tmp_path / "mask.png").sum() == 4, mode
    Image.new("L", (6, 4)).save(tmp_path / "mask.jpg")
    with pytest.raises(PhotoError, match="PNG, BMP or TIFF"):
        read_mask(tmp_path / "mask.jpg")
