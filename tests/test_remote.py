"""Photos behind URLs: found, read once, inspected like those on disk."""

from __future__ import annotations

import functools
import http.server
import json
import pickle
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image

from clipsam.errors import PhotoError, RunError, UsageError
from clipsam.exports.inspected import InspectedRun
from clipsam.finding import find_photos
from clipsam.images import file_sha256, photo_size, read_photo
from clipsam.remote import RemotePath, as_path, is_url, read_remote
from clipsam.report.page import write_report
from clipsam.runs.inspection import inspect_photos, photos_to_inspect
from clipsam.runs.pictures import PictureOptions
from clipsam.runs.ray_worker import Ask, Attempts, Worker

fsspec = pytest.importorskip("fsspec")


def plate(seed: int, spot: bool = False) -> bytes:
    pixels = np.random.default_rng(seed).integers(220, 250, (40, 60, 3), dtype=np.uint8)
    if spot:
        pixels[10:20, 30:45] = 30
    target = BytesIO()
    Image.fromarray(pixels).save(target, "PNG")
    return target.getvalue()


FILES = {
    "line/a/0.png": plate(0),
    "line/a/1.png": plate(1, spot=True),
    "line/b/0.png": plate(2, spot=True),
    "line/b/broken.png": plate(2)[:200],
    "line/b/empty.png": b"",
    "line/notes.txt": b"x",
    "line/.hidden/0.png": plate(3),
    "line/run/run.json": b"{}",
    "line/run/results.jsonl": b"",
    "line/run/maps/0.png": plate(4),
}
FOUND = ["a/0.png", "a/1.png", "b/0.png", "b/broken.png", "b/empty.png"]


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder in fsspec's memory."""
    files = fsspec.filesystem("memory")
    for name, data in FILES.items():
        files.pipe_file(f"/bucket/{name}", data)
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The same over HTTP."""
    pytest.importorskip("aiohttp")
    root = tmp_path / "served"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


# ---- paths


@pytest.mark.parametrize("url", ["s3://bucket/a b/c.png", "gs://b/x.tar.png", "http://host:80/a/b.png"])
def test_a_url_is_a_path_and_a_url_again(url: str) -> None:
    path = as_path(url)
    assert isinstance(path, RemotePath)
    assert str(path) == path.as_posix() == f"{path}" == url
    assert path.name == url.rpartition("/")[2]
    assert path.suffix == ".png"
    assert str(path.with_suffix("")) == url[:-4]
    assert str(path.parent / path.name) == url
    assert as_path(path) is path
    assert pickle.loads(pickle.dumps(path)) == path
    assert len({path, as_path(url)}) == 1


def test_parts_of_urls() -> None:
    root = RemotePath("s3://bucket/a")
    assert str(RemotePath("s3://bucket/a/b/c.png").relative_to(root)) == "b/c.png"
    assert not RemotePath("s3://bucket/other/c.png").is_relative_to(root)
    assert not Path("/bucket/a/c.png").is_relative_to(root)
    assert str(root.parent.parent) == "s3://"
    assert as_path(str(root.parent.parent)) == root.parent.parent


@pytest.mark.parametrize("name", ["/a/b.png", "a.png", "C:/photos/a.png", r"C:\a.png", "~/x", "a:b.png", "."])
def test_files_of_this_machine_are_no_urls(name: str) -> None:
    assert not is_url(name)
    assert as_path(name) == Path(name)


# ---- finding


def test_folders(bucket: str) -> None:
    found = find_photos([f"{bucket}/line"])
    assert [path.relative_to(found.root).as_posix() for path in found.photos] == FOUND
    assert str(found.root) == "memory://bucket/line"
    assert {str(path).removeprefix(f"{bucket}/line/"): reason for path, reason in found.skipped} == {
        "notes.txt": "not a photo by its suffix",
        "run": "this folder holds the results of a run",
    }


def test_patterns_files_and_several_at_once(bucket: str) -> None:
    found = find_photos([f"{bucket}/line/*/0.png"])
    assert [str(path) for path in found.photos] == [f"{bucket}/line/a/0.png", f"{bucket}/line/b/0.png"]
    assert str(found.root) == f"{bucket}/line"
    found = find_photos([f"{bucket}/line/a", f"{bucket}/line/a/0.png", f"{bucket}/line/b/gone.png"])
    assert [path.name for path in found.photos] == ["0.png", "1.png", "gone.png"]
    assert str(found.root) == f"{bucket}/line"


def test_what_is_wrong_is_told_in_a_sentence(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="different file systems"):
        find_photos([bucket, str(tmp_path)])
    with pytest.raises(UsageError, match="knows no file system nosuch://"):
        find_photos(["nosuch://a/b"])
    with pytest.raises(UsageError, match="URL within a URL"):
        find_photos(["zip://a.png::memory://bucket/x.zip"])
    with pytest.raises(UsageError, match=r"there is no memory://bucket/gone\.png"):
        photos_to_inspect([f"{bucket}/gone.png"])
    with pytest.raises(UsageError, match="no photos in memory://bucket/line/run"):
        photos_to_inspect([f"{bucket}/line/run/*.json"])
    with pytest.raises(UsageError, match=r"--out s3://b/run: a run is written to a local disk"):
        inspect_photos(FakeSegmenter(), [bucket], "s3://b/run")
    assert not (Path.cwd() / "s3:").exists()


def test_a_file_system_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", missing)
    with pytest.raises(UsageError, match="pip install s3fs"):
        find_photos(["s3://bucket/photos"])


# ---- reading


def test_reading(bucket: str, tmp_path: Path) -> None:
    url, near = f"{bucket}/line/a/1.png", tmp_path / "1.png"
    near.write_bytes(FILES["line/a/1.png"])
    photo = read_photo(url)
    np.testing.assert_array_equal(photo.pixels, read_photo(near).pixels)
    assert photo.sha256 == file_sha256(url) == file_sha256(near)
    assert str(photo.path) == url
    assert photo_size(url) == (60, 40)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("line/gone.png", "missing"), ("line/b/empty.png", "empty"), ("line/b/broken.png", "truncated"),
     ("line/notes.txt", "not-an-image")],
)  # fmt: skip
def test_bad_photos(bucket: str, name: str, kind: str) -> None:
    with pytest.raises(PhotoError, match=f"{bucket}/{name}: ") as caught:
        read_photo(f"{bucket}/{name}")
    assert caught.value.kind == kind


# ---- inspecting


def untimed(run: Path, root: str) -> list[dict]:
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    text = json.dumps([{k: v for k, v in r.items() if k not in ("seconds", "stages", "time")} for r in rows])
    return json.loads(text.replace(root, "ROOT"))


def test_a_run_is_that_of_the_same_photos_on_disk(bucket: str, tmp_path: Path) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    for name, data in FILES.items():
        (near / name).parent.mkdir(parents=True, exist_ok=True)
        (near / name).write_bytes(data)
    inspect_photos(FakeSegmenter(), [near / "line"], tmp_path / "run-near")
    summary = inspect_photos(FakeSegmenter(), [f"{bucket}/line"], far)
    assert untimed(far, bucket) == untimed(tmp_path / "run-near", str(near))
    assert len(summary.rows) == 5
    assert len(summary.errors) == 2
    for file in ("maps/a/1.png", "masks/a/1.png", "overlays/a/1.jpg"):
        assert (far / file).read_bytes() == (tmp_path / "run-near" / file).read_bytes()

    again = FakeSegmenter()
    fsspec.filesystem("memory").pipe_file("/bucket/line/a/0.png", plate(9))
    assert inspect_photos(again, [f"{bucket}/line"], far).resumed == 3  # the empty one is looked at again
    assert again.seen == ["0.png"]
    with pytest.raises(RunError, match="photos below memory://bucket/line"):
        inspect_photos(FakeSegmenter(), [near], far)

    # What comes after reads the same photos.
    assert [photo.name for photo in InspectedRun(far)] == ["a/0.png", "a/1.png", "b/0.png"]
    page = write_report(far, tmp_path / "report.html")
    assert '"a/1.png"' in Path(page or tmp_path / "report.html").read_text()


def test_over_http_each_photo_is_fetched_once(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def counted(path: RemotePath) -> BytesIO:
        fetched.append(path.name)
        return read_remote(path)

    monkeypatch.setattr("clipsam.images.read_remote", counted)
    summary = inspect_photos(FakeSegmenter(), [f"{server}/line/a/"], tmp_path / "run")
    assert sorted(fetched) == ["0.png", "1.png"]
    assert [row["path"] for row in summary.rows] == [f"{server}/line/a/0.png", f"{server}/line/a/1.png"]
    assert summary.errors == []


def test_workers_fetch_photos_themselves(bucket: str) -> None:
    asks = [Ask(place, as_path(f"{bucket}/line/{name}"), name) for place, name in enumerate(FOUND)]
    answers = list(
        Worker(FakeSegmenter, Attempts(), PictureOptions()).answers(pickle.loads(pickle.dumps(asks)))
    )
    kinds = [
        answer.row["error"]["kind"] if "error" in answer.row else None for answer in answers if answer.row
    ]
    assert kinds == [None, None, None, "truncated", "empty"]
