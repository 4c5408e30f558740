"""The service over a real socket: answers, refusals with reasons, and what strangers cannot do."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from service import TOKEN, Service, UploadSegmenter, encoded, png, red, running

from clipsam.calibrate import Calibration, PhotoScore
from clipsam.cli.serve import bound, serve_command
from clipsam.conformal import rate_of
from clipsam.errors import CalibrationError, MissingExtra, StoreError, UsageError
from clipsam.result import Region
from clipsam.runs.store import read_rows
from clipsam.serve.guard import PIECE, is_loopback, replayed
from clipsam.serve.limits import Limits
from clipsam.serve.server import token_for


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service"), upload_mb=1.0, megapixels=1.0, batch=4) as found:
        yield found


@pytest.fixture(scope="module")
def http(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=20) as client:
        yield client


def reason(response: httpx.Response, status: int) -> str:
    """The kind of a refusal, which has a sentence too."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["message"]
    return error["kind"]


# ---- what it is for


def test_a_photo_as_the_body(http: httpx.Client) -> None:
    data = png(spot=True)
    answer = http.post("/inspect", content=data, headers={"Content-Type": "image/png"}).json()
    assert (answer["width"], answer["height"]) == (60, 40)
    assert answer["is_defective"] is None
    assert answer["score"] > 0.8
    assert answer["map_png"] is None
    region = Region.from_dict(answer["regions"][0])
    assert region.box_xyxy == (30, 10, 45, 20)


def test_a_photo_in_a_form_is_the_same_and_may_have_its_map(http: httpx.Client) -> None:
    data = png(spot=True)
    raw = http.post("/inspect", content=data).json()
    form = http.post("/inspect?map=true", files={"photo": ("x.png", data, "image/png")}).json()
    for key in ("score", "regions", "sha256"):
        assert raw[key] == form[key]
    with Image.open(io.BytesIO(base64.b64decode(form["map_png"]))) as image:
        values = np.asarray(image, np.float32) / 65535
    assert values.shape == (40, 60)
    assert values.max() == pytest.approx(form["score"], abs=1e-4)


def test_a_batch_answers_every_photo_for_itself(http: httpx.Client) -> None:
    files = [("photos", ("a", data)) for data in (png(), b"garbage", red(), png(spot=True))]
    results = http.post("/inspect/batch", files=files).json()["results"]
    assert [item["index"] for item in results] == [0, 1, 2, 3]
    assert [item["error"] and item["error"]["kind"] for item in results] == [
        None,
        "not-an-image",
        "failed",
        None,
    ]
    assert len(results[3]["result"]["regions"]) == 1


def test_health_readiness_metrics_and_openapi(http: httpx.Client, service: Service) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    http.post("/inspect", content=png())
    http.get("/no/such/page")
    figures = http.get("/metrics").text
    assert 'clipsam_photos_total{outcome="uncalibrated"}' in figures
    assert 'clipsam_requests_total{route="/inspect",status="200"}' in figures
    assert 'route="other",status="404"' in figures
    assert "/no/such" not in figures
    assert "clipsam_queue_photos 0.0" in figures
    schema = http.get("/openapi.json").json()
    assert {"/inspect", "/inspect/batch", "/healthz", "/readyz", "/metrics"} <= schema["paths"].keys()
    for path in ("/docs", "/redoc"):  # these would load scripts from elsewhere
        assert http.get(path).status_code == 404


