"""The command line: one file per verb, wiring only.

Each verb's module holds `register(app)`, which adds its commands to the typer app; what takes time to import
is imported inside the command. A `ClipsamError` becomes one line on stderr and exit code 1.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import typer

from clipsam import __version__
from clipsam.errors import ClipsamError

# typer brings a copy of click of its own or uses the installed one, depending on its version.
_BadUsage: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

VERBS = (
    "demo",
    "calibrate",
    "inspect",
    "watch",
    "serve",
    "history",
    "report",
    "annotations",
    "prompts",
    "models",
    "train",
    "export",
    "eval",
    "bench",
)

app = typer.Typer(
    name="clipsam",
    help="Find and outline defects in photos of products, without a single training image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit.", is_eager=True),
) -> None:
    if version:
        typer.echo(f"clipsam {__version__}")
        raise typer.Exit()


for _verb in VERBS:
    import_module(f"clipsam.cli.{_verb}").register(app)


def main() -> None:
    """Run the command line; the entry point of the `clipsam` script. Bad usage exits with 1 (2 means bad
    photos).
    """
    try:
        status = app(standalone_mode=False)
    except _BadUsage as error:
        error.show()
        sys.exit(1)
    except ClipsamError as error:
        typer.echo(f"clipsam: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a folder without permission: the message names the file
        typer.echo(f"clipsam: the system refused: {error}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("clipsam: interrupted", err=True)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
