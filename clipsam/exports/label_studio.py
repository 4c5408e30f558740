"""Label Studio: tasks with predictions, masks in its own run-length code, and a labelling set-up to match.

Input: a run. Output: tasks for `json.dump`, and the XML of the set-up. Label Studio fetches photos by URL:
the prefix stands before each photo's name. The code is thi.ng's rle-pack of the mask as RGBA pixels (see
github.com/thi-ng/umbrella, packages/rle-pack), and not COCO's.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from clipsam.exports.inspected import InspectedPhoto, InspectedRun
from clipsam.result import Region

LOCAL_FILES = "/data/local-files/?d="  # how Label Studio serves a folder of its own machine

_WORD = 8  # bits of a value
_SIZES = (3, 4, 8, 16)  # bits in which a run's length can be written
_LONGEST = 2 ** _SIZES[-1]
_COLOURS = ("#e6194b", "#f58231", "#ffe119", "#3cb44b", "#42d4f4", "#4363d8", "#911eb4", "#f032e6")


def tasks_of(run: InspectedRun, prefix: str = LOCAL_FILES) -> list[dict[str, Any]]:
    """One task per photo, with the regions as its prediction."""
    version = f"clipsam {run.manifest.get('clipsam')} {run.manifest.get('preset')}"
    return [_task(photo, prefix, version) for photo in run]


def config_of(run: InspectedRun) -> str:
    """The labelling set-up that the tasks need: paste it into the project's settings."""
    labels = "\n".join(
        f"    <Label value={quoteattr(defect)} background={quoteattr(_COLOURS[index % len(_COLOURS)])}/>"
        for index, defect in enumerate(run.defects or ("defect",))  # it refuses a set-up without labels
    )
    image = '  <Image name="image" value="$image" zoom="true"/>'
    return (
        f'<View>\n{image}\n  <BrushLabels name="tag" toName="image">\n{labels}\n  </BrushLabels>\n</View>\n'
    )


def encode(mask: NDArray[np.bool_]) -> list[int]:
    """A mask [H, W] in Label Studio's run-length code, as bytes from 0 to 255.

    The code holds the mask as an RGBA picture, 255 in all four channels where it is set: 32 bits for the
    number of values, 5 for the bits per value less one, four times 4 for the bits of each size of length less
    one; then for each run one bit (1, a repetition), 2 for the size of its length, the length less one, and
    the value.
    """
    flat = mask.ravel()
    ends = np.flatnonzero(np.r_[flat[1:] != flat[:-1], True])
    lengths = 4 * np.diff(ends, prepend=-1)
    bits = [f"{4 * flat.size:032b}{_WORD - 1:05b}", *(f"{size - 1:04b}" for size in _SIZES)]
    for length, value in zip(lengths.tolist(), flat[ends].tolist(), strict=True):
        bits += _run(length, 255 if value else 0)
    text = "".join(bits)
    text += "0" * (8 - len(text) % 8)  # a byte too much at times: so does Label Studio's own converter
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


def _run(length: int, value: int) -> list[str]:
    found = []
    while length:
        part = min(length, _LONGEST)
        index = next(i for i, size in enumerate(_SIZES) if part <= 2**size)
        found.append(f"1{index:02b}{part - 1:0{_SIZES[index]}b}{value:0{_WORD}b}")
        length -= part
    return found


def _task(photo: InspectedPhoto, prefix: str, version: str) -> dict[str, Any]:
    found = [_result(photo, region, index) for index, region in enumerate(photo.regions)]
    return {
        "data": {
            "image": prefix + quote(photo.name),
            "decision": photo.decision,
            "anomaly_score": photo.row["score"],
        },
        "predictions": [{"model_version": version, "score": photo.row["score"], "result": found}],
    }


def _result(photo: InspectedPhoto, region: Region, index: int) -> dict[str, Any]:
    return {
        "id": f"region-{index}",
        "type": "brushlabels",
        "from_name": "tag",
        "to_name": "image",
        "original_width": photo.width,
        "original_height": photo.height,
        "image_rotation": 0,
        "score": region.score,
        "value": {"format": "rle", "rle": encode(region.mask), "brushlabels": [region.defect]},
    }
