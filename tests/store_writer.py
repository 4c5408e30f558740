"""A process that writes parts into a store until it is killed, and says on stdout which are committed."""

from __future__ import annotations

import sys

from clipsam.store import Station

REGIONS = 20


def row(name: str) -> dict[str, object]:
    """A part with regions; `area_px` counts them, so that a lost one shows."""
    rle = {"size": [8, 8], "counts": "0" * 400}
    regions = [
        {"box_xyxy": [0, 0, 8, 8], "area_px": k, "score": 0.5, "defect": "dent", "rle": rle}
        for k in range(REGIONS)
    ]
    return {"path": name, "sha256": name, "score": 0.5, "is_defective": True, "regions": regions}


if __name__ == "__main__":
    station = Station.open(sys.argv[1])
    run = station.run(product="plate", key=sys.argv[2])
    for number in range(100_000):
        print(station.add(run, row(f"{sys.argv[2]}-{number}")), flush=True)
