"""`clipsam.cli.main`: whatever goes wrong is one line on stderr and the right exit code."""

from __future__ import annotations

import pytest

from clipsam import cli
from clipsam.errors import UsageError


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (UsageError("expected a photo"), 1, "clipsam: expected a photo\n"),
        (OSError(28, "No space left on device", "/full/x"), 1, "No space left on device: '/full/x'\n"),
        (KeyboardInterrupt(), 130, "clipsam: interrupted\n"),
    ],
)
def test_errors(
    error: BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == code
    said = capsys.readouterr().err
    assert said.endswith(told)
    assert said.count("\n") == 1
