"""inspect on a real Ray cluster of this machine: the results of the local engine, whoever is killed."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_segmenter import FakeSegmenter
from PIL import Image
from ray_segmenters import Marked

from clipsam.errors import RunError
from clipsam.runs.inspection import inspect_photos
from clipsam.runs.manifest import read_manifest
from clipsam.runs.ray_engine import RayEngine
from clipsam.runs.sitting import Step
from clipsam.runs.store import Row

pytest.importorskip("ray", reason="pip install 'clipsam[ray]'")
pytestmark = pytest.mark.slow  # every run starts processes that import all libraries

PHOTOS = 24


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """One cluster for all tests: it takes seconds to start. Its workers must find the fakes."""
    patch = pytest.MonkeyPatch()
    patch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    )
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_agent_register_timeout_ms", "120000")
    import ray

    room = 200 * 2**20
    try:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=room)
    except Exception:  # on a machine that is busy it takes longer than Ray waits for itself
        ray.shutdown()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=room)
    yield
    ray.shutdown()
    patch.undo()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 photos, every third with a spot, one damaged."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(PHOTOS):
        pixels = np.random.default_rng(number).integers(220, 250, (40, 60, 3), dtype=np.uint8)
        if number % 3 == 0:
            pixels[10:20, 30:45] = 30
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "05.png").write_bytes((folder / "04.png").read_bytes()[:300])
    return folder


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def rows_of(run: Path) -> list[Row]:
    """All that stands in results.jsonl, but the times."""
    rows = [json.loads(line) for line in (run / "results.jsonl").read_bytes().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "stages", "time")} for row in rows]


def pictures_of(run: Path) -> dict[str, bytes]:
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for folder in ("maps", "masks", "overlays")
        for path in (run / folder).rglob("*")
        if path.is_file()
    }


def test_the_same_run_as_with_the_local_engine(photos: Path, marks: Path, tmp_path: Path) -> None:
    local, far = tmp_path / "local", tmp_path / "far"
    expected = inspect_photos(FakeSegmenter(), [photos], local)
    steps: list[Step] = []
    summary = inspect_photos(Marked(marks), [photos], far, engine=RayEngine(2), on_step=steps.append)
    assert rows_of(far) == rows_of(local)
    assert pictures_of(far) == pictures_of(local)
    assert len(pictures_of(far)) == 3 * (PHOTOS - 1)
    assert [row["path"] for row in summary.rows] == [row["path"] for row in expected.rows]
    untimed = {"run", "seconds", "photos_per_second"}
    assert {k: v for k, v in summary.as_dict().items() if k not in untimed} == {
        k: v for k, v in expected.as_dict().items() if k not in untimed
    }
    assert [step.number for step in steps] == list(range(1, PHOTOS + 1))
    begun = [mark.name.split("-") for mark in marks.iterdir()]
    assert len({process for _, process, _ in begun}) == 2  # both worked
    assert set(Counter(name for name, _, _ in begun).values()) == {1}
    before, after = read_manifest(local), read_manifest(far)
    assert before["engine"] == {"name": "local", "streams": 1}
    assert after["engine"]["name"] == "ray"
    assert after["engine"]["workers"] == 2
    assert after["counts"] == before["counts"]

    # The local engine goes on with such a run.
    again = inspect_photos(FakeSegmenter(), [photos], far)
    assert again.resumed == PHOTOS
    assert rows_of(far) == rows_of(local)


def test_killed_workers(photos: Path, marks: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: once over 07.png, and over 13.png always."""
    local, far = tmp_path / "local", tmp_path / "far"
    inspect_photos(FakeSegmenter(), [photos], local)
    segmenter = Marked(marks, {"07.png": 1, "13.png": 99})
    summary = inspect_photos(segmenter, [photos], far, engine=RayEngine(2))
    kinds = {Path(row["path"]).name: row["error"]["kind"] for row in summary.errors}
    assert kinds == {"05.png": "truncated", "13.png": "failed"}
    assert len(rows_of(far)) == PHOTOS  # nothing lost, nothing twice
    expected = [row for row in rows_of(local) if not row["path"].endswith("13.png")]
    assert [row for row in rows_of(far) if not row["path"].endswith("13.png")] == expected
    processes = {mark.name.split("-")[1] for mark in marks.iterdir()}
    assert len(processes) >= 2 + 4  # one replaced for 07.png, three for 13.png

    # The photo is tried again, and now kills nobody.
    summary = inspect_photos(FakeSegmenter(), [photos], far)
    assert summary.resumed == PHOTOS - 1
    assert rows_of(far) == rows_of(local)
    assert pictures_of(far) == pictures_of(local)


def test_an_interrupted_run_goes_on(photos: Path, marks: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"

    def stop(step: Step) -> None:
        if step.number == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect_photos(Marked(marks), [photos], run, engine=RayEngine(2), on_step=stop)
    assert read_manifest(run)["state"] == "interrupted"
    assert len(rows_of(run)) == 7
    summary = inspect_photos(FakeSegmenter(), [photos], run, engine=RayEngine(1))
    assert summary.resumed == 7
    assert len(rows_of(run)) == len({row["path"] for row in rows_of(run)}) == PHOTOS


def test_what_cannot_travel_is_told(photos: Path, tmp_path: Path) -> None:
    segmenter = FakeSegmenter()
    segmenter.lock = threading.Lock()  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="the segmenter cannot travel to the workers"):
        inspect_photos(segmenter, [photos], tmp_path / "run", engine=RayEngine(1))
