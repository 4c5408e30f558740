"""SetupManifest: all that decides a result, as plain values for `run.json`, calibrations and comparisons.

Input: a segmenter. Output: a dictionary of JSON types; two segmenters with equal ones give equal results on
equal machines. Knows nothing of photos and files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clipsam import __version__

if TYPE_CHECKING:
    from clipsam.segmenter import AnomalySegmenter


def manifest_of(segmenter: AnomalySegmenter) -> dict[str, Any]:
    """Versions, preset, weights, prompts, settings, region of interest, calibration, dtype and device."""
    preset, clip, sam = segmenter.preset, segmenter.clip, segmenter.sam
    roi, calibration, memory = segmenter.roi, segmenter.calibration, segmenter.memory
    return {
        "clipsam": __version__,
        "preset": preset.name,
        "product": segmenter.product,
        "weights": {
            part.name: part.weights_hash for part in (clip, sam, clip.proxy, segmenter.text_map) if part
        },
        "prompts": {"name": segmenter.prompts.name, "hash": segmenter.prompts.hash(segmenter.product)},
        "heatmap": asdict(preset.heatmap),
        "adapter": segmenter.adapter.describe() if segmenter.adapter else None,
        "regions": asdict(preset.regions),
        "sam": asdict(preset.sam_settings) if sam else None,
        "fusion": asdict(preset.fusion),
        "pixel_threshold": segmenter.pixel_threshold,
        "roi": roi.manifest() if roi else None,
        "calibration_id": calibration.id if calibration else None,
        "calibration": calibration.manifest() if calibration else None,
        **({memory.stage: memory.manifest()} if memory else {}),
        "dtype": str(clip.dtype).removeprefix("torch."),
        "device": str(clip.device),
        **({"programs": segmenter.programs} if segmenter.programs else {}),
        **({"compiled": True} if segmenter.compiled else {}),
    }


def words_hash(segmenter: AnomalySegmenter) -> str:
    """SHA-256 (hex) of what decides `AnomalySegmenter.words` beside the weights of CLIP."""
    deciding = (
        segmenter.prompts.hash(segmenter.product),
        segmenter.adapter.describe() if segmenter.adapter else None,
        asdict(segmenter.preset.heatmap),
    )
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
