"""The review: its routes, and its page in headless Chromium from the newest part to a drawn region."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from browser import fits, headless, watched
from service import TOKEN, Service, png, running

from clipsam.roi import Roi

SPOTS = (False, True, False, True, True)


def fill(service: Service, *, token: str | None = None) -> list[int]:
    """Five parts, three with a spot, and one that is no photo; gives the ids, oldest first."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for seed, spot in enumerate(SPOTS):
        answer = httpx.post(f"{service.url}/inspect", content=png(spot=spot, seed=seed), headers=headers)
        assert answer.status_code == 200
    deadline = time.monotonic() + 10
    while len(found := service.station.parts()) < len(SPOTS):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return [part.id for part in reversed(found)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as found:
        fill(found)
        yield found


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client


# ---- the routes


def test_the_newest_parts_page_by_page(http: httpx.Client, service: Service) -> None:
    first = http.get("/api/parts?limit=3").json()["parts"]
    assert [part["flagged"] for part in first] == [True, True, False]
    rest = http.get(f"/api/parts?limit=3&before={first[-1]['id']}").json()["parts"]
    assert [part["flagged"] for part in rest] == [True, False]
    flagged = http.get("/api/parts?flagged=true").json()["parts"]
    assert len(flagged) == 3
    assert http.get("/api/parts?product=%00nothing").json()["parts"] == []


def test_a_part_comes_with_its_pictures_and_outlines(http: httpx.Client) -> None:
    (part, *_) = http.get("/api/parts?flagged=true").json()["parts"]
    shown = http.get(f"/api/parts/{part['id']}").json()
    assert (shown["width"], shown["height"]) == (60, 40)
    assert shown["photo"].startswith("data:image/")
    assert shown["map"].startswith("data:image/")
    (region,) = shown["regions"]
    assert region["box"] == [30, 10, 45, 20]
    assert region["path"].startswith("M")
    thumbnail = http.get(f"/api/parts/{part['id']}/thumbnail")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert thumbnail.content.startswith(b"\xff\xd8")
    for path in ("/api/parts/999999", "/api/parts/999999/thumbnail"):
        assert http.get(path).status_code == 404


def test_a_part_whose_files_are_gone_is_still_shown(http: httpx.Client, service: Service) -> None:
    part = service.station.parts(flagged=True)[0]
    Path(part.path).unlink()
    for name in part.files.values():
        (part.folder / name).unlink()
    shown = http.get(f"/api/parts/{part.id}").json()
    assert shown["photo"] is None
    assert "no longer" in shown["note"]
    assert len(shown["regions"]) == 1
    assert http.get(f"/api/parts/{part.id}/thumbnail").status_code == 200


def test_verdicts_are_stored(http: httpx.Client, service: Service) -> None:
    part = service.station.parts(flagged=True, full=True)[0]
    route = f"/api/parts/{part.id}/verdicts"
    answer = http.post(route, json={"reviewer": "Ana", "verdict": "reject", "comment": "a reflection"})
    assert answer.status_code == 201
    assert answer.json()["truth"] is False
    region = part.regions[0].id
    assert (
        http.post(route, json={"reviewer": "Ana", "verdict": "reject", "region": region}).status_code == 201
    )
    stored = service.station.part(part.id)
    assert stored.truth is False
    assert [(said.reviewer, said.region, said.comment) for said in stored.verdicts] == [
        ("Ana", None, "a reflection"),
        ("Ana", region, ""),
    ]
    assert (
        http.post(route, json={"reviewer": "Ana", "verdict": "reject", "region": 999999}).status_code == 404
    )
    assert (
        http.post("/api/parts/999999/verdicts", json={"reviewer": "A", "verdict": "reject"}).status_code
        == 404
    )
    for wrong in ({"reviewer": " ", "verdict": "reject"}, {"reviewer": "A", "verdict": "perhaps"}, {}, []):
        assert http.post(route, json=wrong).status_code == 422
    assert len(service.station.part(part.id).verdicts) == 2


def test_another_threshold_is_tried_on_the_stored_parts(http: httpx.Client, service: Service) -> None:
    scores = sorted(part.score for part in service.station.parts())
    between = (scores[1] + scores[2]) / 2
    change = http.get(f"/api/what-if?threshold={between}").json()
    assert (change["parts"], change["ng_before"], change["ng_after"]) == (5, 3, 3)
    strict = http.get("/api/what-if?threshold=0").json()
    assert (strict["ng_after"], strict["turned_ng_count"], len(strict["turned_ng"])) == (5, 2, 2)
    found = http.get("/api/scores").json()
    assert sum(found["flagged"]) == 3
    assert sum(found["others"]) == 2
    assert http.get("/api/what-if?threshold=1.5").status_code == 422


def test_a_region_of_interest_is_saved_and_checked(http: httpx.Client, service: Service) -> None:
    assert http.get("/api/roi").json()["zones"] is None
    zones = {"photo_size": [60, 40], "include": [[[5, 5], [50, 5], [50, 30]]], "ignore": []}
    answer = http.put("/api/roi", json=zones).json()
    assert answer["zones"]["include"] == zones["include"]
    assert not answer["in_use"]
    saved = Roi.load(service.roi, "plate")
    assert saved.mask(40, 60)[6, 40]
    assert not saved.mask(40, 60)[29, 6]
    for wrong in (
        {**zones, "include": []},
        {**zones, "include": [[[5, 5], [50, 5]]]},
        {**zones, "include": [[[500, 500], [600, 500], [600, 600]]]},
        {**zones, "photo_size": [0, 40]},
        {"include": zones["include"]},
    ):
        assert http.put("/api/roi", json=wrong).status_code == 422
    assert http.get("/api/roi").json()["zones"]["include"] == zones["include"]


def test_what_is_drawn_is_bounded_and_what_a_file_says_is_shown_whole(
    http: httpx.Client, service: Service
) -> None:
    square = [[0, 0], [17_000, 0], [17_000, 17_000], [0, 17_000]]
    start = time.monotonic()
    answer = http.put("/api/roi", json={"photo_size": [17_000, 17_000], "include": [square]})
    assert answer.status_code == 413
    assert answer.json()["error"]["kind"] == "too-large"
    assert time.monotonic() - start < 5  # nothing was filled
    small = {"photo_size": [60, 40], "include": [[[0, 0], [9, 0], [9, 9]]] * 21}
    assert http.put("/api/roi", json=small).status_code == 422
    steps = [(x / 20, 30 if x % 2 else 31) for x in range(1000)]
    Roi((60, 40), ((*steps, (55, 1)),)).save(service.roi, "plate")  # drawn with another tool
    assert len(http.get("/api/roi").json()["zones"]["include"][0]) == 1001


# ---- the page


def until(page: Any, condition: str) -> None:
    """Wait until a JavaScript expression is true. Its policy lets nobody wait inside of the page."""
    deadline = time.monotonic() + 15
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.05)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with headless() as browser:
        yield browser


