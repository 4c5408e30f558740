"""Draw the README's picture of the report: a headless Chromium opens the page of a real run.

clipsam demo --out DIR && python eval/report_picture.py DIR/run/report.html eval/results/report.jpg
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

SIZE = {"width": 1280, "height": 1180}


def main(page: Path, target: Path) -> None:
    """Take the upper part of the page with its heat maps on."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport=SIZE, color_scheme="light", offline=True)
        tab.goto(page.resolve().as_uri())
        tab.keyboard.press("h")
        tab.wait_for_timeout(500)
        picture = Image.open(io.BytesIO(tab.screenshot()))
        browser.close()
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.convert("RGB").save(target, quality=85)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python eval/report_picture.py REPORT TARGET")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
