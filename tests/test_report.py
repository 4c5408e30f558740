"""The report: one page that needs nothing else, and hides nothing."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import typer
from fake_segmenter import FakeSegmenter
from PIL import Image
from typer.testing import CliRunner

from clipsam.cli import report as verb
from clipsam.errors import RunError
from clipsam.report.page import THUMBNAIL, histogram, write_report
from clipsam.runs.inspection import inspect_photos
from clipsam.runs.manifest import read_manifest, write_manifest


class Page(HTMLParser):
    """Pictures, links, text and tags of a page; complains about tags that are not closed in order."""

    VOID = ("meta", "img", "br", "rect", "line", "link", "input")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.images: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.open: list[str] = []
        self.feed(path.read_text("utf-8"))
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        found = dict(attributes)
        if tag == "img":
            self.images.append(found["src"] or "")
        if tag == "a":
            self.links.append(found["href"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


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
    assert re.search(r"5\s*photos\s+2\s*suspicious\s+1\s*not readable", page.text)
    for text in (
        "part 2 & <b>#1.png",
        "empty.png: the file is empty",
        "0.922",
        "weights.fake-clip",
        "0" * 64,
        "plate",
    ):
        assert text in page.text
    assert page.text.index("part 2 &") < page.text.index("part 1 &") < page.text.index("part 0 &")
    assert "no verdict" in page.text
    assert "b" not in page.tags or "<b>#1" not in path.read_text()


def test_page_needs_nothing_else(run: Path) -> None:
    path = write_report(run)
    page = Page(path)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert len(page.images) == 4
    for source in page.images:
        kind, _, data = source.partition(",")
        assert kind == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert max(image.size) == THUMBNAIL
    assert "http" not in path.read_text().replace("http-equiv", "")
    assert "prefers-color-scheme: dark" in path.read_text()


def test_links_lead_to_the_pictures(run: Path, tmp_path: Path) -> None:
    from urllib.parse import unquote

    for out in (None, tmp_path / "elsewhere.html"):
        path = write_report(run, out)
        for link in Page(path).links:
            assert (path.parent / unquote(link)).is_file()


def test_limit(run: Path) -> None:
    page = Page(write_report(run, limit=1))
    assert len(page.images) == 1
    assert "The 1 with the highest scores of 4" in page.text


def test_run_that_was_interrupted_and_has_no_overlays(run: Path) -> None:
    manifest = read_manifest(run)
    write_manifest(run, manifest | {"state": "running"})
    for overlay in (run / "overlays").iterdir():
        overlay.unlink()
    page = Page(write_report(run))
    assert "This run is running" in page.text
    assert page.images == []
    assert page.text.count("no picture") == 4


def test_run_with_only_errors(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    inspect_photos(FakeSegmenter(), [tmp_path / "a.png"], tmp_path / "run")
    assert "empty" in Page(write_report(tmp_path / "run")).text


def test_histogram_counts_every_photo() -> None:
    scores = [0.0, 0.01, 0.5, 0.51, 1.0]
    rows = [
        {"path": str(i), "score": s, "regions": [1] * (s > 0.5), "is_defective": None}
        for i, s in enumerate(scores)
    ]
    bars = histogram(rows)
    assert [(bar.left, bar.clean, bar.suspicious) for bar in bars] == [
        (0.0, 1.0, 0.0),
        (0.5, 0.5, 0.5),
        (0.975, 0.0, 0.5),
    ]


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run\.json"):
        write_report(tmp_path)
    (tmp_path / "run.json").write_text('{"format": "clipsam-run-1", "root": "/"}')
    with pytest.raises(RunError, match="lacks versions, wall_seconds"):
        write_report(tmp_path)


def test_command(run: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    verb.register(app)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(run), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"report": str(out), "bytes": out.stat().st_size}
