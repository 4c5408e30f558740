"""Video files among what is to be inspected: their frames become photos, in a folder beside the run.

Input: what a user names. Output: the same, with a folder of PNG files in place of each video. A frame that is
there is not written again, so a run goes on as with photos. Knows nothing of models and of run folders.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from clipsam.errors import UsageError
from clipsam.images import file_sha256
from clipsam.sources import VIDEO_SUFFIXES, Video


def with_frames(
    inputs: Sequence[str], folder: Path, every: int = 1, on_video: Callable[[Path, int], None] | None = None
) -> list[str]:
    """`inputs` with the frames of each video file, as `folder`/NAME/000000.png ..., instead of the video.

    NAME has the video's hash and `every` in it: another film, or other frames, never mix with these. Every
    `every`-th frame is taken and keeps its number in the video. `on_video` hears of each, with how many
    frames. Raises `SourceError` for a file that is no video, `MissingExtra` without OpenCV, and `UsageError`
    for a folder that cannot be written.
    """
    found: list[str] = []
    for given in inputs:
        path = Path(given).expanduser()
        if path.suffix.lower() not in VIDEO_SUFFIXES or not path.is_file():
            found.append(given)
            continue
        thinned = f"-every-{every}" if every > 1 else ""
        place = folder / f"{path.name}-{file_sha256(path)[:8]}{thinned}"
        count = _write(path, place, every)
        if on_video is not None:
            on_video(path, count)
        found.append(os.fspath(place))
    return found


def _write(video: Path, place: Path, every: int) -> int:
    """Write the frames that are not there yet; gives how many there are."""
    count = 0
    try:
        place.mkdir(parents=True, exist_ok=True)
        for count, pixels in enumerate(Video(video, every=every), start=1):
            path = place / f"{(count - 1) * every:06d}.png"
            if path.exists():
                continue
            fresh = path.with_suffix(".new")
            Image.fromarray(pixels).save(fresh, "PNG", compress_level=1)
            os.replace(fresh, path)
    except OSError as error:
        raise UsageError(f"the frames of {video} cannot be written to {place}: {error.strerror}") from error
    return count
