"""What is written of a part: the values of its row, of its regions, and what that changes for older rows.

Input: rows of `results.jsonl`, a connection. Output: values by column; updates. Knows nothing of
transactions.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, and_, not_, or_, select, update

from clipsam.errors import UsageError
from clipsam.runs.store import is_suspicious
from clipsam.store.records import ERROR, NG, OK, Run
from clipsam.store.tables import FAILED, parts, regions

Row = Mapping[str, Any]


def decision_of(row: Row) -> str | None:
    """OK, NG or error; None while nothing is calibrated."""
    if "error" in row:
        return ERROR
    return None if row["is_defective"] is None else NG if row["is_defective"] else OK


def part_values(
    run: Run,
    row: Row,
    path: str | Path | None = None,
    time: datetime | None = None,
    threshold: float | None = None,
) -> dict[str, Any]:
    name = row.get("path") if path is None else path
    if name is None and not row.get("sha256"):
        raise UsageError("a part has neither a path nor a SHA-256; give it a path, such as frame-000017")
    if time is None:
        time = datetime.fromisoformat(row["time"]) if row.get("time") else datetime.now(UTC)
    own = row.get("threshold", run.threshold) if threshold is None else threshold
    failed = "error" in row
    return {
        "run_id": run.id,
        "path": as_text(str(name or "")),
        "sha256": row.get("sha256") or "",
        "product": run.product,
        "station": run.station,
        "time": time,
        "score": None if failed else float(row["score"]),
        "threshold": None if failed else own,
        "decision": decision_of(row),
        "flagged": is_suspicious(dict(row)),
        "seconds": row.get("seconds"),
        "error": _error(row["error"]) if failed else None,
        "files": dict(row.get("files", {})),
        "superseded": False,
        "degraded": bool(row.get("degraded")),
    }


def _error(error: Row) -> dict[str, str]:
    return {"kind": str(error["kind"]), "message": as_text(str(error["message"]))}


def region_values(part: int, region: Row) -> dict[str, Any]:
    x0, y0, x1, y1 = (int(edge) for edge in region["box_xyxy"])
    return {
        "part_id": part,
        "x0": x0,
        "y0": y0,
        "x1": x1,
        "y1": y1,
        "area_px": int(region["area_px"]),
        "score": float(region["score"]),
        "defect": as_text(region["defect"]),
        "rle": dict(region["rle"]),
    }


def same_part(values: Row) -> Any:
    return and_(*(parts.c[name] == values[name] for name in ("run_id", "path", "sha256")))


def same_photo(values: Any) -> Any:
    """Inspections of the very same bytes under the same path; frames without a hash are each alone."""
    if not values["sha256"]:
        return parts.c.id == values["id"]
    return and_(parts.c.path == values["path"], parts.c.sha256 == values["sha256"])


def supersede(connection: Connection, part: int, values: Row) -> None:
    """This inspection counts, and earlier ones of the same photo, or failures of it in the run, no more.

    A reviewer has seen the photo and not the inspection: what is known of it holds on.
    """
    others, counts = parts.c.id != part, not_(parts.c.superseded)
    seen = same_photo({**values, "id": part})
    failed = and_(parts.c.run_id == values["run_id"], parts.c.path == values["path"], FAILED)
    # Which of both `superseded` is does not matter, but that it is named lets the index lead to the truth.
    reviewed = and_(seen, parts.c.superseded.in_([False, True]), parts.c.truth.is_not(None))
    truth = select(parts.c.truth).where(reviewed, others).limit(1)
    known = connection.execute(truth).scalar_one_or_none()
    earlier = or_(and_(seen, counts), and_(failed, counts))
    connection.execute(update(parts).where(earlier, others).values(superseded=True))
    if known is not None:
        connection.execute(update(parts).where(parts.c.id == part).values(truth=known))


def check_region(connection: Connection, part: int, region: int) -> None:
    found = connection.execute(select(regions.c.part_id).where(regions.c.id == region)).scalar_one_or_none()
    if found != part:
        raise UsageError(f"part {part} has no region {region}")


def as_text(text: str) -> str:
    """Text that any database takes: file names need not be valid Unicode, and PostgreSQL knows no NUL."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "")
