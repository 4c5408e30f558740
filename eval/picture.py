"""Draw the README's picture from a real run of the demo: photos above, overlays below.

clipsam demo --out DIR && python eval/picture.py DIR eval/results/demo.jpg
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from PIL import Image

SIDE = 320
COLUMNS = 5


def main(demo: Path, target: Path) -> None:
    """Take the defective parts of the run, in order, and set them side by side."""
    rows = [json.loads(line) for line in (demo / "run" / "results.jsonl").read_text().splitlines()]
    damaged = [row for row in rows if "flawless" not in Path(row["path"]).stem][:COLUMNS]
    sheet = Image.new("RGB", (COLUMNS * SIDE, 2 * SIDE), "white")
    for column, row in enumerate(damaged):
        overlay = demo / "run" / row["files"]["overlay"]
        for line, picture in enumerate((Path(row["path"]), overlay)):
            with Image.open(picture) as photo:
                sheet.paste(photo.convert("RGB").resize((SIDE, SIDE)), (column * SIDE, line * SIDE))
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target, quality=88)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python eval/picture.py DEMO_DIR TARGET")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
