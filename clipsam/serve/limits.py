"""What the service grants: sizes, times and room. Knows nothing of HTTP."""

from __future__ import annotations

from dataclasses import dataclass, fields

from clipsam.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """Every number bounds what a stranger can make the service do. All above 0."""

    upload_mb: float = 64.0  # of a request's body
    megapixels: float = 60.0  # of a photo, by its header, before anything is decoded
    batch: int = 32  # photos in one request
    queue: int = 16  # photos that wait for the models; more are refused with 503
    seconds: float = 30.0  # from the whole upload to the answer of one photo, else 504
    batch_seconds: float = 120.0  # for all photos of one request; the rest of them then has the error
    upload_seconds: float = 20.0  # for the body to arrive, else 408
    header_seconds: float = 10.0  # for the head of a request to arrive, else the connection is closed
    requests: int = 64  # at a time; more are refused with 503
    buffer_mb: float = 512.0  # of all bodies that are in memory at a time; more are refused with 503

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                value = getattr(self, field.name)
                raise UsageError(f"the limit {field.name} is {value}; expected a number above 0")

    @property
    def upload_bytes(self) -> int:
        return int(self.upload_mb * 1e6)

    @property
    def max_pixels(self) -> int:
        return int(self.megapixels * 1e6)
