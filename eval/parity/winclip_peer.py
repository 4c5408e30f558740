"""anomalib's side of `winclip.py`: runs in anomalib's own environment and imports nothing of clipsam.

    python winclip_peer.py WORK_DIR

Input: WORK_DIR/weights.pt (state dict) and photos.npz. Output: WORK_DIR/peer.npz and sentences.json.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import numpy as np
import torch
from anomalib.models.image.winclip import WinClip, prompting, torch_model

work = Path(sys.argv[1])
torch_model.PRETRAINED = None  # the same random weights on both sides instead
photos = np.load(work / "photos.npz")


def prepared(pixels: np.ndarray) -> torch.Tensor:
    """uint8 [n, 240, 240, 3] -> what anomalib's own pre-processing gives its model."""
    return WinClip.configure_pre_processor().transform(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)


model = torch_model.WinClipModel().eval()
model.clip.load_state_dict(torch.load(work / "weights.pt", weights_only=True))
model.setup(class_name=str(photos["product"]))
model.encode_image = functools.cache(model.encode_image)  # one tensor of queries, asked three times
queries = prepared(photos["queries"])
answer = {"text": model.text_embeddings.numpy()}
with torch.no_grad():
    found = model(queries)
    answer |= {"score": found.pred_score.numpy(), "map": found.anomaly_map.numpy()}
    model.setup(reference_images=prepared(photos["references"]))
    found = model(queries)
    answer |= {"few_score": found.pred_score.numpy(), "few_map": found.anomaly_map.numpy()}
    _, windows, patches = model.encode_image(queries)
    answer["distance"] = model._compute_few_shot_scores(patches, windows).numpy()
np.savez(work / "peer.npz", **answer)
normal, abnormal = prompting.create_prompt_ensemble(str(photos["product"]))
(work / "sentences.json").write_text(
    json.dumps({"normal": normal, "abnormal": abnormal, "templates": prompting.TEMPLATES})
)
