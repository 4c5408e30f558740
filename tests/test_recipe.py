from __future__ import annotations

from pathlib import Path

import pytest

from clipsam.errors import PromptError
from clipsam.nano.recipe import read_recipe
from clipsam.nano.train_clip import ClipTraining
from clipsam.nano.train_sam import SamTraining


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_it_is_the_default_recipe():
    assert read_recipe(None) == (ClipTraining(), SamTraining())


def test_an_empty_file_is_the_default_recipe(tmp_path):
    assert read_recipe(write(tmp_path, "# nothing\n")) == (ClipTraining(), SamTraining())


def test_what_a_file_leaves_out_keeps_its_default(tmp_path):
    clip, sam = read_recipe(write(tmp_path, "[clip]\nsteps = 7\npeak = 1\nsizes = [[64, 32], [48, 48]]\n"))
    assert clip == ClipTraining(steps=7, peak=1.0, sizes=((64, 32), (48, 48)))
    assert isinstance(clip.peak, float)
    assert sam == SamTraining()


def test_both_tables(tmp_path):
    clip, sam = read_recipe(write(tmp_path, "[clip]\nseed = 2\n[sam]\nseed = 3\nbatch = 4\n"))
    assert (clip.seed, sam.seed, sam.batch) == (2, 3, 4)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[clip]\n\nstepps = 3\n", 3, ["'stepps' of [clip]", "did you mean 'steps'"]),
        ("[sam]\nsizes = [[32, 32]]\n", 2, ["'sizes' of [sam]", "unknown key"]),
        ("[clipp]\nsteps = 3\n", 1, ["'clipp'", "did you mean 'clip'"]),
        ("[clip]\nsteps = 3.5\n", 2, ["'steps' of [clip]", "float 3.5", "a whole number"]),
        ("[clip]\nsteps = true\n", 2, ["'steps' of [clip]", "bool True", "a whole number"]),
        ("[clip]\nseed = 1\npeak = 'high'\n", 3, ["'peak' of [clip]", "'high'", "a number"]),
        ("[clip]\nsizes = []\n", 2, ["'sizes' of [clip]", "multiple of 16"]),
        ("[clip]\nsizes = [[64, 50]]\n", 2, ["'sizes' of [clip]", "multiple of 16"]),
        ("[clip]\nsizes = [[64, 0]]\n", 2, ["'sizes' of [clip]", "multiple of 16"]),
        ("[clip]\nsizes = [64, 64]\n", 2, ["'sizes' of [clip]", "multiple of 16"]),
        ("clip = 3\n", 1, ["'clip'", "int 3", "a table"]),
        ("[clip]\nsteps = \n", 2, ["not TOML"]),
    ],
)
def test_a_mistake_is_told_with_file_line_and_key(tmp_path, text, line, said):
    path = write(tmp_path, text)
    with pytest.raises(PromptError) as caught:
        read_recipe(path)
    message = str(caught.value)
    assert f"{path}, line {line}" in message
    for words in said:
        assert words in message


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(PromptError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")
