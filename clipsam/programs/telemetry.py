"""OpenVINO and NNCF report each use to a service of their maker, unless the user has objected; here never.

`silence` is called before either is imported. Nothing is sent and nothing is tried: plants are offline, and
what they run is nobody else's affair.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

_PACKAGE = "openvino_telemetry"


def silence() -> None:
    """Let both libraries find no telemetry package; where it was imported before, let it take every user for
    one who has objected, and send nothing.
    """
    package = sys.modules.get(_PACKAGE)
    if package is None:
        sys.modules[_PACKAGE] = None  # type: ignore[assignment]  # importing it raises ImportError, which they expect
        return
    _mute(package)


def _mute(package: ModuleType) -> None:
    sender = import_module(f"{package.__name__}.utils.sender").TelemetrySender
    sender.send = lambda *_args, **_options: None
    consent = import_module(f"{package.__name__}.utils.opt_in_checker")
    consent.OptInChecker.check = lambda *_args, **_options: consent.ConsentCheckResult.DECLINED