WINDOWS = {"desk": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}


@pytest.mark.parametrize("window", WINDOWS)
def test_an_operator_reviews_the_newest_part(chromium: Any, service: Service, window: str) -> None:
    with watched(chromium, viewport=WINDOWS[window]) as seen:
        page = seen.page
        page.goto(service.url)
        page.wait_for_selector("#regions li")
        assert page.locator("#parts button").count() == 5
        assert page.locator("#badge").inner_text() == "suspicious"
        assert fits(page)

        page.click("#reject")  # nobody has said who they are
        assert page.evaluate("document.activeElement.id") == "reviewer"
        newest = service.station.parts(full=True)[0]
        assert newest.verdicts == ()
        page.fill("#reviewer", "Ana")
        page.click("#reject")
        page.wait_for_selector("#reject[aria-pressed=true]")
        page.click("#regions li:first-child button.no")
        page.wait_for_selector("#regions li:first-child button.no[aria-pressed=true]")
        stored = service.station.part(newest.id)
        assert stored.truth is False
        assert [(said.reviewer, said.verdict, said.region) for said in stored.verdicts] == [
            ("Ana", "reject", None),
            ("Ana", "reject", newest.regions[0].id),
        ]
        page.reload()
        page.wait_for_selector("#reject[aria-pressed=true]")  # it comes from the database
        assert page.input_value("#reviewer") == "Ana"
        seen.assert_quiet()


def test_the_keyboard_and_the_switches(chromium: Any, service: Service) -> None:
    with watched(chromium, viewport=WINDOWS["desk"]) as seen:
        page = seen.page
        page.goto(service.url)
        page.wait_for_selector("#regions li")
        page.fill("#reviewer", "7")
        page.locator("#reviewer").blur()
        page.keyboard.press("j")
        page.wait_for_selector("#parts li:nth-child(2) button[aria-current=true]")
        page.keyboard.press("c")
        page.wait_for_selector("#confirm[aria-pressed=true]")
        assert service.station.parts()[1].truth is True
        page.keyboard.press("k")
        page.wait_for_selector("#parts li:nth-child(1) button[aria-current=true]")
        assert page.locator(".viewer .heat").is_visible()
        page.keyboard.press("h")
        page.wait_for_selector(".viewer.no-heat")
        page.keyboard.press("o")
        page.wait_for_selector(".viewer.no-outlines")
        page.select_option("#filter", "flagged=false")
        until(page, "document.querySelectorAll('#parts button').length === 2")
        page.wait_for_selector("#no-regions", state="visible")
        page.select_option("#filter", "flagged=true&reviewed=false")
        until(page, "document.querySelectorAll('#parts button').length === 2")
        seen.assert_quiet()


