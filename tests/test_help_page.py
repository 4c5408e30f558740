"""The command line from outside: help of every verb, the version, and bad usage without a traceback."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from clipsam import __version__
from clipsam.cli import VERBS, app, main


def commands() -> list[tuple[str, ...]]:
    """Every command that does something, as its words: ("inspect",), ("models", "list") ..."""
    found = []
    group = typer.main.get_command(app)
    for verb, command in group.commands.items():
        below = getattr(command, "commands", None)
        found += [(verb, name) for name in below] if below else [(verb,)]
    return found


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `clipsam WORDS`."""
    monkeypatch.setattr(sys, "argv", ["clipsam", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def help_of(*words: str) -> str:
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "120", "NO_COLOR": "1"})
    assert result.exit_code == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", result.output)


def test_every_verb_is_on_the_help_page():
    page = help_of()
    for verb in VERBS:
        assert re.search(rf"^\W*{verb} +\w", page, re.MULTILINE), verb  # with words about it
    assert {words[0] for words in commands()} == set(VERBS)


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_explains_itself_and_takes_json(words):
    page = help_of(*words)
    assert "--json" in page
    assert f"clipsam {' '.join(words)}" in page or "Usage" in page
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    assert command.help
    assert all(getattr(p, "help", "said") for p in command.params if p.name != "paths")


def test_version(monkeypatch, capsys):
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"clipsam {__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuchverb"], "nosuchverb"),
        (["inspect"], "PATH"),
        (["inspect", "--nosuchoption", "x"], "nosuchoption"),
        (["inspect", "no/such/*.png"], "no/such/*.png"),
        (["inspect", "--threshold", "2", "x.png"], "threshold"),
        (["inspect", "--calibration", "c.json", "--consensus", "x.png"], "x.png"),
        (["calibrate", "no-such-folder"], "no-such-folder"),
        (["calibrate", "x", "--false-alarms", "many"], "many"),
        (["report", "no-such-run"], "no-such-run"),
        (["models", "nosuch"], "nosuch"),
        (["models", "pull", "nosuchpreset"], "nosuchpreset"),
        (["prompts", "show", "nosuchprompts"], "nosuchprompts"),
        (["eval", "--dataset", "mvtec"], "root"),
        (["eval", "--dataset", "nosuchlayout", "--root", "."], "nosuchlayout"),
        (["train", "nosuch"], "nosuch"),
        (["train", "nano", "--config", "no-such-recipe.toml"], "no-such-recipe.toml"),
        (["demo", "--count", "0"], "count"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_exits_with_1_and_says_why(monkeypatch, capsys, tmp_path, words, said):
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 1
    captured = capsys.readouterr()
    assert said in re.sub(r"\s*\n[│ ]*", " ", captured.err)
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_from_a_shell(tmp_path):
    command = [sys.executable, "-m", "clipsam", "nosuchverb"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "nosuchverb" in done.stderr
    assert "Traceback" not in done.stderr
