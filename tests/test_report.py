"""The report: one page that needs nothing else, hides nothing, and stays small."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from fake_segmenter import FakeSegmenter
from PIL import Image
from typer.testing import CliRunner

from clipsam.cli import report as verb
from clipsam.drift import DriftWarning
from clipsam.errors import RunError, UsageError
from clipsam.report import page as report_page
from clipsam.report.assets import content_policy
from clipsam.report.histogram import histogram, kinds
from clipsam.report.page import write_report
from clipsam.report.pictures import SMALLEST, pictured
from clipsam.runs.inspection import inspect_photos
from clipsam.runs.manifest import read_manifest, write_manifest
from clipsam.runs.store import read_rows


class Page(HTMLParser):
    """Scripts, styles, attributes and text of a page; complains about tags that are not closed in order."""

    VOID = ("meta", "img", "br", "rect", "line", "link", "input", "circle", "path")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.style = self.text = ""
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[tuple[str, str]] = []
        self.feed(path.read_text("utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes).get("id") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        tag, name = self.open[-1] if self.open else ("", "")
        if tag == "script":
            self.scripts[name] = self.scripts.get(name, "") + data
        elif tag == "style":
            self.style += data
        else:
            self.text += data

    @property
    def index(self) -> list[dict[str, Any]]:
        return json.loads(self.scripts["index"])

    @property
    def photos(self) -> dict[int, dict[str, Any]]:
        found = {name.removeprefix("photo-"): text for name, text in self.scripts.items()}
        return {int(name): json.loads(text) for name, text in found.items() if name.isdigit()}


def opened(url: str) -> Image.Image:
    kind, _, data = url.partition(",")
    assert re.fullmatch(r"data:image/(webp|jpeg);base64", kind)
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, shade in enumerate((240, 60, 20, 200)):
        pixels = np.full((300, 900, 3), 240, np.uint8)
        pixels[50:100, 50:200] = shade
        Image.fromarray(pixels).save(photos / f"part {i} & <b>#1.png")
    (photos / "empty.png").touch()
    inspect_photos(FakeSegmenter(), [photos], tmp_path / "run")
    return tmp_path / "run"


def test_page_shows_the_run(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path)
    assert re.search(r"5\s*photos\s+2\s*suspicious\s+2\s*nothing found\s+1\s*not readable", page.text)
    for text in ("weights.fake-clip", "0" * 64, "plate", "no verdict"):
        assert text in page.text
    names = [entry["name"] for entry in page.index]
    assert [name[:6] for name in names] == ["part 2", "part 1", "part 3", "part 0", "empty."]
    assert names[0] == "part 2 & <b>#1.png"
    assert [entry["state"] for entry in page.index] == ["ng", "ng", "ok", "ok", "error"]
    assert page.index[0] == {
        "name": names[0], "state": "ng", "score": 0.9216, "types": ["scratch"], "regions": 1, "area": 7500,
    }  # fmt: skip
    assert page.index[4]["message"].startswith("the file is empty")
    assert page.tags.count("b") == 4  # the figures; none from the names


def test_every_photo_has_its_picture_map_and_outlines(run: Path) -> None:
    page = Page(write_report(run))
    assert sorted(page.photos) == [0, 1, 2, 3]
    first = page.photos[0]
    assert (first["width"], first["height"]) == (900, 300)
    with opened(first["photo"]) as image:
        assert image.size == (900, 300)
        assert image.convert("RGB").getpixel((125, 75))[0] < 40
    with opened(first["map"]) as grey:
        values = np.asarray(grey.convert("L"), float) / 255
    scale = values.shape[1] / 900
    assert values[int(75 * scale), int(125 * scale)] == pytest.approx(1 - 20 / 255, abs=0.03)
    assert values[-5, -5] == pytest.approx(1 - 240 / 255, abs=0.03)
    assert [region["box"] for region in first["regions"]] == [[50, 50, 200, 100]]
    assert page.photos[3]["regions"] == []
    assert first["sha256"] == read_rows(run / "results.jsonl")[-2]["sha256"]


def test_words_from_outside_stay_words(run: Path) -> None:
    rows = read_rows(run / "results.jsonl")
    for row in rows:
        for region in row.get("regions", ()):
            region["defect"] = "</script><b>&amp;"
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(write_report(run))
    assert page.index[0]["types"] == ["</script><b>&amp;"]
    assert page.photos[0]["regions"][0]["defect"] == "</script><b>&amp;"
    assert page.tags.count("script") == 3 + 4


def test_page_needs_nothing_else(run: Path) -> None:
    path = write_report(run)
    page = Page(path)
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert [attribute for attribute in page.attributes if attribute[1] in ("src", "style")] == []
    assert [name for _, name, _ in page.attributes if name.startswith("on")] == []
    addresses = set(re.findall(r"https?://[^\s\"'<]+", path.read_text()))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # the name of SVG, which is never asked for
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value)
    assert policy == content_policy([page.style], [page.scripts[""]])
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_links_lead_to_the_pictures(run: Path, tmp_path: Path) -> None:
    from urllib.parse import unquote

    for out in (None, tmp_path / "elsewhere.html"):
        path = write_report(run, out)
        for photo in Page(path).photos.values():
            assert (path.parent / unquote(photo["overlay"])).is_file()


def test_limit(run: Path) -> None:
    page = Page(write_report(run, limit=1))
    assert list(page.photos) == [0]
    assert len(page.index) == 5
    assert re.search(r"The 1 with the highest scores of 4\s+have a picture", page.text)


def test_size_is_bounded(run: Path) -> None:
    def sizes(path: Path) -> list[int]:
        return [len(text) for name, text in Page(path).scripts.items() if name.startswith("photo-")]

    small = sizes(write_report(run, max_mb=4 * SMALLEST / 1e6))
    assert len(small) == 4
    assert max(small) <= SMALLEST + 100  # the name of the overlay comes on top
    fewer = sizes(write_report(run, max_mb=2.5 * SMALLEST / 1e6))
    assert len(fewer) == 2
    assert sum(fewer) <= 2.5 * SMALLEST + 200
    with pytest.raises(UsageError, match="0 MB"):
        write_report(run, max_mb=0)


def test_run_that_was_interrupted_and_has_no_overlays_and_maps(run: Path) -> None:
    manifest = read_manifest(run)
    write_manifest(run, manifest | {"state": "running"})
    for picture in [*(run / "overlays").iterdir(), *(run / "maps").iterdir()]:
        picture.unlink()
    page = Page(write_report(run))
    assert "This run is running" in page.text
    for photo in page.photos.values():
        assert photo["photo"]
        assert photo["map"] is None
        assert photo["overlay"] == ""


def test_photos_that_are_gone_or_changed(run: Path, tmp_path: Path) -> None:
    photos = sorted((tmp_path / "photos").glob("part*"))
    photos[2].unlink()
    Image.new("RGB", (10, 10)).save(photos[1])
    page = Page(write_report(run))
    assert "no longer where it was" in page.photos[0]["note"]
    assert "has changed" in page.photos[1]["note"]
    assert page.photos[2]["note"] == ""
    with opened(page.photos[0]["photo"]) as overlay:
        assert overlay.size == (900, 300)
        assert min(overlay.convert("RGB").getpixel((x, 48))[2] for x in range(60, 190)) < 150  # the outline
    for picture in (run / "overlays").iterdir():
        picture.unlink()
    gone = Page(write_report(run)).photos[0]
    assert gone["photo"] is None
    assert gone["map"]
    assert (gone["width"], gone["height"]) == (900, 300)


def test_a_huge_photo_comes_alone(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = [0]
    most = [0]

    def counted(*arguments: Any, **options: Any) -> dict[str, Any]:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        at_once[0] -= 1
        return pictured(*arguments, **options)

    monkeypatch.setattr(report_page, "pictured", counted)
    monkeypatch.setattr(report_page, "PIXELS_IN_FLIGHT", 900 * 300 + 1)
    assert len(Page(write_report(run)).photos) == 4
    assert most == [1]


def test_run_with_only_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    inspect_photos(FakeSegmenter(), [tmp_path / "a.png"], tmp_path / "run")
    page = Page(write_report(tmp_path / "run"))
    assert [entry["state"] for entry in page.index] == ["error"]
    assert page.photos == {}
    assert "no verdict" in page.text
    calibration = {"id": "c0", "false_alarms": 0.05, "good_photos": 20, "score_threshold": 0.5}
    write_manifest(tmp_path / "run", read_manifest(tmp_path / "run") | {"calibration": calibration})
    assert "no verdict" not in Page(write_report(tmp_path / "run")).text


def test_calibrated_run_has_verdicts(run: Path) -> None:
    rows = read_rows(run / "results.jsonl")
    for row in rows:
        if "error" not in row:
            row["is_defective"] = row["score"] > 0.9
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    calibration = {
        "id": "c0ffee", "false_alarms": 0.01, "good_photos": 99,
        "score_threshold": 0.8765, "pixel_threshold": 0.41,
    }  # fmt: skip
    write_manifest(run, read_manifest(run) | {"calibration": calibration, "calibration_id": "c0ffee"})
    page = Page(write_report(run))
    assert [entry["state"] for entry in page.index] == ["ng", "ok", "ok", "ok", "error"]
    assert json.loads(page.scripts["facts"])["threshold"] == 0.41
    assert re.search(r"above 0\.8765, from 99 good\s+photos: at most 1 % of good", page.text)
    assert "calibrated threshold 0.8765" in page.text
    assert ("line", "x1", "87.65%") in page.attributes
    assert "Drift" not in page.text
    assert json.loads(page.scripts["facts"])["words"] == {"ng": "NG", "ok": "OK"}
    assert "no verdict" not in page.text
    assert re.search(r"75\.0 %\s*yield", page.text)


def test_drift_and_degraded_answers_are_said(run: Path) -> None:
    warning = DriftWarning(
        seen=150, window=100, p_value=1e-5, level=1e-4, recent_median=0.61, good_median=0.42
    )
    write_manifest(run, read_manifest(run) | {"drift": {"passed": 150, "warnings": [warning.to_dict()]}})
    rows = read_rows(run / "results.jsonl")
    rows[1]["degraded"] = True
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = Page(write_report(run))
    assert "Drift, after 150 passed parts: the scores of the last 100 passed parts are higher" in page.text
    notes = {page.index[number]["name"]: photo["note"] for number, photo in page.photos.items()}
    assert "before SAM" in notes[Path(rows[1]["path"]).name]
    assert sorted(map(bool, notes.values())) == [False, False, False, True]


def test_histogram_counts_every_photo() -> None:
    scores = [0.0, 0.01, 0.5, 0.51, 1.0]
    rows = [
        {"path": str(i), "score": s, "regions": [1] * (s > 0.5), "is_defective": None}
        for i, s in enumerate(scores)
    ]
    bars, tallest = histogram([*rows, {"path": "x", "error": {"kind": "empty"}}])
    assert tallest == 2
    assert [(bar.left, bar.clean, bar.suspicious) for bar in bars] == [
        (0.0, 1.0, 0.0),
        (0.5, 0.5, 0.5),
        (0.975, 0.0, 0.5),
    ]


def test_kinds_are_counted_by_photo_and_region() -> None:
    rows: list[dict[str, Any]] = [
        {"regions": [{"defect": "hole"}, {"defect": "hole"}, {"defect": "cut"}]},
        {"regions": [{"defect": "cut"}]},
        {"error": {}},
    ]
    assert [(kind.name, kind.photos, kind.regions) for kind in kinds(rows)] == [("cut", 2, 2), ("hole", 1, 2)]


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "clipsam-run-1", "root": "/"}')
    with pytest.raises(RunError, match="lacks versions, wall_seconds"):
        write_report(tmp_path)


def test_a_page_that_cannot_be_written_leaves_nothing(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot be written"):
        write_report(run, tmp_path / "absent" / "page.html")
    out = tmp_path / "page.html"
    out.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_report(run, out, on_photo=lambda done, of: 1 // 0)
    assert out.read_text() == "old"
    assert not out.with_name("page.html.new").exists()


def test_command(run: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    verb.register(app)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(run), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"report": str(out), "bytes": out.stat().st_size}
