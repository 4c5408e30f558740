"""The notebooks: executed, without errors or paths of a machine; and their code still runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_was_executed_in_order(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell["outputs"] if out["output_type"] == "error"]
    outputs = [out for cell in cells for out in cell["outputs"]]
    assert not [out for out in outputs if out.get("name") == "stderr"]  # warnings, with paths of a machine
    text = path.read_text("utf-8")
    assert len(text) < 400_000
    assert "/home/" not in text
    assert str(Path(__file__).parents[1]) not in text


def test_an_own_method_takes_ten_lines() -> None:
    cell = next(
        c for c in code_cells(NOTEBOOKS[0].with_name("researcher.ipynb")) if "def " in "".join(c["source"])
    )
    lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
    assert "evaluate(" in lines[-1]
    assert len(lines) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_runs(path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in code_cells(path):
        source = "".join(line for line in cell["source"] if not line.startswith("%"))
        exec(compile(source, str(path), "exec"), names)
