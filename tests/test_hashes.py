"""Hashes of files: equal to hashlib's, remembered on disk when large, read again when changed."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from clipsam import hashes
from clipsam.hashes import file_sha256, files_sha256


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "_memory", {})
    monkeypatch.setattr(hashes, "REMEMBERED_FROM", 4)
    return tmp_path / "cache" / "hashes.json"


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def test_is_sha256(tmp_path):
    path = write(tmp_path / "a", b"some bytes")
    assert file_sha256(path) == hashlib.sha256(b"some bytes").hexdigest()
    assert files_sha256([path]) == file_sha256(path)


def test_several_files_do_not_depend_on_order_but_on_names(tmp_path):
    a, b = write(tmp_path / "a", b"first"), write(tmp_path / "b", b"second")
    together = files_sha256([a, b])
    assert together == files_sha256([b, a])
    b.rename(tmp_path / "c")
    assert files_sha256([a, tmp_path / "c"]) != together


def test_a_large_file_is_read_once(tmp_path, memory, monkeypatch):
    path = write(tmp_path / "a", b"large enough")
    digest = file_sha256(path)
    assert list(json.loads(memory.read_text()).values()) == [digest]
    monkeypatch.setattr(hashes, "_memory", {})  # a new process
    monkeypatch.setattr(hashlib, "file_digest", None)  # reading would fail
    assert file_sha256(path) == digest


def test_a_changed_file_is_read_again(tmp_path):
    path = write(tmp_path / "a", b"large enough")
    first, times = file_sha256(path), path.stat()
    write(path, b"LARGE enough")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert file_sha256(path) == hashlib.sha256(b"LARGE enough").hexdigest() != first
    write(path, b"large ENOUGH")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_sha256(path) == first
    assert file_sha256(path, fresh=True) == hashlib.sha256(b"large ENOUGH").hexdigest()


@pytest.mark.parametrize("broken", ["{", "[]"])
def test_a_broken_memory_only_costs_time(tmp_path, memory, broken):
    memory.parent.mkdir()
    memory.write_text(broken)
    path = write(tmp_path / "a", b"large enough")
    assert file_sha256(path) == hashlib.sha256(b"large enough").hexdigest()


def test_an_unwritable_cache_only_costs_time(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSAM_CACHE", str(write(tmp_path / "file", b"") / "below"))
    path = write(tmp_path / "a", b"large enough")
    assert file_sha256(path) == hashlib.sha256(b"large enough").hexdigest()
