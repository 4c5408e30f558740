"""What the package offers by name, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import clipsam

HEAVY = ("torch", "open_clip", "timm", "transformers", "matplotlib", "sklearn", "huggingface_hub")
CHEAP = (  # these are used where no model is: on the command line, in evaluations, in tests
    "clipsam.cli",
    "clipsam.errors",
    "clipsam.fusion",
    "clipsam.images",
    "clipsam.metrics",
    "clipsam.presets",
    "clipsam.prompts",
    "clipsam.regions",
    "clipsam.result",
    "clipsam.settings",
)
IMPORT_SECONDS = 0.3

_PACKAGE = Path(clipsam.__file__).parent
LISTING = sorted(
    ".".join(("clipsam", *path.relative_to(_PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in _PACKAGE.rglob("*.py")
    if "\n__all__ = " in path.read_text(encoding="utf-8")
)


def in_fresh_python(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", LISTING)
def test_all_is_sorted_and_importable(name):
    module = import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    constants_classes_functions = sorted(
        module.__all__, key=lambda member: (not member.isupper(), not member[0].isupper(), member)
    )
    assert module.__all__ == constants_classes_functions
    assert all(getattr(module, member) is not None for member in module.__all__)


def test_the_package_offers_what_is_documented():
    assert {"AnomalySegmenter", "PixelMetrics", "Segmentation", "Region", "PromptEnsemble"} <= set(
        clipsam.__all__
    )
    assert dir(clipsam) == sorted([*clipsam.__all__, "__version__"])
    for name in clipsam.__all__:
        assert getattr(clipsam, name).__name__ == name


def test_every_error_is_exported():
    errors = import_module("clipsam.errors")
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    assert kinds <= set(clipsam.__all__)


def test_an_unknown_name_is_told():
    with pytest.raises(AttributeError, match="'clipsam' has no attribute 'Segmenter'"):
        clipsam.Segmenter  # noqa: B018


@pytest.mark.parametrize("name", ["clipsam", *CHEAP])
def test_importing_brings_no_models(name):
    code = f"import sys, {name}; print([m for m in {HEAVY} if m in sys.modules])"
    assert in_fresh_python(code) == "[]"


def test_importing_is_quick():
    code = "import time; start = time.perf_counter(); import clipsam; print(time.perf_counter() - start)"
    assert min(float(in_fresh_python(code)) for _ in range(3)) < IMPORT_SECONDS
