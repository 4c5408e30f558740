"""The service under load from another process: four clients, photos and garbage mixed, five minutes.

    python eval/load_serve.py --out eval/results/load_serve.json

`clipsam serve` runs in a process of its own. What must hold: it does not crash, every request is answered or
refused with a reason, its memory and its open files do not grow, and it ends cleanly when told. Exits with 1
where something of it does not hold. Photos are rendered; reads no real ones.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

import clipsam
from clipsam.nano.demo import demo_parts

PAGE = os.sysconf("SC_PAGE_SIZE")
GROWTH = 1.10  # of memory, from a quarter of the time to the end
REASONS = {400, 403, 404, 405, 408, 413, 415, 422, 503, 504}


def photos(count: int, side: int) -> list[bytes]:
    """Rendered parts as PNG and JPEG files."""
    found = []
    for number, sample in enumerate(demo_parts(count, 0, side)):
        buffer = io.BytesIO()
        Image.fromarray(sample.image).save(buffer, "JPEG" if number % 2 else "PNG")
        found.append(buffer.getvalue())
    return found


def bomb(side: int = 60_000) -> bytes:
    """A few kB that would be billions of pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(2_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def requests(good: list[bytes], chance: random.Random) -> dict[str, Callable[[httpx.Client], httpx.Response]]:
    """What a client sends, by name."""

    def photo() -> bytes:
        return chance.choice(good)

    def flipped() -> bytes:
        data = bytearray(photo())
        for _ in range(20):
            data[chance.randrange(len(data))] = chance.randrange(256)
        return bytes(data)

    def part(data: bytes, name: str = "x.png") -> dict[str, Any]:
        return {"photo": (name, data)}

    return {
        "photo": lambda http: http.post("/inspect", content=photo()),
        "form": lambda http: http.post("/inspect", files=part(photo(), "../../../etc/passwd")),
        "batch": lambda http: http.post(
            "/inspect/batch", files=[("p", photo()), ("p", b"x"), ("p", photo())]
        ),
        "noise": lambda http: http.post("/inspect", content=chance.randbytes(5000)),
        "truncated": lambda http: http.post("/inspect", content=photo()[: chance.randrange(1, 4000)]),
        "flipped": lambda http: http.post("/inspect", content=flipped()),
        "bomb": lambda http: http.post("/inspect", content=bomb()),
        "too many bytes": lambda http: http.post("/inspect", content=bytes(9_000_000)),
        "half a form": lambda http: http.post(
            "/inspect", content=b"--b\r\n\r\n", headers={"Content-Type": "multipart/form-data; boundary=b"}
        ),
        "no such page": lambda http: http.get(f"/{chance.randrange(10**9)}"),
        "parts": lambda http: http.get("/api/parts?limit=20"),
        "newest part": lambda http: http.get(f"/api/parts/{chance.randrange(1, 50)}"),
        "metrics": lambda http: http.get("/metrics"),
    }


WEIGHTS = {"photo": 8, "form": 4, "flipped": 3, "newest part": 2}


class Client(threading.Thread):
    """One of the clients: sends until told to stop, and counts what came back."""

    def __init__(self, url: str, good: list[bytes], seed: int, until: float) -> None:
        super().__init__(daemon=True)
        self.outcomes: Counter[str] = Counter()
        self.strange: list[str] = []
        self.seconds: list[float] = []
        self._url, self._until = url, until
        self._chance = random.Random(seed)
        self._requests = requests(good, self._chance)

    def run(self) -> None:
        names = list(self._requests)
        weights = [WEIGHTS.get(name, 1) for name in names]
        with httpx.Client(base_url=self._url, timeout=120) as http:
            while time.monotonic() < self._until:
                (name,) = self._chance.choices(names, weights)
                start = time.monotonic()
                try:
                    self._count(name, self._requests[name](http))
                except httpx.HTTPError as error:
                    self.strange.append(f"{name}: {error!r}")
                self.seconds.append(time.monotonic() - start)

    def _count(self, name: str, answer: httpx.Response) -> None:
        self.outcomes[f"{name}: {answer.status_code}"] += 1
        if answer.is_success:
            return
        try:
            error = answer.json()["error"]
            good = bool(answer.status_code in REASONS and error["kind"] and error["message"])
        except (ValueError, KeyError):
            good = False
        if not good:
            self.strange.append(f"{name}: {answer.status_code} {answer.text[:200]}")


def usage(process: int) -> tuple[float, int]:
    """Memory of a process in MB, and its open files."""
    resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE / 2**20
    return round(resident, 1), len(os.listdir(f"/proc/{process}/fd"))


def serve(folder: Path) -> tuple[subprocess.Popen[str], str]:
    """The service in a process of its own, and its address."""
    command = [
        sys.executable, "-m", "clipsam", "serve", "--product", "part", "--preset", "nano", "--port", "0",
        "--out", str(folder / "out"), "--store", str(folder / "store.sqlite"), "--upload-mb", "8",
        "--megapixels", "20", "--queue", "3", "--json",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    address = json.loads(process.stdout.readline())["address"]
    for _ in range(300):
        try:
            if httpx.get(f"{address}readyz").is_success:
                break
        except httpx.HTTPError:
            time.sleep(0.1)
    return process, address.rstrip("/")


def measure(seconds: float, clients: int, side: int) -> dict[str, Any]:
    """Run the load and give the figures."""
    good = photos(8, side)
    with tempfile.TemporaryDirectory() as folder:
        process, url = serve(Path(folder))
        start = time.monotonic()
        asking = [Client(url, good, seed, start + seconds) for seed in range(clients)]
        for client in asking:
            client.start()
        course = []
        while any(client.is_alive() for client in asking):
            time.sleep(min(2.0, seconds / 20))
            if process.poll() is not None:
                break
            course.append((round(time.monotonic() - start, 1), *usage(process.pid)))
        alive = process.poll() is None and httpx.get(f"{url}/readyz").is_success
        process.terminate()
        ended = process.wait(60)
        rows = sum(len(path.read_bytes().splitlines()) for path in Path(folder).rglob("results.jsonl"))
    return figures(asking, course, alive, ended, rows, seconds, side)


def figures(
    asking: list[Client],
    course: list[tuple[float, float, int]],
    alive: bool,
    ended: int,
    rows: int,
    seconds: float,
    side: int,
) -> dict[str, Any]:
    outcomes: Counter[str] = sum((client.outcomes for client in asking), Counter())
    strange = [line for client in asking for line in client.strange]
    times = np.array([spent for client in asking for spent in client.seconds])
    settled = [point for point in course if point[0] >= seconds / 4]
    late = settled[len(settled) // 2 :]
    memory = (max(point[1] for point in settled[: len(settled) // 2 or 1]), max(point[1] for point in late))
    files = (max(point[2] for point in settled[: len(settled) // 2 or 1]), max(point[2] for point in late))
    return {
        "seconds": seconds,
        "clients": len(asking),
        "side_px": side,
        "requests": sum(outcomes.values()),
        "outcomes": dict(sorted(outcomes.items())),
        "photos_kept": rows,
        "request_seconds": {f"p{part}": round(float(np.percentile(times, part)), 3) for part in (50, 95, 99)},
        "memory_mb": {
            "second_quarter": memory[0],
            "second_half": memory[1],
            "course": course[:: max(1, len(course) // 30)],
        },
        "open_files": {"second_quarter": files[0], "second_half": files[1]},
        "strange": strange[:20],
        "holds": {
            "it is alive and ready at the end": alive,
            "it ends cleanly when told": ended == 0,
            "every request was answered or refused with a reason": not strange,
            "memory does not grow by more than 10 %": memory[1] <= GROWTH * memory[0],
            "open files do not grow": files[1] <= files[0] + 5,
        },
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "clipsam": clipsam.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--side", type=int, default=384, help="px of a photo")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    options = parser.parse_args()
    found = measure(options.seconds, options.clients, options.side)
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if broken := [name for name, holds in found["holds"].items() if not holds]:
        sys.exit(f"does not hold: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
