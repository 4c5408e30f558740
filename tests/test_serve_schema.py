"""Schemathesis against the service's own OpenAPI: made-up requests, each answered as the schema says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from service import TOKEN, Service, running
from test_review import fill

pytest.importorskip("schemathesis")

# Bytes that fit the schema of a photo (any bytes do) are hardly ever a photo, and polygons that fit theirs
# may lie beside the photo: refusing them is right.
CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = [200, 201, 400, 404, 413, 415, 422]
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path, token=TOKEN) as found:
        fill(found, token=TOKEN)
        yield found


def schemathesis(service: Service, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    config = folder / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
        f"{service.url}/openapi.json", "-H", f"Authorization: Bearer {TOKEN}", "--seed", "1", "--no-color",
        *options,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_schemathesis_finds_nothing(service: Service, tmp_path: Path) -> None:
    done = schemathesis(service, tmp_path, "--max-examples", "5", "--phases", "coverage,fuzzing")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "/inspect" in service_routes(service)
    assert service.worker.trouble is None


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_many_requests(service: Service, tmp_path: Path) -> None:
    done = schemathesis(service, tmp_path, "--max-examples", "150")
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def service_routes(service: Service) -> str:
    """What /metrics says was asked."""
    import httpx

    return httpx.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
