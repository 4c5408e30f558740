"""Sam3TextMap: SAM 3 asked by words gives a coarse map of its own, in place of CLIP's.

Input: a photo and names of defect types. Output: a `CoarseMap`, as `clipsam/heatmap.py` makes it. One image
embedding per photo, one decoder pass per type. Weights of SAM 3 are gated: nothing here needs them unless a
preset names them. Knows nothing of sentences about products: SAM 3 takes short noun phrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from clipsam.heatmap import CoarseMap

if TYPE_CHECKING:
    from clipsam.presets import SamSpec


class Sam3TextMap:
    """A SAM 3 that stays loaded; `coarse_map` keeps nothing between photos."""

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str = "sam3",
        weights_hash: str = "",
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        """`model`: transformers' `Sam3Model`; `processor`: its `Sam3Processor`.

        `dtype` "bfloat16" runs the image encoder, which takes nearly all the time, under autocast.
        """
        self.name, self.weights_hash = name, weights_hash
        self.device = torch.device(device)
        self._autocast = dtype == "bfloat16"
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.processor = processor

    @classmethod
    def from_spec(cls, spec: SamSpec, *, models_dir: str | Path | None = None, **options: Any) -> Sam3TextMap:
        """Load what a specification names; `options` (device, dtype) go to the constructor.

        Raises `WeightsError` where the weights are missing, damaged or not a SAM 3.
        """
        from clipsam.weights import load_sam3

        return cls(**vars(load_sam3(spec, models_dir)), **options)

    @torch.inference_mode()
    def coarse_map(self, pixels: NDArray[np.uint8], defects: Sequence[str]) -> CoarseMap:
        """SAM 3's map of the photo `pixels` [H, W, 3] for each of the types `defects`, and their maximum.

        SAM 3 proposes instances: the value of a pixel is the highest of mask probability times instance score
        times the score that the type is present at all, as its processor combines them. The types' maps have
        the resolution of SAM 3's masks; the image score is the highest instance score.
        """
        values = self.processor.image_processor(
            images=pixels, input_data_format="channels_last", return_tensors="pt"
        )["pixel_values"].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            seen = self.model.get_vision_features(pixel_values=values)
        found = [self._answer(seen, defect) for defect in defects]
        types = torch.stack([grid for grid, _ in found])
        highest = types.amax(dim=0)
        size = (pixels.shape[0], pixels.shape[1])
        anomaly = F.interpolate(highest[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        return CoarseMap(
            anomaly=anomaly.cpu().numpy(),
            types=types.cpu().numpy(),
            defects=tuple(defects),
            image_score=max(score for _, score in found),
        )

    def _answer(self, seen: Any, defect: str) -> tuple[Tensor, float]:
        """The map [h, w] of one type, and the highest score of its instances."""
        words = self.processor(text=defect, return_tensors="pt").to(self.device)
        answer = self.model(
            vision_embeds=seen, input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        )
        scores = torch.sigmoid(answer.pred_logits[0].float())
        if answer.presence_logits is not None:
            scores = scores * torch.sigmoid(answer.presence_logits[0].float())
        masks = torch.sigmoid(answer.pred_masks[0].float())
        return (masks * scores[:, None, None]).amax(dim=0), float(scores.max())
