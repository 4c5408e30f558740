"""The review: what the page at / asks for. Newest parts, one part with its pictures, verdicts, a moved
threshold, the region of interest.

Input: the station's store. Output: routes below /api, and the page itself, one file with nothing to load.
Knows nothing of models; a part is shown as the run that made it kept it.
"""

from __future__ import annotations

import io
import threading
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, Query
from fastapi.responses import HTMLResponse, Response
from PIL import Image
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from clipsam.errors import PhotoError, RunError, UsageError
from clipsam.images import read_photo
from clipsam.report.pictures import pictured
from clipsam.roi import Roi
from clipsam.runs.manifest import Manifest, read_manifest
from clipsam.serve.app import errors
from clipsam.serve.guard import Refused
from clipsam.serve.limits import Limits
from clipsam.serve.page import page_text, policy
from clipsam.serve.schemas import Strict
from clipsam.store import Part, Station

PICTURE_BYTES = 400_000  # of one part as the page shows it
THUMBNAIL = 220  # pixels along the longer side
BINS = 50  # of the histogram of scores over [0, 1]
NEWEST = 5_000  # parts that the histogram counts

_PICTURING = threading.BoundedSemaphore(2)  # large photos are decoded for it: not many at a time

PartId = Annotated[int, Field(ge=1, le=2**53)]
Text = Annotated[str, Query(max_length=200)]


class Listed(Strict):
    """A part in the list."""

    id: int
    name: str
    product: str
    time: datetime
    score: float | None
    decision: Literal["OK", "NG", "error"] | None = Field(description="null while nothing is calibrated")
    flagged: bool
    truth: bool | None = Field(description="defective, after the newest verdict")


class Page(Strict):
    parts: list[Listed] = Field(description="the newest first")


class Outline(Strict):
    """A region to be drawn: `path` is SVG path data in pixels of the photo."""

    id: int
    defect: str
    score: float
    area: int
    box: tuple[int, int, int, int]
    path: str
    verdict: str | None


class Said(Strict):
    region: int | None
    reviewer: str
    time: datetime
    verdict: str
    comment: str


class Shown(Strict):
    """A part with its pictures as data URLs."""

    part: Listed
    width: int
    height: int
    photo: str | None
    map: str | None = Field(description="8-bit grey, 255 is 1")
    note: str
    more: int = Field(description="regions that are not listed")
    threshold: float | None = Field(description="of the calibration, on the score")
    pixel_threshold: float
    regions: list[Outline]
    verdicts: list[Said] = Field(description="oldest first")
    error: str | None


class NewVerdict(Strict):
    """What a reviewer says: of the part, or of one of its regions."""

    reviewer: str = Field(min_length=1, max_length=100, pattern=r"\S")
    verdict: Literal["confirm", "reject"]
    region: PartId | None = None
    comment: str = Field("", max_length=1000)


class Scores(Strict):
    """How many of the newest parts have which score; bins of equal width over [0, 1]."""

    flagged: list[int]
    others: list[int]
    threshold: float | None
    products: list[str]


class Change(Strict):
    """What another threshold on the score would have changed on the stored parts."""

    threshold: float
    parts: int
    ng_before: int
    ng_after: int
    turned_ok: list[int] = Field(description="ids, the newest first, at most 50")
    turned_ng: list[int]
    turned_ok_count: int
    turned_ng_count: int
    reviewed: int
    false_alarms_before: int
    false_alarms_after: int
    misses_before: int
    misses_after: int


Coordinate = Annotated[float, Field(ge=-1e6, le=1e6)]
Polygon = Annotated[list[tuple[Coordinate, Coordinate]], Field(max_length=500)]
Side = Annotated[int, Field(ge=1, le=100_000)]


class Zones(Strict):
    """A region of interest, as in `clipsam/roi.py`."""

    photo_size: tuple[int, int] = Field(description="width and height that it was drawn on")
    include: list[list[tuple[float, float]]] = Field(default_factory=list)
    ignore: list[list[tuple[float, float]]] = Field(default_factory=list)


class NewZones(Strict):
    """The same as somebody draws it: bounded, since every polygon is filled."""

    photo_size: tuple[Side, Side] = Field(description="width and height that it was drawn on")
    include: list[Polygon] = Field(default_factory=list, max_length=20)
    ignore: list[Polygon] = Field(default_factory=list, max_length=20)


