"""Stored parts as a flat table, one row per part: CSV and Parquet.

Input: an open station, filters, a file name. Output: the file, written as the parts are read, so that months
of them fit. Knows nothing of how parts are counted.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from clipsam.errors import MissingExtra, StoreError
from clipsam.store.records import Part
from clipsam.store.station import Station

AT_ONCE = 10_000  # parts in a row group

Line = dict[str, Any]

# Columns and their types, by the names that Arrow knows.
COLUMNS = {
    "id": "int64",
    "time": "timestamp",
    "product": "string",
    "station": "string",
    "path": "string",
    "sha256": "string",
    "decision": "string",
    "score": "double",
    "threshold": "double",
    "flagged": "bool",
    "regions": "int64",
    "top_defect": "string",
    "defects": "string",
    "area_px": "int64",
    "truth_defective": "bool",
    "reviewer": "string",
    "comment": "string",
    "seconds": "double",
    "degraded": "bool",
    "error": "string",
    "run": "int64",
}


def write_csv(station: Station, path: Path, filters: Mapping[str, Any]) -> int:
    """Write the parts that `filters` keep, the newest first; gives their number. Times are ISO 8601, UTC."""
    written = 0
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for line in map(line_of, station.each(**filters)):
                writer.writerow(line | {"time": line["time"].isoformat()})
                written += 1
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from error
    return written


def write_parquet(station: Station, path: Path, filters: Mapping[str, Any]) -> int:
    """The same as Parquet; `MissingExtra` where pyarrow is not installed."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("writing Parquet", "store") from error
    kinds = {
        "int64": arrow.int64(),
        "double": arrow.float64(),
        "bool": arrow.bool_(),
        "string": arrow.string(),
        "timestamp": arrow.timestamp("us", tz="UTC"),
    }
    schema = arrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    written = 0
    try:
        with parquet.ParquetWriter(path, schema) as writer:
            lines_of_all = map(line_of, station.each(**filters))
            while lines := list(islice(lines_of_all, AT_ONCE)):
                writer.write_table(arrow.Table.from_pylist(lines, schema=schema))
                written += len(lines)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error}") from error
    return written


def line_of(part: Part) -> Line:
    """One part as a row of the table."""
    said = [verdict for verdict in part.verdicts if verdict.region is None]
    types = dict.fromkeys(region.defect for region in part.regions)
    return {
        "id": part.id,
        "time": part.time,
        "product": part.product,
        "station": part.station,
        "path": part.path,
        "sha256": part.sha256,
        "decision": part.decision,
        "score": part.score,
        "threshold": part.threshold,
        "flagged": part.flagged,
        "regions": len(part.regions),
        "top_defect": next(iter(types), None),
        "defects": ", ".join(types),
        "area_px": sum(region.area_px for region in part.regions),
        "truth_defective": part.truth,
        "reviewer": said[-1].reviewer if said else None,
        "comment": said[-1].comment if said else None,
        "seconds": part.seconds,
        "degraded": part.degraded,
        "error": part.error["kind"] if part.error else None,
        "run": part.run,
    }
