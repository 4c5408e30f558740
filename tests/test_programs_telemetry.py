"""Making and running programs reports to nobody: no connection is tried, no file of an identity is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino_telemetry", reason="nothing here that could report")
pytest.importorskip("nncf")

# In a process of its own: NNCF reports nothing while it finds pytest.
SCRIPT = """
import os, socket, sys, threading

tried = []

def watch(name):
    def refuse(*args, **options):
        tried.append((name, args[:2]))
        raise OSError("offline")
    return refuse

socket.getaddrinfo, socket.socket.connect = watch("getaddrinfo"), watch("connect")
if "before" in sys.argv:
    import openvino_telemetry, openvino, nncf
if "loud" in sys.argv:
    import clipsam.programs.telemetry as telemetry
    telemetry.silence = lambda: None

import numpy as np, torch
from pathlib import Path
from clipsam.programs.tracing import trace
from clipsam.programs.runtime import find_runtime

runtime = find_runtime("openvino", "int8")
pictures = [np.random.rand(1, 3, 16, 16).astype(np.float32) for _ in range(2)]
module = torch.nn.Conv2d(3, 8, 3)
path = Path(sys.argv[1])
runtime.write(trace(module, (16, 16), None), path, mark="x", size=(16, 16), pictures=pictures)
runtime.load(path, (16, 16), "int8")(pictures[0])
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(5)
print(tried)
"""


def run(tmp_path: Path, *how: str) -> tuple[str, list[str]]:
    """What was tried, and what lies in the home folder."""
    home = tmp_path / "home"
    home.mkdir()
    loud = {"CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL", "TRAVIS", "NNCF_CI", "NNCF_DEV"}
    surroundings = {name: value for name, value in os.environ.items() if name not in loud}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "m.xml", *how],
        env=surroundings | {"HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1], [path.name for path in home.iterdir() if path.name == "intel"]


@pytest.mark.parametrize("how", [(), ("before",)])
def test_nothing_is_sent_or_tried(tmp_path, how):
    tried, left = run(tmp_path, *how)
    assert tried == "[]"
    assert not left or how  # NNCF leaves its file when it is imported, and that was before


@pytest.mark.slow
def test_without_silence_it_would_be(tmp_path):
    assert run(tmp_path, "loud") != ("[]", [])