def test_what_was_inspected_is_kept_under_names_of_our_own(http: httpx.Client, service: Service) -> None:
    data = png(spot=True, seed=77)
    sha256 = http.post("/inspect", files={"photo": ("holiday.png", data)}).json()["sha256"]
    (run,) = service.out.glob("*-*-*")
    (row,) = [row for row in read_rows(run / "results.jsonl") if row["sha256"] == sha256]
    path = Path(row["path"])
    assert path.read_bytes() == data
    assert path.is_relative_to(service.out / "photos")
    assert "holiday" not in str(path)
    deadline = time.monotonic() + 10
    while not any(part.sha256 == sha256 for part in service.station.parts()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


# ---- refusals


def bomb(side: int) -> bytes:
    """A few kB of PNG that would be `side` x `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "status", "kind"),
    [
        (b"", 422, "empty"),
        (b"no photo at all", 415, "not-an-image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "not-an-image"),
        (b"GIF89a" + bytes(100), 415, "not-an-image"),
        (png()[:300], 422, "truncated"),
        (bomb(50_000), 413, "too-large"),
        (bytes(1_000_001), 413, "too-large"),
        (red(), 500, "failed"),
    ],
    ids=["empty", "text", "svg", "gif", "truncated", "bomb", "too many bytes", "the models fail"],
)
def test_what_cannot_be_inspected_is_refused_with_a_reason(
    http: httpx.Client, data: bytes, status: int, kind: str
) -> None:
    assert reason(http.post("/inspect", content=data), status) == kind
    assert http.post("/inspect", content=png()).status_code == 200  # and harms no other


def test_too_many_bytes_without_saying_how_many(http: httpx.Client) -> None:
    pieces = (bytes(100_000) for _ in range(40))
    assert reason(http.post("/inspect", content=pieces), 413) == "too-large"


def test_who_sends_too_much_reads_the_reason_all_the_same(http: httpx.Client) -> None:
    for size in (2_000_000, 20_000_000):
        for _ in range(5):
            assert reason(http.post("/inspect", content=bytes(size)), 413) == "too-large"


def test_forms_that_make_no_sense(http: httpx.Client) -> None:
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert reason(http.post("/inspect", content=b"--y\r\n", headers=broken), 400) == "bad-form"
    text = b'--x\r\nContent-Disposition: form-data; name="photo"\r\n\r\ntext\r\n--x--\r\n'
    assert reason(http.post("/inspect", content=text, headers=broken), 422) == "no-photo"
    assert (
        reason(http.post("/inspect", content=b"a", headers={"Content-Type": "multipart/form-data"}), 400)
        == "bad-form"
    )
    two = [("photo", ("a", png())), ("photo", ("b", png()))]
    assert reason(http.post("/inspect", files=two), 400) == "bad-form"
    assert reason(http.post("/inspect/batch", files=[("p", ("a", png()))] * 5), 400) == "bad-form"
    assert reason(http.post("/inspect/batch", content=png()), 415) == "unsupported"
    assert reason(http.post("/inspect", data={"photo": "text"}, files={}), 415) == "not-an-image"
    assert reason(http.post("/inspect?map=perhaps", content=png()), 422) == "invalid"
    gzip = {"Content-Encoding": "gzip"}
    assert reason(http.post("/inspect", content=png(), headers=gzip), 415) == "encoded"
    assert reason(http.get("/inspect"), 405) == "http"


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "..\\..\\x.png", "/etc/cron.d/x", "a\x00b.png", "x" * 3000, "=cmd|' /C'!A0"],
)
def test_names_from_clients_touch_no_path(http: httpx.Client, service: Service, name: str) -> None:
    before = {path for path in service.out.parent.rglob("*") if path.is_file()}
    body = (
        b'--b\r\nContent-Disposition: form-data; name="photo"; filename="' + name.encode() + b'"\r\n\r\n'
    ) + png(seed=5)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = http.post("/inspect", content=body + b"\r\n--b--\r\n", headers=headers)
    assert answer.status_code in (200, 400)
    fresh = {path for path in service.out.parent.rglob("*") if path.is_file()} - before
    assert all(path.is_relative_to(service.out) or path.name.startswith("service.sqlite") for path in fresh)
    assert not any("passwd" in str(path) or "x" * 20 in str(path) or "cmd" in str(path) for path in fresh)


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/api/parts/..%2f..%2fx"])
def test_paths_lead_nowhere(http: httpx.Client, service: Service, path: str) -> None:
    with socket.create_connection(address(service)) as wire:
        wire.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        said = received(wire)
    assert said.split()[1] in (b"404", b"422")
    assert b"root:" not in said


def test_other_names_and_pages_of_other_sites_are_refused(http: httpx.Client) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "10.0.0.7:8000", ""):
        assert reason(http.get("/readyz", headers={"Host": host}), 403) == "wrong-host"
    for host in ("localhost:9", "127.0.0.2", "[::1]:8000"):  # each may be what --host said
        assert http.get("/readyz", headers={"Host": host}).status_code == 200
    origin = {"Origin": "https://evil.example"}
    assert reason(http.post("/inspect", content=png(), headers=origin), 403) == "wrong-origin"
    own = {"Origin": str(http.base_url).rstrip("/")}
    assert http.post("/inspect", content=png(), headers=own).status_code == 200


def test_answers_tell_browsers_to_be_careful(http: httpx.Client) -> None:
    for path in ("/healthz", "/nothing"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


# ---- time and room


def address(service: Service) -> tuple[str, int]:
    url = httpx.URL(service.url)
    return url.host, url.port or 0


def received(wire: socket.socket) -> bytes:
    wire.settimeout(10)
    parts = []
    while piece := wire.recv(65536):
        parts.append(piece)
    return b"".join(parts)


def test_slow_senders_are_cut_off(tmp_path: Path) -> None:
    with running(tmp_path, upload_seconds=0.5, header_seconds=0.5) as service:
        start = time.monotonic()
        with socket.create_connection(address(service)) as wire:  # the head never ends
            wire.sendall(b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            assert received(wire) == b""
        with socket.create_connection(address(service)) as wire:  # nothing comes at all
            assert received(wire) == b""
        with socket.create_connection(address(service)) as wire:  # the body dribbles
            wire.sendall(b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n")
            for _ in range(4):
                wire.sendall(b"x")
                time.sleep(0.1)
            said = received(wire)
        assert said.startswith(b"HTTP/1.1 408")
        assert b'"slow"' in said
        assert time.monotonic() - start < 5
        assert httpx.post(f"{service.url}/inspect", content=png()).status_code == 200


def test_a_second_slow_head_on_the_same_connection_is_cut_off(tmp_path: Path) -> None:
    with running(tmp_path, header_seconds=0.4) as service, socket.create_connection(address(service)) as wire:
        wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wire.settimeout(5)
        said = b""
        while not said.endswith(b'{"status":"ok"}'):
            said += wire.recv(65536)
        wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
        start = time.monotonic()
        assert received(wire) == b""
        assert time.monotonic() - start < 3


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    gate = threading.Event()
    with running(tmp_path, segmenter=UploadSegmenter(gate=gate), queue=2) as service:

        def post(seed: int) -> httpx.Response:
            return httpx.post(f"{service.url}/inspect", content=png(seed=seed), timeout=20)

        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(post, seed) for seed in range(8)]
            deadline = time.monotonic() + 10
            while sum(one.done() for one in asked) < 5 and time.monotonic() < deadline:
                time.sleep(0.02)
            gate.set()
            answers = [one.result() for one in asked]
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] * 3 + [503] * 5  # one in hand, two in the queue
        for answer in answers:
            if answer.status_code == 503:
                assert reason(answer, 503) == "busy"
                assert int(answer.headers["Retry-After"]) >= 1


def test_who_waits_too_long_is_told_and_not_worked_for(tmp_path: Path) -> None:
    gate = threading.Event()
    segmenter = UploadSegmenter(gate=gate)
    with running(tmp_path, segmenter=segmenter, seconds=0.3) as service:
        with ThreadPoolExecutor(3) as pool:
            answers = list(
                pool.map(lambda seed: httpx.post(f"{service.url}/inspect", content=png(seed=seed)), range(3))
            )
        assert {reason(answer, 504) for answer in answers} == {"too-slow"}
        gate.set()
        assert httpx.post(f"{service.url}/inspect", content=png(seed=9)).status_code == 200
        assert segmenter.calls == 2  # the first, which was in hand, and the last


def test_requests_at_a_time_are_bounded(tmp_path: Path) -> None:
    gate = threading.Event()
    segmenter = UploadSegmenter(gate=gate)
    with running(tmp_path, segmenter=segmenter, requests=1) as service, ThreadPoolExecutor(1) as pool:
        first = pool.submit(httpx.post, f"{service.url}/inspect", content=png(), timeout=20)
        deadline = time.monotonic() + 10
        while segmenter.calls == 0:  # the photo is in hand
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert reason(httpx.get(f"{service.url}/api/parts"), 503) == "busy"
        gate.set()
        assert first.result().status_code == 200


def test_a_batch_waits_for_room_and_not_for_ever(tmp_path: Path) -> None:
    gate = threading.Event()
    segmenter = UploadSegmenter(gate=gate)
    files = [("p", png(seed=seed)) for seed in range(3)]
    with running(tmp_path, segmenter=segmenter, queue=1, batch_seconds=1.5) as service:

        def inspect(_: int) -> list[dict[str, Any]]:
            return httpx.post(f"{service.url}/inspect/batch", files=files, timeout=20).json()["results"]

        with ThreadPoolExecutor(4) as pool:
            found = [item for results in pool.map(inspect, range(4)) for item in results]
            assert {item["error"]["kind"] for item in found} == {"too-slow"}
            gate.set()
            found = [item for results in pool.map(inspect, range(4)) for item in results]
            assert [item["error"] for item in found] == [None] * 12


def test_uploads_share_a_bounded_memory(tmp_path: Path) -> None:
    with running(tmp_path, upload_mb=1, buffer_mb=1.5, upload_seconds=5) as service:
        with socket.create_connection(address(service)) as wire:
            wire.sendall(b"POST /inspect HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n")
            deadline = time.monotonic() + 5
            while True:
                answer = httpx.post(f"{service.url}/inspect", content=bytes(700_000))
                if answer.status_code == 503 or time.monotonic() > deadline:
                    break
            assert reason(answer, 503) == "busy"
        deadline = time.monotonic() + 5
        while (status := httpx.post(f"{service.url}/inspect", content=png()).status_code) != 200:
            assert time.monotonic() < deadline, status
            time.sleep(0.05)
        assert httpx.post(f"{service.url}/inspect", content=bytes(700_000)).status_code == 415


def test_a_segmenter_that_always_fails_is_not_ready(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        for _ in range(3):
            httpx.post(f"{service.url}/inspect", content=red())
        assert reason(httpx.get(f"{service.url}/readyz"), 503) == "not-ready"
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        httpx.post(f"{service.url}/inspect", content=png())
        assert httpx.get(f"{service.url}/readyz").status_code == 200


def test_four_clients_with_photos_and_garbage(tmp_path: Path) -> None:
    """The short version of eval/load_serve.py, which takes five minutes and another process."""
    load = load_script()
    with running(tmp_path, upload_mb=8, megapixels=20, queue=3) as service:
        good = [png(spot=True, seed=seed, size=(160, 120)) for seed in range(4)]
        clients = [load.Client(service.url, good, seed, time.monotonic() + 3) for seed in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
        assert [client.strange for client in clients] == [[]] * 4
        outcomes = {name for client in clients for name in client.outcomes}
        assert {"photo: 200", "form: 200", "noise: 415", "bomb: 413"} <= outcomes
        assert httpx.get(f"{service.url}/readyz").status_code == 200


@pytest.mark.slow
def test_load_from_another_process(tmp_path: Path) -> None:
    found = load_script().measure(20, 4, 256)
    assert all(found["holds"].values()), found


def load_script() -> Any:
    path = Path(__file__).parent.parent / "eval" / "load_serve.py"
    spec = importlib.util.spec_from_file_location("load_serve", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- the token


def test_with_a_token_nothing_of_the_plant_is_told_without_it(tmp_path: Path) -> None:
    with running(tmp_path, token=TOKEN) as service, httpx.Client(base_url=service.url) as http:
        schema = http.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
        for path, methods in schema["paths"].items():
            for method in methods:
                answer = http.request(method, path.replace("{part}", "1"))
                if path in ("/", "/healthz", "/readyz"):
                    assert answer.status_code == 200
                else:
                    assert reason(answer, 401) == "no-token"
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
        for wrong in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", "Bearer ä"):
            headers = {"Authorization": wrong.encode("utf-8")}
            assert http.post("/inspect", content=png(), headers=headers).status_code == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert http.post("/inspect", content=png(), headers=right).status_code == 200
        elsewhere = {**right, "Host": "station-7.plant.example"}
        assert http.get("/metrics", headers=elsewhere).status_code == 200
        assert service.segmenter.calls == 1


def test_who_has_no_token_takes_no_room(tmp_path: Path) -> None:
    right = {"Authorization": f"Bearer {TOKEN}"}
    with running(tmp_path, token=TOKEN, upload_mb=1, buffer_mb=1.5, requests=2, upload_seconds=9) as service:
        wires = [socket.create_connection(address(service)) for _ in range(3)]
        for wire, method in zip(wires, ("GET", "POST", "POST"), strict=True):
            head = f"{method} /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999\r\n\r\n"
            wire.sendall(head.encode() + bytes(1000))
        time.sleep(0.3)
        assert httpx.post(f"{service.url}/inspect", content=bytes(700_000), headers=right).status_code == 415
        assert received(wires[0]).split()[1] == b"200"
        assert received(wires[1]).split()[1] == b"401"
        for wire in wires:
            wire.close()


def test_the_body_comes_in_pieces_between_which_others_have_their_turn() -> None:
    turns: list[str] = []

    async def other() -> None:
        while True:
            turns.append("other")
            await asyncio.sleep(0)

    async def read(body: bytes) -> bytes:
        async def never() -> Any:
            raise AssertionError

        receive, parts = replayed(body, never), []
        beside = asyncio.create_task(other())
        more = True
        while more:
            message = await receive()
            turns.append("piece")
            parts.append(message["body"])
            more = message["more_body"]
        beside.cancel()
        return b"".join(parts)

    for length in (0, 1, PIECE, PIECE + 1, 3 * PIECE):
        turns.clear()
        body = bytes(range(256)) * (length // 256) + bytes(length % 256)
        assert asyncio.run(read(body)) == body
        assert turns.count("piece") == max(1, -(-length // PIECE))
        assert "piece piece" not in " ".join(turns)


def test_other_addresses_need_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLIPSAM_TOKEN", raising=False)
    assert token_for("127.0.0.1", None) is None
    for host in ("0.0.0.0", "::", "192.168.1.7", "station-7", ""):
        assert not is_loopback(host)
        with pytest.raises(UsageError, match="there is no token"):
            token_for(host, None)
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert token_for("0.0.0.0", file) == TOKEN
    file.write_text("short")
    with pytest.raises(UsageError, match="5 characters"):
        token_for("127.0.0.1", file)
    file.write_text("")
    with pytest.raises(UsageError, match="no token"):
        token_for("127.0.0.1", file)
    with pytest.raises(UsageError, match="cannot be read"):
        token_for("0.0.0.0", tmp_path / "gone")
    monkeypatch.setenv("CLIPSAM_TOKEN", TOKEN)
    assert token_for("0.0.0.0", None) == TOKEN
    assert token_for("localhost", None) == TOKEN


def test_a_port_is_taken_from_the_start_on() -> None:
    with bound("127.0.0.1", 0) as first, pytest.raises(UsageError, match="choose another --port"):
        bound("127.0.0.1", first.getsockname()[1])


def test_a_calibration_of_photos_that_were_read_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    good = tuple(PhotoScore(f"{number}.png", str(number), number / 10, 0.1) for number in range(9))
    segmenter = UploadSegmenter()
    segmenter.calibration = Calibration(rate_of("10%"), good, {}, bit_depth=12)  # type: ignore[attr-defined]
    monkeypatch.setattr("clipsam.cli._options.load_segmenter", lambda *_, **__: segmenter)
    with pytest.raises(CalibrationError, match="made with --bit-depth 12"):
        serve_command(port=0, keep=False)


def test_without_the_extra_its_install_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("clipsam.serve")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    with pytest.raises(MissingExtra, match=r"pip install 'clipsam\[serve\]'"):
        serve_command()


def test_a_store_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path) as service:

        def away(*_: Any, **__: Any) -> Any:
            raise StoreError("the store is away")

        monkeypatch.setattr(type(service.station), "parts", away)
        assert reason(httpx.get(f"{service.url}/api/parts"), 503) == "store"
        assert httpx.post(f"{service.url}/inspect", content=png()).status_code == 200


def test_limits_are_checked() -> None:
    with pytest.raises(UsageError, match="upload_mb is 0"):
        Limits(upload_mb=0)


def test_from_a_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clipsam", "serve", "--host"]
    refused = subprocess.run([*command, "0.0.0.0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "there is no token" in refused.stderr
    taken = socket.create_server(("127.0.0.1", 0))
    port = str(taken.getsockname()[1])
    busy = subprocess.run(
        [*command, "127.0.0.1", "--port", port], capture_output=True, text=True, check=False
    )
    assert busy.returncode == 1
    assert "choose another --port" in busy.stderr
    taken.close()
    options = ["127.0.0.1", "--port", "0", "--preset", "nano", "--out", str(tmp_path / "out"), "--json"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        address = json.loads(process.stdout.readline())["address"]
        deadline = time.monotonic() + 30
        while True:
            try:
                answer = httpx.post(f"{address}inspect", content=png(spot=True, size=(120, 90)), timeout=30)
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert answer.status_code == 200
        assert answer.json()["timings"]["clip"] > 0
        process.terminate()
        assert process.wait(30) == 0
    assert encoded(np.zeros((2, 2, 3), np.uint8))
