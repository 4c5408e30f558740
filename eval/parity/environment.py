"""Environments for peers: a virtual environment per peer, made by pip from the versions named here.

None of them is a dependency of clipsam. Input: a peer's name and a folder. Output: its interpreter. What the
peer does not bring itself, torch above all, comes from the environment that calls: both sides compute alike.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

PEERS = {
    "anomalib": ("anomalib==2.7.0", "open-clip-torch>=2.23.0,<2.26.1"),
}


def python_of(peer: str, folder: Path) -> Path:
    """The interpreter of the peer's environment below `folder`; made now if it is not there yet."""
    place = folder / f"{peer}-env"
    python = place / "bin" / "python"
    if not (place / "complete").is_file():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        own = next((place / "lib").glob("python*")) / "site-packages"
        (own / "caller.pth").write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS[peer]], check=True)
        (place / "complete").touch()
    return python


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Installed versions in that environment."""
    code = "import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]))"
    said = subprocess.run(
        [str(python), "-c", code, *packages], check=True, capture_output=True, text=True
    ).stdout
    return dict(zip(packages, said.split(), strict=True))
