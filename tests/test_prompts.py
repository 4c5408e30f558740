"""Prompt files: what the shipped ones hold, how sentences are made, where a wrong file says it is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipsam.errors import PromptError
from clipsam.promptcheck import check_prompts
from clipsam.prompts import (
    DefectType,
    PromptEnsemble,
    Sentences,
    list_prompts,
    load_names,
    load_prompts,
    product_name,
    shipped_names,
)

INDUSTRIAL = (
    *("scratch", "crack", "hole", "broken", "stain", "contamination", "dent", "cut", "missing part"),
    *("deformation", "misprint", "glue", "thread", "discolouration", "corrosion", "bubble", "wear"),
    *("wrinkle", "misplaced part", "uneven surface", "damage"),
)

GOOD = """\
title = "Mine"
normal_states = ["{}", "good {}"]
templates = [
  "a photo of {}",
  "the {}",
]

[provenance]
source = "me"
licence = "CC0"
tuned_on = "nothing"

[[defect]]
name = "Scratch"
states = ["scratched {}"]

[[defect]]
name = "oil stain"
states = [
  "{} with oil",
  "oil",
]
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str | bytes, name: str = "mine.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def wrong(path: Path) -> str:
    with pytest.raises(PromptError) as caught:
        load_prompts(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message.removeprefix(str(path))


# shipped files


def test_shipped_files_are_listed_with_the_default_first():
    assert [item.name for item in list_prompts()] == ["industrial", "april_gan", "winclip", "mvtec", "visa"]
    assert {item.kind for item in list_prompts()[3:]} == {"names"}


def test_every_shipped_file_says_where_it_comes_from():
    for item in list_prompts():
        assert item.title, item.name
        assert item.version, item.name
        assert all([item.provenance.source, item.provenance.licence, item.provenance.tuned_on]), item.name


def test_industrial_holds_the_fixed_types_in_order_and_stays_small():
    ensemble = load_prompts("industrial")
    assert ensemble.defect_names == INDUSTRIAL
    assert ensemble.provenance.tuned_on == "nothing"
    assert all(3 <= len(defect.states) <= 6 for defect in ensemble.defects)
    assert 3 <= len(ensemble.templates) <= 6
    sentences = ensemble.sentences("bottle")
    assert sentences.count < 500
    assert all("bottle" in text and text == text.lower() for text in sentences.abnormal["scratch"])


def test_winclip_is_the_published_ensemble():
    ensemble = load_prompts("winclip")
    assert (len(ensemble.normal_states), len(ensemble.templates)) == (7, 22)
    assert ensemble.defects == (
        DefectType("damage", ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")),
    )
    sentences = ensemble.sentences("metal nut")
    assert sentences.normal[:2] == ("a cropped photo of the metal nut.", "a cropped photo of a metal nut.")
    assert sentences.abnormal["damage"][-1] == "a photo of a metal nut with damage for anomaly detection."
    articles = [template.replace(" the ", " a ") for template in ensemble.templates]
    assert all(articles.count(template) == 2 for template in articles)  # each once with "a", once with "the"


def test_april_gan_adds_broken_and_has_35_templates():
    ensemble, winclip = load_prompts("april_gan"), load_prompts("winclip")
    assert ensemble.normal_states == winclip.normal_states
    assert set(ensemble.defects[0].states) - set(winclip.defects[0].states) == {"broken {}"}
    assert len(set(ensemble.templates)) == len(ensemble.templates) == 35


def test_names_of_categories():
    assert len(load_names("mvtec").pairs) == 15
    assert len(load_names("visa").pairs) == 12
    assert product_name("mvtec", "metal_nut") == "metal nut"
    assert product_name("visa", "pcb3") == "printed circuit board"
    with pytest.raises(PromptError, match=r"no category 'metal_nutt'.*did you mean 'metal_nut'"):
        product_name("mvtec", "metal_nutt")


def test_an_installed_package_finds_its_own_copy(tmp_path, monkeypatch):
    import clipsam.prompts as module

    source = module.shipped_folder()
    package = tmp_path / "clipsam"
    (package / "_prompts").mkdir(parents=True)
    (package / "_prompts" / "industrial.toml").write_bytes((source / "industrial.toml").read_bytes())
    monkeypatch.setattr(module, "__file__", str(package / "prompts.py"))
    assert shipped_names() == ("industrial",)
    (package / "_prompts" / "industrial.toml").unlink()
    with pytest.raises(PromptError, match="install clipsam again"):
        shipped_names()


# sentences


def test_sentences_follow_the_order_of_the_file(write):
    sentences = load_prompts(write(GOOD)).sentences("cup")
    assert sentences.normal == ("a photo of cup", "the cup", "a photo of good cup", "the good cup")
    assert list(sentences.abnormal) == ["scratch", "oil stain"]
    assert sentences.abnormal["oil stain"] == (
        "a photo of cup with oil",
        "the cup with oil",
        "a photo of oil",
        "the oil",
    )
    assert sentences.count == 4 + 2 + 4


@pytest.mark.parametrize("product", ["{}", "{0}", "a {b} c", "50% \\1 {name!r}", "Flasche für Öl", "瓶"])
def test_odd_products_are_taken_literally(write, product):
    assert load_prompts(write(GOOD)).sentences(product).abnormal["scratch"][1] == f"the scratched {product}"


def test_an_empty_product_is_an_object_and_blanks_are_tidied(write):
    ensemble = load_prompts(write(GOOD))
    assert ensemble.sentences(" \n") == ensemble.sentences("object") == ensemble.sentences()
    assert ensemble.sentences(" metal \t nut ").normal[1] == "the metal nut"


def test_the_hash_follows_the_exact_sentences(write):
    ensemble = load_prompts(write(GOOD))
    same = load_prompts(write(GOOD.replace("Mine", "Other"), "other.toml"))
    assert ensemble.hash("cup") == same.hash(" cup ")
    assert len(ensemble.hash("cup")) == 64
    others = [
        ensemble.hash("mug"),
        ensemble.only(["scratch"]).hash("cup"),
        load_prompts(write(GOOD.replace("oil stain", "stain"))).hash("cup"),
        load_prompts(write(GOOD.replace("the {}", "The {}"))).hash("cup"),
    ]
    assert len({ensemble.hash("cup"), *others}) == 5


def test_everything_is_frozen_and_hashable(write):
    first, second = load_prompts(write(GOOD)), load_prompts(write(GOOD))
    assert first == second
    assert hash(first) == hash(second)
    assert hash(first.sentences("cup")) == hash(Sentences(**vars(second.sentences("cup"))))
    assert len({load_names("mvtec"), load_names("mvtec")}) == 1
    with pytest.raises(AttributeError):
        first.templates = ()


# defects inline


def test_known_names_bring_their_states_and_unknown_ones_get_generic_states():
    ensemble = load_prompts("winclip").with_defects([" Scratch", "damage", "water  mark", "scratch"])
    assert ensemble.defect_names == ("damage", "scratch", "water mark")
    assert ensemble.defects[0] == load_prompts("winclip").defects[0]
    assert ensemble.defects[1] == load_prompts("industrial").defects[0]
    assert "{} with water mark" in ensemble.defects[2].states
    assert ensemble.templates == load_prompts("winclip").templates


def test_types_that_are_there_are_not_added_again():
    ensemble = load_prompts("industrial")
    assert ensemble.with_defects(["scratch", "STAIN"]) is ensemble
    assert ensemble.with_defects([]) is ensemble


def test_only_keeps_the_named_types_in_the_order_of_the_ensemble():
    ensemble = load_prompts("industrial")
    assert ensemble.only(["stain", "scratch"]).defect_names == ("scratch", "stain")
    assert ensemble.with_defects(["oil stain"]).only(["oil stain"]).defect_names == ("oil stain",)
    with pytest.raises(PromptError, match=r"no defect type 'scrach'.*did you mean 'scratch'"):
        ensemble.only(["scrach"])
    with pytest.raises(PromptError, match="defect types"):
        ensemble.only([])


@pytest.mark.parametrize("name", ["", "  ", "{}", "a {b}"])
def test_defect_names_are_words(name):
    with pytest.raises(PromptError, match="words without braces"):
        load_prompts("industrial").with_defects([name])


def test_ensembles_built_in_python_are_checked_too():
    scratch = DefectType("scratch", ("scratched {}",))
    PromptEnsemble("mine", ("{}",), ("a {}",), (scratch,))
    with pytest.raises(PromptError, match=r"templates: found 'a photo'; expected exactly one {}"):
        PromptEnsemble("mine", ("{}",), ("a photo",), (scratch,))
    with pytest.raises(PromptError, match="distinct"):
        PromptEnsemble("mine", ("{}",), ("a {}",), (scratch, scratch))
    with pytest.raises(PromptError, match="expected a tuple"):
        PromptEnsemble("mine", ["{}"], ("a {}",), (scratch,))


# wrong names and wrong files


def test_unknown_names_are_answered_with_the_shipped_ones():
    with pytest.raises(PromptError, match=r"'industral'.*industrial, april_gan.*did you mean 'industrial'"):
        load_prompts("industral")
    with pytest.raises(PromptError, match="found no prompt file"):
        load_prompts("x" * 5000)


def test_a_shipped_name_wins_as_text_and_a_path_is_a_path(write, monkeypatch):
    monkeypatch.chdir(write(GOOD, "winclip").parent)
    assert load_prompts("winclip").title != "Mine"
    assert load_prompts(Path("winclip")).title == "Mine"


def test_files_of_the_other_kind_are_refused():
    with pytest.raises(
        PromptError, match=r"mvtec.toml, line \d+, key 'kind': found kind 'names'.*'ensemble'"
    ):
        load_prompts("mvtec")
    with pytest.raises(
        PromptError, match=r"winclip.toml, line \d+, key 'kind': found kind 'ensemble'.*'names'"
    ):
        load_names("winclip")


def test_folders_and_other_encodings_are_refused(write, tmp_path):
    assert "it is a folder" in wrong(tmp_path)
    assert wrong(write(b'title = "a"\nversion = "\xff"\n')).startswith(", line 2: found bytes")


def test_windows_files_load(write):
    assert load_prompts(write(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())).title == "Mine"
    crlf = GOOD.replace("the {}", "the").replace("\n", "\r\n")
    assert wrong(write(crlf)).startswith(", line 5, key 'templates'")


@pytest.mark.parametrize(
    ("old", "new", "place", "found", "expected"),
    [
        ("normal_states = [", "normal_states = ", "line 2, near key 'normal_states'", "not TOML", "key ="),
        ('"the {}",\n]', '"the {}",', "line 7, near key 'templates'", "not TOML", "key ="),
        ("normal_states", "normal_sates", "line 2, key 'normal_sates'", "unknown key", "'normal_states'?"),
        ('"the {}"', '"the"', "line 5, key 'templates'", "'the'", "exactly one {}"),
        ('"the {}"', '"{} {}"', "line 5, key 'templates'", "'{} {}'", "exactly one {}"),
        ('"the {}"', '"the {product}"', "line 5, key 'templates'", "{product}", "no braces but {}"),
        ('"the {}"', "7", "line 3, key 'templates'", "int 7 as item 2", "text in quotes"),
        ('"the {}"', '" "', "line 5, key 'templates'", "as item 2", "text in quotes"),
        ('["{}", "good {}"]', '"good {}"', "line 2, key 'normal_states'", "'good {}'", "a list"),
        ('["{}", "good {}"]', "[]", "line 2, key 'normal_states'", "an empty list", "at least one"),
        ('title = "Mine"', "title = 3", "line 1, key 'title'", "int 3", "text in quotes"),
        ('title = "Mine"', 'kind = "enssemble"', "line 1, key 'kind'", "'enssemble'", "'ensemble'?"),
        ("licence", "license", "line 10, key 'license' of [provenance]", "unknown", "'licence'?"),
        (
            'source = "me"',
            "templates = []",
            "line 9, key 'templates' of",
            "unknown",
            "above the first [table]",
        ),
        ("[provenance]", "[provenence]", "line 8, key 'provenence'", "unknown", "'provenance'?"),
        ("[provenance]", "[[provenance]]", "line 8, key 'provenance'", "a list of 1", "a table"),
        ('name = "oil stain"\n', "", "line 17, key 'name' of [[defect]] 2", "nothing", "a text"),
        ("oil stain", "scratch", "line 18, key 'name' of [[defect]] 2", "second time", "first is in line 14"),
        ("oil stain", "{} stain", "line 18, key 'name' of [[defect]] 2", "'{} stain'", "without braces"),
        ('"oil",', '"{} {}",', "line 21, key 'states' of [[defect]] 2", "'{} {}'", "at most once"),
        ('states = ["s', 'stats = ["s', "line 15, key 'stats' of [[defect]] 1", "unknown", "'states'?"),
        ("[[defect]]", "[[defects]]", "line 13, key 'defects'", "unknown", "'defect'?"),
    ],
)
def test_a_wrong_file_says_line_key_and_expectation(write, old, new, place, found, expected):
    assert old in GOOD
    message = wrong(write(GOOD.replace(old, new)))
    assert message.startswith(f", {place}"), message
    assert found in message
    assert expected in message.split("expected", 1)[1]


def test_missing_keys_are_named(write):
    assert "key 'normal_states': found nothing" in wrong(
        write(GOOD.replace('normal_states = ["{}", "good {}"]', ""))
    )
    assert "key 'defect': found nothing; expected at least one [[defect]]" in wrong(
        write(GOOD[: GOOD.index("[[")])
    )
    assert "key 'names': found nothing" in wrong(write('kind = "names"'))


def test_defects_may_be_inline_tables(write):
    head = GOOD[: GOOD.index("[provenance]")]
    assert load_prompts(write(head + 'defect = [{ name = "a", states = ["b"] }]')).defect_names == ("a",)
    assert wrong(write(head + 'defect = [{ name = "a" }]')).startswith(
        ", line 8, key 'states' of [[defect]] 1"
    )


# remarks


def test_shipped_files_give_no_remarks():
    for name in shipped_names():
        assert check_prompts(name) == ()


def remarks(path: Path) -> list[str]:
    return [str(remark) for remark in check_prompts(path)]


def test_repeated_sentences_are_remarked_at_the_second_place(write):
    assert remarks(write(GOOD)) == []
    twice = GOOD.replace('"the {}"', '"a photo of {}"')
    assert remarks(write(twice)) == [
        "line 5, key 'templates': 'a photo of {}' stands here twice and weighs double"
    ]
    twice = GOOD.replace('  "oil",', '  "{} with oil",')
    assert remarks(write(twice))[0].startswith(
        "line 21, key 'states' of [[defect]] 2: '{} with oil' stands here twice"
    )


def test_contradictions_silence_and_excess_are_remarked(write):
    assert (
        "'good {}' also describes a normal product" in remarks(write(GOOD.replace('"oil"', '"good {}"')))[0]
    )
    assert "also describes 'scratch'" in remarks(write(GOOD.replace('"oil"', '"scratched {}"')))[0]
    assert "does not say licence" in remarks(write(GOOD.replace('licence = "CC0"', "")))[0]
    assert "37 words" in remarks(write(GOOD.replace("good", "good " * 33)))[0]
    many = ", ".join(f'"{number} {{}}"' for number in range(400))
    assert "2005 sentences" in remarks(write(GOOD.replace('"the {}",', many + ",")))[0]


def test_reading_prompts_needs_no_model_library():
    code = (
        "import sys, clipsam.promptcheck as p; p.check_prompts('industrial');"
        "print(sorted({'torch', 'open_clip', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
