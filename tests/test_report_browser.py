"""The report as a person uses it: headless Chromium searches, filters, sorts, looks, prints - offline."""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Watched, fits, headless, until, watched
from fake_segmenter import FakeSegmenter
from PIL import Image

from clipsam.report import page as report_page
from clipsam.report.page import write_report
from clipsam.runs.inspection import inspect_photos
from clipsam.runs.manifest import read_manifest, write_manifest

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
SHADES = (240, 60, 20, 200, 110, 235, 90, 30)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with headless() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "photos").mkdir()
    for i, shade in enumerate(SHADES):
        pixels = np.full((240, 320, 3), 250, np.uint8)
        pixels[40:100, 40 : 120 + 10 * i] = shade
        if i == 2:
            pixels[150:200, 200:260] = 40  # a second region, of the other type
        Image.fromarray(pixels).save(folder / "photos" / f"plate-{i}.png")
    (folder / "photos" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    inspect_photos(FakeSegmenter(), [folder / "photos"], folder / "run")
    (folder / "away").mkdir()
    out = write_report(folder / "run", folder / "away" / "page.html")
    shutil.rmtree(folder / "photos")  # the page must not need them
    return out


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def watch(request: pytest.FixtureRequest, chromium: Any, report: Path) -> Iterator[Watched]:
    with watched(chromium, viewport=request.param, offline=True) as watch:
        watch.page.goto(report.as_uri())
        yield watch
        watch.page.evaluate("document.querySelectorAll('details').forEach(block => { block.open = true; })")
        assert fits(watch.page, "*")
        watch.assert_quiet()
        assert {url.split(":")[0] for url in watch.requests} <= {"file", "data"}
        assert [url for url in watch.requests if url.startswith("file:")] == [report.as_uri()]


def names(page: Any) -> list[str]:
    """What is listed, in order; the page holds the tiles near the window, which are the first of them."""
    listed: list[str] = page.evaluate("chosen.map(number => index[number].name)")
    shown = page.locator(".tile .name").all_inner_texts()
    assert shown == listed[: len(shown)]
    assert bool(shown) == bool(listed)
    return listed


def test_filter_by_state_and_type(watch: Watched) -> None:
    page = watch.page
    assert page.locator("#count").inner_text() == "9 photos"
    page.get_by_role("button", name="Suspicious", exact=True).click()
    assert names(page) == [f"plate-{i}.png" for i in (2, 7, 1, 6, 4)]
    assert page.locator("#count").inner_text() == "5 of 9 photos"
    page.get_by_role("button", name="Errors", exact=True).click()
    assert names(page) == ["torn.png"]
    page.get_by_role("button", name="All", exact=True).click()
    page.locator("#type").select_option("stain")
    assert names(page) == ["plate-2.png"]
    page.locator("#type").select_option("")
    assert len(names(page)) == 9
    page.locator(".figure.ok").click()  # the figures of the summary filter too
    assert names(page) == [f"plate-{i}.png" for i in (3, 5, 0)]
    assert page.locator("#states [aria-pressed=true]").inner_text() == "Nothing found"


def test_search_and_sort(watch: Watched) -> None:
    page = watch.page
    page.keyboard.press("/")
    page.keyboard.type("PLATE 5")
    assert page.locator("#search").input_value() == "PLATE 5"
    assert names(page) == ["plate-5.png"]
    page.keyboard.press("Escape")
    assert len(names(page)) == 9
    page.keyboard.press("/")
    page.keyboard.type("nowhere")
    assert page.get_by_text("No photo is like that.").is_visible()
    page.keyboard.press("Escape")
    orders = {
        "high": [2, 7, 1, 6, 4, 3, 5, 0],
        "low": [0, 5, 3, 4, 6, 1, 7, 2],
        "area": [2, 7, 6, 4, 1, 3, 5, 0],
        "name": list(range(8)),
    }
    for order, expected in orders.items():
        page.locator("#sort").select_option(order)
        assert names(page) == [*(f"plate-{i}.png" for i in expected), "torn.png"]


def displayed(page: Any, selector: str) -> bool:
    script = "(s) => getComputedStyle(document.querySelector(s)).display !== 'none'"
    return page.evaluate(script, selector)


def test_heat_map_outlines_and_opacity(watch: Watched) -> None:
    page = watch.page
    for place in (".tile", "#stage"):
        if place == "#stage":
            page.locator(".tile").first.click()
        assert not displayed(page, f"{place} .heat")
        assert displayed(page, f"{place} .outlines")
        page.keyboard.press("h")
        page.keyboard.press("o")
        assert displayed(page, f"{place} .heat")
        assert not displayed(page, f"{place} .outlines")
        page.keyboard.press("h")
        page.keyboard.press("o")
    dialog = page.locator("#detail")
    heat = dialog.get_by_role("button", name="Heat map")
    assert heat.get_attribute("aria-pressed") == "false"
    assert dialog.get_by_role("slider").is_disabled()
    heat.click()
    assert heat.get_attribute("aria-pressed") == "true"
    dialog.get_by_role("slider").fill("25")
    assert page.evaluate("getComputedStyle(document.querySelector('#stage .heat')).opacity") == "0.25"
    dialog.get_by_role("button", name="Outlines").click()
    assert not displayed(page, "#stage .outlines")


def test_the_heat_map_colours_what_is_hot_and_nothing_else(watch: Watched) -> None:
    page = watch.page
    page.locator(".tile").first.click()
    page.keyboard.press("o")

    def colours() -> tuple[np.ndarray, np.ndarray]:
        """In the middle of the defect, and on the clean ground."""
        shot = page.locator("#stage .photo").bounding_box()
        assert shot is not None
        image = Image.open(io.BytesIO(page.screenshot(clip=shot))).convert("RGB")
        hot = image.getpixel((int(80 / 320 * image.width), int(70 / 240 * image.height)))
        cold = image.getpixel((int(280 / 320 * image.width), int(220 / 240 * image.height)))
        return np.array(hot, int), np.array(cold, int)

    hot, cold = colours()
    page.locator("#detail").get_by_role("button", name="Heat map").click()
    page.locator("#detail").get_by_role("slider").fill("100")
    warm, still = colours()
    assert np.abs(still - cold).max() <= 3
    assert np.abs(hot - 20).max() <= 8
    assert warm[0] > 230  # plasma at 0.92: orange to yellow
    assert warm[1] > 160
    assert warm[2] < 90


def test_keyboard_alone(watch: Watched) -> None:
    page = watch.page
    page.locator(".tile").first.focus()
    focused = "document.activeElement.querySelector('.name')?.textContent"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "plate-7.png"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("End")
    assert page.evaluate(focused) == "torn.png"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    columns = page.evaluate("gallery.columns")
    assert page.evaluate(focused) == names(page)[columns]
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused) == "plate-2.png"
    page.keyboard.press("Enter")
    assert page.locator("#detail").is_visible()
    assert page.locator("#detail-name").inner_text() == "plate-2.png"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#detail-name").inner_text() == "plate-1.png"
    assert page.locator("#detail-place").inner_text() == "3 of 9"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    assert not page.locator("#detail").is_visible()
    until(page, f"{focused} === 'plate-7.png'")  # the photo that was seen last


