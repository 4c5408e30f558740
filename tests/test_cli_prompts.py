"""`clipsam prompts list|show|check`, run on an app that holds this verb alone."""

from __future__ import annotations

import json
from importlib import util
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import clipsam
from clipsam.errors import PromptError
from clipsam.prompts import load_prompts


def verb():
    """Load the verb's file without its package, whose import brings in every other verb."""
    spec = util.spec_from_file_location("verb_prompts", Path(clipsam.__file__).parent / "cli" / "prompts.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    verb().register(app)

    def run(*arguments: str, code: int = 0):
        result = CliRunner().invoke(app, ["prompts", *arguments], catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    return run


def test_list(run):
    text = run("list").output
    assert [line.split()[0] for line in text.splitlines()[:5]] == [
        "industrial",
        "april_gan",
        "winclip",
        "mvtec",
        "visa",
    ]
    assert "21 defect types, 416 sentences per product" in text
    items = json.loads(run("list", "--json").output)
    assert [item["kind"] for item in items] == ["ensemble"] * 3 + ["names"] * 2
    assert items[0]["defects"][0] == "scratch"
    assert all(item["provenance"]["licence"] and Path(item["path"]).is_file() for item in items)


def test_show_prints_the_sentences_by_defect_type(run):
    text = run("show", "winclip", "--product", "bottle", "--defect", "oil stain").output
    lines = text.splitlines()
    assert lines[0].startswith("winclip 1.0: ")
    assert any(line.startswith("source: ") and "2303.14814" in line for line in lines)
    headings = [line for line in lines if line in ("(normal)", "damage", "oil stain")]
    assert headings == ["(normal)", "damage", "oil stain"]
    assert lines[lines.index("damage") + 1] == "  a cropped photo of the damaged bottle."


def test_show_json_is_exactly_what_is_encoded(run):
    shown = json.loads(run("show", "--product", "metal nut", "--json").output)
    ensemble = load_prompts("industrial")
    sentences = ensemble.sentences("metal nut")
    assert shown["product"] == "metal nut"
    assert tuple(shown["normal"]) == sentences.normal
    assert {name: tuple(group) for name, group in shown["abnormal"].items()} == sentences.abnormal
    assert (shown["hash"], shown["count"]) == (ensemble.hash("metal nut"), sentences.count)


def test_show_a_names_file(run):
    assert "  metal_nut    metal nut\n" in run("show", "mvtec").output
    assert json.loads(run("show", "visa", "--json").output)["names"]["chewinggum"] == "chewing gum"


def test_show_an_unknown_name_is_a_prompt_error(run):
    with pytest.raises(PromptError, match="did you mean 'winclip'"):
        run("show", "winklip")


def test_check_of_the_shipped_files(run):
    assert run("check").output.splitlines() == [
        f"{name}: good" for name in ("industrial", "april_gan", "mvtec", "visa", "winclip")
    ]


def test_check_reports_every_file_and_exits_with_1_if_one_is_wrong(run, tmp_path):
    wrong, odd = tmp_path / "wrong.toml", tmp_path / "odd.toml"
    wrong.write_text('templates = ["a photo"]\n')
    odd.write_text(
        'normal_states = ["{}"]\ntemplates = ["{}", "{}"]\n[[defect]]\nname = "a"\nstates = ["b {}"]\n'
    )

    result = run("check", str(odd), code=0)
    assert f"{odd}: good, 2 warning(s)" in result.output
    assert "line 2, key 'templates': '{}' stands here twice" in result.output

    result = run("check", str(wrong), str(odd), "missing.toml", code=1)
    assert f"{wrong}: wrong" in result.stderr
    assert "found no prompt file 'missing.toml'" in result.stderr
    assert f"{odd}: good" in result.stdout

    reports = json.loads(run("check", str(wrong), str(odd), "--json", code=1).stdout)
    assert [report["ok"] for report in reports] == [False, True]
    assert str(wrong) in reports[0]["error"]
    assert [warning["line"] for warning in reports[1]["warnings"]] == [None, 2]