class RoiState(Strict):
    product: str
    file: str
    zones: Zones | None = Field(description="null where none is drawn")
    in_use: bool = Field(description="whether the service looks only there, now")


def add_review(
    app: FastAPI,
    station: Station,
    segmenter: Any,
    *,
    roi_file: Path,
    token: str | None,
    limits: Limits | None = None,
) -> None:
    """Add the page and its routes to the service. `roi_file` is where a drawn region is saved."""
    product = str(segmenter.manifest().get("product", "object"))
    in_use = getattr(segmenter, "roi", None)

    @app.get("/", response_class=Response, responses=errors(beside="text/html"), tags=["review"])
    async def page() -> Response:
        """The review page."""
        text = page_text(product, needs_token=token is not None)
        return HTMLResponse(text, headers={"Content-Security-Policy": policy()})

    _add_parts(app, station)
    _add_threshold(app, station, getattr(segmenter, "calibration", None))
    _add_roi(app, product, roi_file, in_use, (limits or Limits()).max_pixels)


def _add_parts(app: FastAPI, station: Station) -> None:
    @app.get("/api/parts", responses=errors(422, 500), tags=["review"])
    def parts(
        limit: Annotated[int, Query(ge=1, le=200)] = 40,
        before: Annotated[int | None, Query(ge=1, le=2**53, description="id of the last part so far")] = None,
        decision: Annotated[Literal["OK", "NG", "error", "none"] | None, Query()] = None,
        flagged: bool | None = None,
        reviewed: bool | None = None,
        product: Text | None = None,
    ) -> Page:
        """The newest parts, page by page."""
        found = station.parts(
            limit=limit,
            before=before,
            decision=decision,
            flagged=flagged,
            reviewed=reviewed,
            product=_searchable(product),
        )
        return Page(parts=[_listed(part) for part in found])

    @app.get("/api/parts/{part}", responses=errors(404, 422, 500), tags=["review"])
    def part(part: PartId) -> Shown:
        """One part with its pictures, outlines and verdicts."""
        return _shown(_part(station, part))

    @app.get(
        "/api/parts/{part}/thumbnail",
        responses=errors(404, 422, 500, beside="image/jpeg"),
        response_class=Response,
        tags=["review"],
    )
    def thumbnail(part: PartId) -> Response:
        """A small picture of a part, its regions drawn in."""
        found = _part(station, part)
        with _PICTURING:
            return Response(_thumbnail(found), media_type="image/jpeg")

    @app.post("/api/parts/{part}/verdicts", responses=errors(404, 422, 500), status_code=201, tags=["review"])
    async def verdict(part: PartId, said: NewVerdict) -> Listed:
        """Store what a reviewer says; the newest counts, all are kept."""
        found = await run_in_threadpool(_part, station, part)
        if said.region is not None and said.region not in {region.id for region in found.regions}:
            raise Refused(404, "no-region", f"part {part} has no region {said.region}")
        await run_in_threadpool(
            station.verdict,
            part,
            reviewer=said.reviewer,
            verdict=said.verdict,
            region=said.region,
            comment=said.comment,
        )
        return _listed(await run_in_threadpool(_part, station, part))


def _add_threshold(app: FastAPI, station: Station, calibration: Any) -> None:
    @app.get("/api/scores", responses=errors(422, 500), tags=["review"])
    def scores(product: Text | None = None) -> Scores:
        """How the scores of the newest parts spread, those that were flagged apart."""
        bins = {True: [0] * BINS, False: [0] * BINS}
        for part in station.parts(product=_searchable(product), limit=NEWEST):
            if part.score is not None:
                bins[part.flagged][min(int(part.score * BINS), BINS - 1)] += 1
        threshold = None if calibration is None else calibration.score_threshold
        return Scores(
            flagged=bins[True], others=bins[False], threshold=threshold, products=station.products()
        )

    @app.get("/api/what-if", responses=errors(422, 500), tags=["review"])
    def what_if(threshold: Annotated[float, Query(ge=0, le=1)], product: Text | None = None) -> Change:
        """What this threshold on the score would have changed on the stored parts."""
        return Change(**station.what_if(threshold, _searchable(product)).as_dict())