def test_region_table_marks_the_outline_and_back(watch: Watched) -> None:
    page = watch.page
    page.locator(".tile").first.click()
    rows = page.locator("#regions tr")
    assert rows.count() == 2
    assert rows.first.inner_text().split() == [
        "1", "scratch", "0.922", "7.81", "%", "6,000", "px", "40,", "40", "to", "140,", "100",
    ]  # fmt: skip
    rows.last.focus()
    assert page.locator("#stage .outlines > g").last.get_attribute("class") == "marked"
    assert page.locator("#stage .outlines > g.marked").count() == 1
    page.locator("#stage .outlines > g").first.locator(".hit").click()
    assert page.locator("#regions tr.marked td").nth(1).inner_text() == "scratch"
    page.keyboard.press("Escape")
    page.locator(".tile", has_text="plate-0").click()
    assert page.get_by_text("No region was outlined.").is_visible()
    assert not page.locator("#region-table").is_visible()


def view_box(page: Any) -> list[float]:
    return [float(part) for part in page.locator("#stage svg").get_attribute("viewBox").split()]


def test_zoom_and_move(watch: Watched) -> None:
    page = watch.page
    page.locator(".tile").first.click()
    assert view_box(page) == [0, 0, 320, 240]
    box = page.locator("#stage .photo").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 4, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, -380)  # 1.2 ** 3.8 is 2: twice as close
    assert view_box(page) == pytest.approx([40, 60, 160, 120], abs=1)  # what is under the pointer stays there
    page.mouse.down()
    page.mouse.move(x - box["width"] / 8, y, steps=4)  # by 40 photo pixels before, by 20 now
    page.mouse.up()
    assert view_box(page) == pytest.approx([60, 60, 160, 120], abs=1)
    assert page.locator("#regions tr.marked").count() == 0  # a drag picks no region
    page.mouse.wheel(0, 4000)
    assert view_box(page) == [0, 0, 320, 240]
    page.keyboard.press("+")
    assert view_box(page) == pytest.approx([53.3, 40, 213.3, 160], abs=0.1)
    page.mouse.dblclick(x, y)
    assert view_box(page) == [0, 0, 320, 240]
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    assert view_box(page) == [0, 0, 320, 240]  # the next photo is shown whole