def test_the_threshold_is_moved_and_shows_what_would_change(chromium: Any, service: Service) -> None:
    with watched(chromium, viewport=WINDOWS["desk"]) as seen:
        page = seen.page
        page.goto(service.url)
        page.wait_for_selector("#histogram rect")
        page.fill("#threshold", "0")
        until(page, "document.getElementById('what-if').textContent.includes('NG 3 → 5 of 5')")
        assert page.locator("#turned button").count() == 2
        page.fill("#threshold", "1")
        until(page, "document.getElementById('what-if').textContent.includes('NG 3 → 0 of 5')")
        page.click("#turned button:first-child")
        page.wait_for_selector("#parts li:nth-child(1) button[aria-current=true]")
        assert page.locator("#threshold-value").inner_text() == "1.000"
        assert [part.truth for part in service.station.parts()] == [None] * 5  # a look changes nothing
        seen.assert_quiet()


@pytest.mark.parametrize("window", WINDOWS)
def test_a_region_of_interest_is_drawn(chromium: Any, service: Service, window: str) -> None:
    with watched(chromium, viewport=WINDOWS[window]) as seen:
        page = seen.page
        page.goto(service.url)
        page.wait_for_selector("#regions li")
        page.click("#draw")
        page.locator("#stage").scroll_into_view_if_needed()
        place = """(corner) => {
            const matrix = document.querySelector('.viewer').getScreenCTM();
            const point = new DOMPoint(...corner).matrixTransform(matrix);
            return [point.x, point.y];
        }"""
        for corner in ((10, 5), (50, 5), (50, 35), (10, 35), (10, 5)):
            page.mouse.click(*page.evaluate(place, list(corner)))
        assert page.locator(".viewer polygon.include").count() == 1
        page.select_option("#zone", "ignore")
        for corner in ((20, 10), (30, 10), (30, 20), (25, 25)):
            page.mouse.click(*page.evaluate(place, list(corner)))
        page.click("#undo")
        page.click("#save")  # closes what is open
        until(page, "document.getElementById('roi-state').textContent.includes('roi.json')")
        saved = Roi.load(service.roi, "plate")
        assert saved.photo_size == (60, 40)
        ((x0, y0), *_) = saved.include[0]
        assert abs(x0 - 10) <= 1
        assert abs(y0 - 5) <= 1
        assert len(saved.include[0]) == 4
        assert len(saved.ignore[0]) == 3
        assert page.locator(".viewer polygon").count() == 2  # it stays to be seen
        seen.assert_quiet()


def test_a_new_part_comes_by_itself(chromium: Any, service: Service) -> None:
    with watched(chromium, viewport=WINDOWS["desk"]) as seen:
        page = seen.page
        page.goto(service.url)
        page.wait_for_selector("#regions li")
        httpx.post(f"{service.url}/inspect", content=png(seed=99))
        until(page, "document.querySelectorAll('#parts button').length === 6")
        page.wait_for_selector("#badge.ok")
        seen.assert_quiet()


def test_with_a_token_the_page_asks_for_it(chromium: Any, tmp_path: Path) -> None:
    with running(tmp_path, token=TOKEN) as service:
        fill(service, token=TOKEN)
        with watched(chromium, viewport=WINDOWS["phone"]) as seen:
            page = seen.page
            page.goto(service.url)
            page.wait_for_selector("#login:not([hidden])")
            assert page.locator("#parts button").count() == 0
            page.fill("#token", "not the token at all")
            page.click("#login button")
            page.wait_for_selector("#login-error:not([hidden])")
            page.fill("#token", TOKEN)
            page.click("#login button")
            page.wait_for_selector("#regions li")
            until(page, "document.querySelector('#parts img').naturalWidth > 0")
            assert [one for one in seen.complaints if "401" not in one] == []
            assert all(url.startswith((service.url, "blob:", "data:")) for url in seen.requests)


def test_the_page_may_load_nothing_but_its_own(http: httpx.Client) -> None:
    answer = http.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")
