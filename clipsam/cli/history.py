"""`clipsam history`: what the station's store says of a shift. Wiring and words: see `clipsam/store`."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipsam.errors import UsageError

if TYPE_CHECKING:
    from clipsam.store.history import Counts, History

HOURS = 48  # of the table; --json has all
TYPES = 10
SINCE = "24h"


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("history")(history)


def history(
    since: str = typer.Option(
        SINCE, metavar="TIME", help="From when on: 06:00, 8h, 7d, 2026-11-21, 2026-11-21T06:00, or all."
    ),
    until: str | None = typer.Option(None, metavar="TIME", help="Up to when, exclusive; now by default."),
    product: str | None = typer.Option(None, help="Only this product."),
    station: str | None = typer.Option(None, help="Only this station, where several share a database."),
    store: str | None = typer.Option(
        None, metavar="FILE|URL", help="The store; $CLIPSAM_STORE or the file in your data folder by default."
    ),
    csv: Path | None = typer.Option(None, metavar="FILE", help="Write the parts as a CSV table too."),
    parquet: Path | None = typer.Option(None, metavar="FILE", help="Write the parts as Parquet too."),
    verdicts: Path | None = typer.Option(
        None,
        metavar="FILE.csv",
        help="Write the parts that have a verdict as a data set for clipsam eval --dataset csv.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print it as one JSON object."),
) -> None:
    """Say how a shift went: yield per product and hour, top types of defects, false alarms by verdict.

    A photo that was inspected more than once counts once, by its newest inspection.
    """
    from clipsam.cli._store import station_to_read
    from clipsam.store.part_table import write_csv, write_parquet
    from clipsam.store.verdict_list import write_verdict_list

    start, end = moment(since), None if until is None else moment(until)
    filters: dict[str, Any] = {"product": product, "station": station, "since": start, "until": end}
    written: dict[str, Any] = {}
    with station_to_read(store) as opened:
        found = opened.history(**filters)
        if csv is not None:
            written["csv"] = {"path": str(csv), "parts": write_csv(opened, csv, filters)}
        if parquet is not None:
            written["parquet"] = {"path": str(parquet), "parts": write_parquet(opened, parquet, filters)}
        if verdicts is not None:
            written["verdicts"] = write_verdict_list(opened, verdicts, filters).as_dict()
    if as_json:
        span = {
            key: value and value.isoformat() for key, value in filters.items() if key in ("since", "until")
        }
        typer.echo(json.dumps({"store": opened.name, **span, **found.as_dict(), **written}))
        return
    typer.echo(in_words(found, start, opened.name))
    for line in _written_in_words(written):
        typer.echo(line)


def moment(text: str, now: datetime | None = None) -> datetime | None:
    """A time as people write it, in this machine's zone: 06:00 is the last six o'clock, 8h eight hours ago.

    "all" is None. Raises `UsageError`.
    """
    now = now or datetime.now().astimezone()
    text = text.strip()
    if text == "all":
        return None
    try:
        if ago := re.fullmatch(r"(\d{1,6})([mhdw])", text):
            unit = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[ago[2]]
            return now - timedelta(**{unit: int(ago[1])})
        if clock := re.fullmatch(r"(\d{1,2}):(\d{2})", text):
            found = now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
            return found if found <= now else found - timedelta(days=1)
        given = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"the time is {text!r}; expected such as 06:00, 8h, 7d, 2026-11-21, 2026-11-21T06:00, or all"
        ) from error
    return given if given.tzinfo else given.astimezone()


def in_words(found: History, since: datetime | None, store: str) -> str:
    """The history for a person: products, hours, types of defects, reviewers."""
    start = "" if since is None else f" since {since:%Y-%m-%d %H:%M}"
    if not found.products:
        return f"no parts in {store}{start}; --since reaches further back, such as --since 7d or --since all"
    blocks = [f"{sum(counts.parts for counts in found.products)} parts{start}, {store}"]
    blocks.append(_table(_COUNTED, [_cells(counts) for counts in found.products]))
    hours = found.hours[-HOURS:]
    blocks.append(_table(("hour", *_COUNTED), [(f"{c.hour:%m-%d %H:00}", *_cells(c)) for c in hours]))
    if len(found.hours) > HOURS:
        blocks.append(f"and {len(found.hours) - HOURS} hours before (see --json)")
    if found.defects:
        rows = [(d.product, d.defect, d.parts, d.regions, d.rejected) for d in found.defects[:TYPES]]
        blocks.append(_table(("product", "defect", "parts", "regions", "rejected"), rows))
    if found.reviewers:
        names = ("reviewer", "product", "reviewed", "confirmed", "false alarms", "misses")
        said = [
            (r.reviewer, r.product, r.reviewed, r.confirmed, r.false_alarms, r.misses)
            for r in found.reviewers
        ]
        blocks.append(_table(names, said))
    return "\n\n".join(blocks)


_COUNTED = ("product", "parts", "OK", "NG", "yield", "not calibrated", "suspicious", "errors", "false alarms")


def _cells(counts: Counts) -> tuple[Any, ...]:
    share = "-" if counts.yield_ is None else f"{100 * counts.yield_:.1f} %"
    known = f"{counts.false_alarms} of {counts.reviewed}" if counts.reviewed else "-"
    rest = (counts.uncalibrated, counts.suspicious, counts.errors, known)
    return (counts.product, counts.parts, counts.ok, counts.ng, share, *rest)


def _table(names: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Columns as wide as they need; numbers to the right."""
    cells = [names, *(tuple(map(str, row)) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
    left = [isinstance(value, str) and index < 2 for index, value in enumerate(rows[0])]

    def line(row: tuple[str, ...]) -> str:
        together = zip(row, widths, left, strict=True)
        return "  ".join(text.ljust(n) if first else text.rjust(n) for text, n, first in together).rstrip()

    return "\n".join(map(line, cells))


def _written_in_words(written: dict[str, Any]) -> list[str]:
    lines = [
        f"{written[kind]['parts']} parts written to {written[kind]['path']}"
        for kind in ("csv", "parquet")
        if kind in written
    ]
    if (said := written.get("verdicts")) is not None:
        lines.append(f"{said['good']} good and {said['defective']} defective parts listed in {said['path']}")
        if said["gone"]:
            lines.append(f"  left out: {said['gone']} whose photo is gone")
        if said["without_mask"]:
            lines.append(
                f"  {said['without_mask']} defective ones have no mask: only image figures count them"
            )
    return ["", *lines] if lines else []
