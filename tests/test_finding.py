"""What is found in folders, links, patterns and lists of names, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipsam.errors import PhotoError, UsageError
from clipsam.finding import find_photos
from clipsam.images import read_photo


@pytest.mark.parametrize(
    "name", ["Prüfling №7 划痕.png", "two  blanks .png", "[3]*.png", "-x.png", "a.b.JPG"]
)
def test_names_with_anything_in_them(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.touch()
    assert find_photos([path]).photos == (path,)
    assert find_photos([tmp_path]).photos == (path,)


def test_folders_are_walked(tmp_path: Path) -> None:
    for name in ("b/2.png", "a/1.JPG", "c.webp", ".hidden.png", ".cache/x.png", "b/.ipynb_checkpoints/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "b" / "loop").symlink_to(tmp_path)
    (tmp_path / "b" / "again.png").symlink_to(tmp_path / "c.webp")
    (tmp_path / "b" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    run = tmp_path / "run" / "overlays"
    run.mkdir(parents=True)
    (run / "1.jpg").touch()
    (run.parent / "run.json").touch()
    (run.parent / "results.jsonl").touch()

    found = find_photos([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found.photos] == [
        "a/1.JPG",
        "b/2.png",
        "b/again.png",
        "b/gone.png",
    ]
    reasons = {path.relative_to(tmp_path).as_posix(): reason for path, reason in found.skipped}
    assert set(reasons) == {"notes.txt", "b/loop", "run", "c.webp"}
    assert "run" in reasons["run"]
    assert "b/again.png" in reasons["c.webp"]
    assert found.root == tmp_path
    assert find_photos([tmp_path]) == found


def test_what_is_named_outright_never_vanishes(tmp_path: Path) -> None:
    text = tmp_path / "report.txt"
    text.write_text("x")
    missing = tmp_path / "missing.png"
    found = find_photos([text, missing, missing, tmp_path / "no*.png"])
    assert found.photos == (missing, tmp_path / "no*.png", text)
    for path in found.photos:
        with pytest.raises(PhotoError):
            read_photo(path)


def test_globs_and_repeats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png", "b/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    found = find_photos(["*/*", "a", "a/1.png"])
    assert found.photos == (tmp_path / "a/1.png", tmp_path / "a/2.png", tmp_path / "b/3.png")
    assert found.root == tmp_path
    assert find_photos(["a/1.png"]).root == tmp_path / "a"
    assert find_photos(["**/*.png"]).photos == found.photos


def test_empty_folder_and_no_input(tmp_path: Path) -> None:
    found = find_photos([tmp_path])
    assert found.photos == ()
    assert found.skipped[0][0] == tmp_path
    with pytest.raises(UsageError):
        find_photos([])
