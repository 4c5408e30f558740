"""A photo of 100 megapixels through the whole of `clipsam inspect`, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipsam.images import read_photo
from clipsam.nano.corpus.compose import render
from clipsam.runs.pictures import read_map

SIDE = 10_000
_MEASURED = """
import sys
from clipsam.cli import main
try:
    main()
finally:
    status = open("/proc/self/status").read()
    print("PEAK", next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from /proc")
@pytest.mark.parametrize(("suffix", "sam"), [("jpg", "--sam"), ("png", "--no-sam")])
def test_a_huge_photo_takes_less_than_3_gb(
    suffix: str, sam: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Image.fromarray(render(3, 1000, 1000, p_normal=0.0).image)
    path = tmp_path / f"huge.{suffix}"
    part.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, compress_level=1)
    del part
    command = [sys.executable, "-c", _MEASURED, "inspect", str(path), "--product", "part", sam]
    command += ["--preset", "nano", "--out", str(tmp_path / "run")]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak = int(said.rsplit("PEAK", 1)[1])
    assert peak * 1024 < 2.8e9
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    row = json.loads((tmp_path / "run" / "results.jsonl").read_text())
    assert row["regions"]
    found = read_map(tmp_path / "run" / row["files"]["map"])
    assert found.shape == (SIDE, SIDE)
    assert 0.5 < found.max() <= 1
    assert Image.open(tmp_path / "run" / row["files"]["overlay"]).size == (SIDE, SIDE)
    marked = np.asarray(Image.open(tmp_path / "run" / row["files"]["mask"]))
    x0, y0, x1, y1 = row["regions"][0]["box_xyxy"]
    assert marked[y0:y1, x0:x1].any()
    assert read_photo(path).pixels.shape == (SIDE, SIDE, 3)