def test_an_error_says_its_sentence(watch: Watched) -> None:
    page = watch.page
    page.get_by_role("button", name="Errors", exact=True).click()
    tile = page.get_by_role("button", name="torn.png: error")
    assert "its header is damaged" in tile.get_attribute("aria-label")
    tile.click()
    note = page.locator("#detail-note").inner_text()
    assert note == json.loads(page.locator("#index").inner_text())[-1]["message"]
    assert len(note) > 15
    assert not page.locator("#stage").is_visible()
    assert not page.locator("#detail").get_by_role("button", name="Heat map").is_visible()


def test_light_and_dark(chromium: Any, report: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with watched(chromium, viewport=DESK, color_scheme="dark") as watch:
        watch.page.goto(report.as_uri())
        assert watch.page.evaluate(ground) == "rgb(18, 21, 26)"
        watch.page.get_by_role("button", name="Light colours").click()
        assert watch.page.evaluate(ground) == "rgb(245, 246, 248)"
        watch.page.reload()
        assert watch.page.evaluate(ground) == "rgb(245, 246, 248)"  # it is remembered
        watch.page.get_by_role("button", name="Dark colours").click()
        assert watch.page.evaluate(ground) == "rgb(18, 21, 26)"
        watch.assert_quiet()
    with watched(chromium, viewport=DESK, color_scheme="light") as watch:
        watch.page.goto(report.as_uri())
        assert watch.page.evaluate(ground) == "rgb(245, 246, 248)"


def luminance(colour: str) -> float:
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_from_their_ground(chromium: Any, report: Path, scheme: str) -> None:
    """At least 4.5 to 1, what WCAG 2.2 asks of text (AA)."""
    script = """() => [...document.querySelectorAll('.badge, .soft, .notice, b, button, select, td, th')]
        .filter(e => e.offsetParent && e.innerText.trim()).map(e => {
          let ground = e;
          const under = () => getComputedStyle(ground).backgroundColor;
          while (under() === 'rgba(0, 0, 0, 0)') ground = ground.parentElement;
          return [e.innerText, getComputedStyle(e).color, under()];
        })"""
    with watched(chromium, viewport=DESK, color_scheme=scheme) as watch:
        watch.page.goto(report.as_uri())
        found = watch.page.evaluate(script)
    assert len(found) > 40
    for text, ink, ground in found:
        light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ink, ground)