def _add_roi(app: FastAPI, product: str, file: Path, in_use: Roi | None, max_pixels: int) -> None:
    lock = threading.Lock()

    def state() -> RoiState:
        zones = None
        if file.suffix.lower() == ".json" and file.exists():
            known = _region(file, product)
            zones = None if known is None else Zones.model_validate(known.to_dict())
        drawn = None if in_use is None or in_use.drawn is not None else in_use.to_dict()
        return RoiState(
            product=product,
            file=file.name,
            zones=zones,
            in_use=zones is not None and Zones.model_validate(drawn) == zones if drawn else False,
        )

    @app.get("/api/roi", responses=errors(422, 500), tags=["review"])
    def roi() -> RoiState:
        """The region of interest that is drawn for this product."""
        return state()

    @app.put("/api/roi", responses=errors(422, 500), tags=["review"])
    def draw(zones: NewZones) -> RoiState:
        """Save a region of interest; it is used when the service is started with it (`--roi`)."""
        if file.suffix.lower() != ".json":
            raise Refused(422, "usage", "the service runs with a mask image; start it with --roi FILE.json")
        width, height = zones.photo_size
        if width * height > max_pixels:
            raise Refused(
                413, "too-large", f"a photo of {width} x {height} px is larger than any that is inspected"
            )
        if not lock.acquire(blocking=False):  # filling large polygons takes seconds: one at a time
            raise Refused(503, "busy", "another region is being saved; try again", **{"Retry-After": "2"})
        try:
            Roi.from_dict(zones.model_dump(mode="json")).save(file, product)
        finally:
            lock.release()
        return state()


def _region(file: Path, product: str) -> Roi | None:
    try:
        return Roi.load(file, product)
    except UsageError:  # a file for other products
        return None


def _searchable(text: str | None) -> str | None:
    """Text that a database takes: PostgreSQL knows no NUL, and a lone surrogate is no Unicode."""
    if text is None:
        return None
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\x00", "")


def _part(station: Station, part: int) -> Part:
    try:
        return station.part(part)
    except UsageError as error:
        raise Refused(404, "no-part", f"there is no part {part}") from error


def _listed(part: Part) -> Listed:
    names = ("id", "product", "time", "score", "decision", "flagged", "truth")
    return Listed(name=Path(part.path).name, **{name: getattr(part, name) for name in names})


def _shown(part: Part) -> Shown:
    folder = part.folder or Path()
    manifest = _manifest(folder)
    said = [
        Said(
            **{name: getattr(verdict, name) for name in ("region", "reviewer", "time", "verdict", "comment")}
        )
        for verdict in part.verdicts
    ]
    common: dict[str, Any] = {
        "part": _listed(part),
        "threshold": part.threshold,
        "pixel_threshold": manifest.get("pixel_threshold") or 0.5,
        "verdicts": said,
    }
    if part.error is not None:
        nothing: dict[str, Any] = {"photo": None, "map": None, "note": "", "more": 0, "regions": []}
        return Shown(**common, **nothing, width=4, height=3, error=part.error["message"])
    with _PICTURING:
        found = pictured(folder, manifest, part.as_row(), size=PICTURE_BYTES, beside=folder)
    outlines = [
        Outline(id=stored.id, verdict=stored.verdict, **region)
        for stored, region in zip(part.regions, found["regions"], strict=False)
    ]
    kept = {name: found[name] for name in ("width", "height", "photo", "map", "note", "more")}
    return Shown(**common, **kept, regions=outlines, error=None)


@lru_cache(maxsize=64)
def _manifest(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except RunError:  # the run folder was removed; the store still has its parts
        return {}


def _thumbnail(part: Part) -> bytes:
    """A JPEG of the overlay, or of the photo; a grey field where both are gone."""
    image = Image.fromarray(np.full((120, 160, 3), 128, np.uint8))
    overlay = part.files.get("overlay")
    try:
        if overlay and part.folder is not None:
            with Image.open(part.folder / overlay) as kept:
                kept.draft("RGB", (2 * THUMBNAIL, 2 * THUMBNAIL))
                image = kept.convert("RGB")
        else:
            image = Image.fromarray(read_photo(part.path).pixels)
    except (OSError, PhotoError):
        pass
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
