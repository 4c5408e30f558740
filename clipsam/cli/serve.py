"""`clipsam serve`: the HTTP service with its review page, until it is stopped.

Wiring and words only: the work is done in `clipsam/serve`.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipsam.cli import _options as options
from clipsam.errors import MissingExtra

if TYPE_CHECKING:
    from clipsam.runs.daily import DailyRuns
    from clipsam.segmenter import AnomalySegmenter
    from clipsam.store import Station


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("serve")(serve_command)


def serve_command(
    product: options.Product = "object",
    prompts: options.Prompts = None,
    defect: options.Defects = None,
    preset: options.PresetName = None,
    references: options.References = None,
    sam: options.Sam = True,
    adapter: options.AdapterFile = None,
    threshold: options.Threshold = None,
    calibration: options.CalibrationFile = None,
    roi: options.RoiFile = None,
    models_dir: options.ModelsDir = None,
    exported: options.Exported = None,
    compiled: options.Compiled = False,
    device: options.Device = None,
    host: Annotated[
        str, typer.Option(help="The address to serve on; any but this machine's needs a token.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file with the token that requests must bear (else $CLIPSAM_TOKEN)."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Photos and one run folder per day are kept in it, for the review."),
    ] = Path("clipsam-serve"),
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Keep photos, results and the review, or answer only.")
    ] = True,
    upload_mb: Annotated[float, typer.Option(help="The largest upload, in MB.")] = 64.0,
    megapixels: Annotated[float, typer.Option(help="The largest photo, in million pixels.")] = 60.0,
    queue: Annotated[int, typer.Option(help="So many photos may wait; more get 503.")] = 16,
    seconds: Annotated[
        float, typer.Option(help="Seconds within which a photo is answered, else 504.")
    ] = 30.0,
    store: options.Store = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as one JSON object.")] = False,
) -> int:
    """Inspect photos over HTTP: POST /inspect; a page to review them at /. Ctrl-C or SIGTERM ends it.

    Exit codes: 0 ended, 1 refused.
    """
    try:
        from clipsam.serve.app import create_app
        from clipsam.serve.server import make_server, token_for
    except ImportError as error:
        raise MissingExtra("the service", "serve") from error
    from clipsam.cli._store import open_station
    from clipsam.serve.limits import Limits
    from clipsam.serve.worker import Worker

    limits = Limits(upload_mb=upload_mb, megapixels=megapixels, queue=queue, seconds=seconds)
    token = token_for(host, token_file)
    socket = bound(host, port)
    station = open_station(store) if keep else None
    segmenter = options.load_segmenter(
        preset,
        product=product,
        prompts=prompts,
        defects=defect or (),
        references=references,
        sam=sam,
        adapter=adapter,
        threshold=threshold,
        calibration=calibration,
        roi=roi,
        models_dir=models_dir,
        exported=exported,
        compiled=compiled,
        device=device,
    )
    if segmenter.calibration is not None:
        segmenter.calibration.check_reading(None)  # uploads are read at their full scale
    runs = _runs(out, segmenter, station) if keep else None
    worker = Worker(
        segmenter,
        queue_size=limits.queue,
        max_pixels=limits.max_pixels,
        runs=runs,
        photos=out.absolute() / "photos",
    )
    app, guarded = create_app(worker, limits, token=token)
    if station is not None:
        from clipsam.serve.review import add_review

        place = roi or out / "roi.json"
        add_review(app, station, segmenter, roi_file=place, token=token, limits=limits)
    server = make_server(guarded, host, port, limits)
    address = f"http://{host if ':' not in host else f'[{host}]'}:{socket.getsockname()[1]}/"
    typer.echo(
        json.dumps({"address": address, "token": token is not None}) if as_json else f"clipsam: {address}"
    )
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the one that ended it again
        signal.signal(number, lambda *_: None)
    try:
        server.run(sockets=[socket])
    finally:
        worker.close()
        if station is not None:
            station.close()
    return 0


def _runs(out: Path, segmenter: AnomalySegmenter, station: Station | None) -> DailyRuns:
    from clipsam.cli._store import warn
    from clipsam.runs.daily import DailyRuns

    return DailyRuns(
        out,
        segmenter.manifest(),
        root=out.absolute() / "photos",
        inputs=["uploads"],
        kind="serve",
        station=station,
        calibration=segmenter.calibration,
        warn=warn,
    )


def bound(host: str, port: int) -> Any:
    """A listening socket: an address that is taken is told before the models are loaded."""
    import socket

    from clipsam.errors import UsageError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host.strip("[]"), port))
        found.listen()  # before that a second service could bind the same port; who comes early waits
    except OSError as error:
        found.close()
        raise UsageError(
            f"{host}:{port} cannot be served on: {error.strerror}; choose another --port"
        ) from error
    return found