def test_print(chromium: Any, report: Path) -> None:
    with watched(chromium, viewport=DESK, color_scheme="dark") as watch:
        watch.page.goto(report.as_uri())
        whole = watch.page.pdf()
        watch.page.locator(".tile").first.click()
        watch.page.emulate_media(media="print")
        assert watch.page.locator("#detail-name").is_visible()
        assert not watch.page.locator("main").is_visible()
        assert not watch.page.locator("#close").is_visible()
        watch.page.keyboard.press("Escape")
        assert watch.page.locator("main").is_visible()
        assert not watch.page.locator(".bar").is_visible()
        assert watch.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        watch.page.emulate_media(media="screen")
        watch.page.locator(".tile").first.click()
        single = watch.page.pdf()
        watch.assert_quiet()
    assert whole[:5] == single[:5] == b"%PDF-"
    assert len(single) > 5_000


def test_the_content_policy_holds(chromium: Any, report: Path) -> None:
    """What is put into the page from outside is neither run nor loaded."""
    with watched(chromium, viewport=DESK) as watch:
        watch.page.goto(report.as_uri())
        watch.page.evaluate(
            """() => {
              const script = document.createElement('script');
              script.textContent = 'window.caught = true';
              const image = document.createElement('img');
              image.src = 'http://127.0.0.1:9/x.png';
              document.body.append(script, image);
            }"""
        )
        watch.page.wait_for_timeout(100)
        assert watch.page.evaluate("window.caught") is None
        assert len([said for said in watch.complaints if "Content Security Policy" in said]) == 2


@pytest.fixture(scope="module")
def large(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10,000 photos: the rows of eight, many times over."""
    folder = tmp_path_factory.mktemp("large")
    run = report.parents[1] / "run"
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "error" not in row]
    with (folder / "results.jsonl").open("w") as file:
        for i in range(10_000):
            row = rows[i % len(rows)]
            file.write(json.dumps(row | {"path": f"/line/part-{i:05d}.png", "files": {}}) + "\n")
    write_manifest(folder, read_manifest(run))
    return folder


def test_ten_thousand_photos_open_and_scroll(
    chromium: Any, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many bytes per photo as there may be, mostly padding: the page is tested, not the encoder."""
    pixel = io.BytesIO()
    Image.new("RGB", (4, 3), "teal").save(pixel, "PNG")
    picture = "data:image/png;base64," + base64.b64encode(pixel.getvalue()).decode()
    noise = np.random.default_rng(0).integers(0, 255, (7400,), np.uint8)

    def noisy(run: Path, manifest: Any, row: Any, *, size: int, beside: Path) -> dict[str, Any]:
        padding = base64.b64encode(noise[: (size - 900) * 3 // 4]).decode()
        photo = {"width": 320, "height": 240, "regions": [], "more": 0, "overlay": "", "note": padding}
        return photo | {"seconds": 0.1, "sha256": "0" * 64, "map": None, "photo": picture}

    monkeypatch.setattr(report_page, "pictured", noisy)
    path = write_report(large)
    assert 90e6 < path.stat().st_size < 110e6
    with watched(chromium, viewport=DESK) as watch:
        page = watch.page
        start = time.perf_counter()
        page.goto(path.as_uri())
        assert page.locator("#count").inner_text() == "10,000 photos"
        opened = time.perf_counter() - start
        for part in (0.25, 0.5, 0.75, 1):
            page.evaluate(f"scrollTo(0, {part} * document.body.scrollHeight)")
            until(
                page,
                """() => [...document.querySelectorAll('.tile')].some(tile => {
              const box = tile.getBoundingClientRect();
              return box.top < innerHeight && box.bottom > 0 && tile.querySelector('image[href]');
            })""",
            )
            assert page.locator(".tile").count() < 100
        page.locator(".tile").first.focus()
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        assert page.locator("#detail-place").inner_text() == "10,000 of 10,000"
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        start = time.perf_counter()
        page.keyboard.type("part-04242")
        assert names(page) == ["/line/part-04242.png"]
        assert time.perf_counter() - start < 8
        watch.assert_quiet()
    assert opened < 15
