"""WinCLIP of clipsam against WinCLIP of anomalib 2.7.0, on the same random weights of ViT-B-16-plus-240.

    python eval/parity/winclip.py [--work DIR] [--out eval/results/parity/winclip.json]

What is equal on random weights is equal on any. The weights are drawn with larger scales than open_clip's
initialisation, so that windows and sentences differ as they do in a trained model; the figures name the
spread of the map beside its difference. Exits with 1 where a difference is above its limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from environment import python_of, versions
from torch import Tensor

import clipsam
from clipsam.clip import ClipEncoder, hash_parameters
from clipsam.heatmap import TextTargets, coarse_map, enlarge, text_targets
from clipsam.prompts import Sentences, load_prompts
from clipsam.protocol import load_protocol
from clipsam.windows import WindowFeatures, WindowMemory

ARCHITECTURE, SEED, PRODUCT, LIMIT = "ViT-B-16-plus-240", 7, "metal nut", 1e-4
GAIN = 2.5  # of all matrices of the transformers
QUERIES, REFERENCES = 2, 1


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--work", type=Path, help="where weights and the peer's environment are kept")
    options.add_argument("--out", type=Path, default=Path("eval/results/parity/winclip.json"))
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        report = compare(given.work or Path(temporary))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    return 0 if report["within_limit"] else 1


class Remembering(ClipEncoder):
    """Sees each photo once: several sentences are compared with the same windows. `raw` is what the text
    tower said before it was brought to unit length.
    """

    raw: dict[str, Tensor]

    def _encode(self, sentences: list[str]) -> Tensor:
        batches = (sentences[i : i + 64] for i in range(0, len(sentences), 64))
        found = torch.cat([self.model.encode_text(self.tokenizer(batch)) for batch in batches])
        self.raw = dict(zip(sentences, found, strict=True))
        return F.normalize(found, dim=-1)

    def encode_windows(self, pixels: Tensor, sides: Any = (2, 3)) -> WindowFeatures:
        seen = self.__dict__.setdefault("seen", {})
        key = (pixels.numpy().tobytes(), tuple(sides))
        if key not in seen:
            seen[key] = super().encode_windows(pixels, sides)
        return seen[key]


def compare(work: Path) -> dict[str, Any]:
    """Run both sides on the same weights and photos and say how far they are apart."""
    work.mkdir(parents=True, exist_ok=True)
    model, photos = random_model(), random_photos()
    torch.save(model.state_dict(), work / "weights.pt")
    np.savez(work / "photos.npz", **photos)
    python = python_of("anomalib", work)
    peer_script = Path(__file__).with_name("winclip_peer.py")
    subprocess.run([str(python), str(peer_script), str(work)], check=True)
    peer = np.load(work / "peer.npz")
    sentences = json.loads((work / "sentences.json").read_text("utf-8"))

    encoder = Remembering(
        model,
        open_clip.get_tokenizer(ARCHITECTURE),
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        name=ARCHITECTURE,
        weights_hash=hash_parameters(model),
        cache_dir=tempfile.mkdtemp(dir=work),
    )
    theirs = Sentences(tuple(sentences["normal"]), {"damage": tuple(sentences["abnormal"])})
    ours = load_prompts("winclip").sentences(PRODUCT)
    encoder.encode_sentences([*flat(theirs), *flat(ours)])
    targets = {
        "anomalib's sentences, averaged as anomalib does": plain_mean(encoder.raw, theirs),
        "anomalib's sentences, unit length before the mean": text_targets(encoder, theirs),
        "22 templates, averaged as anomalib does": plain_mean(encoder.raw, ours),
        "22 templates, unit length before the mean (as shipped)": text_targets(encoder, ours),
    }
    zero_shot = {name: against(photos, encoder, text, peer) for name, text in targets.items()}
    exact = targets["anomalib's sentences, averaged as anomalib does"]
    few_shot = with_memory(photos, encoder, exact, peer)
    text = torch.from_numpy(peer["text"])
    same = zero_shot["anomalib's sentences, averaged as anomalib does"]
    worst = max(same["map"], same["image_score"], *few_shot.values())
    return {
        "architecture": ARCHITECTURE,
        "weights": f"random, seed {SEED}, gain {GAIN}",
        "weights_sha256": encoder.weights_hash,
        "photos": f"{QUERIES} rendered from seed {SEED}, {REFERENCES} references",
        "product": PRODUCT,
        "versions": {
            "clipsam": clipsam.__version__,
            "torch": torch.__version__,
            "open_clip_torch": open_clip.__version__,
            "peer": versions(python, ("anomalib", "open_clip_torch", "torch")),
        },
        "templates": {
            "anomalib": len(sentences["templates"]),
            "anomalib, distinct": len(set(sentences["templates"])),
            "clipsam": len(load_prompts("winclip").templates),
        },
        "spread of the peer's map": {"min": float(peer["map"].min()), "max": float(peer["map"].max())},
        "largest difference of text embeddings": largest(
            F.normalize(text, dim=-1), torch.stack([exact.normal, exact.abnormal[0]])
        ),
        "zero-shot, largest difference": zero_shot,
        "few-shot, largest difference": few_shot,
        "limit": LIMIT,
        "within_limit": worst <= LIMIT,
    }


def random_model() -> Any:
    """The architecture with weights from a fixed seed, matrices of the transformers larger by `GAIN`."""
    torch.manual_seed(SEED)
    model = open_clip.create_model(ARCHITECTURE, load_weights=False, pretrained_text=False).eval()
    for name, parameter in model.named_parameters():
        if "resblocks" in name and parameter.ndim == 2:
            parameter.data *= GAIN
        elif parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.requires_grad_(False)


def random_photos() -> dict[str, Any]:
    """Squares of 240 px: coloured noise of several grains, so that windows see different things."""
    random = np.random.default_rng(SEED)
    photos = np.zeros((QUERIES + REFERENCES, 240, 240, 3))
    for cells in (3, 10, 30, 120):
        noise = random.random((len(photos), cells, cells, 3))
        photos += noise.repeat(240 // cells, 1).repeat(240 // cells, 2)
    pixels = (photos / 4 * 255).astype(np.uint8)
    return {"queries": pixels[:QUERIES], "references": pixels[QUERIES:], "product": PRODUCT}


def flat(sentences: Sentences) -> list[str]:
    return [*sentences.normal, *(each for group in sentences.abnormal.values() for each in group)]


def plain_mean(embeddings: dict[str, Tensor], sentences: Sentences) -> TextTargets:
    """Text targets as anomalib makes them: the mean of embeddings of whatever length."""
    groups = (sentences.normal, *sentences.abnormal.values())
    means = [torch.stack([embeddings[each] for each in group]).mean(dim=0) for group in groups]
    normal, *abnormal = F.normalize(torch.stack(means), dim=-1)
    return TextTargets(normal, torch.stack(abnormal), tuple(sentences.abnormal), "")


def against(
    photos: dict[str, Any], encoder: ClipEncoder, targets: TextTargets, peer: Any
) -> dict[str, float]:
    settings = load_protocol("winclip").method().heatmap
    found = [coarse_map(photo, encoder, targets, settings) for photo in photos["queries"]]
    return {
        "map": largest(np.stack([each.anomaly for each in found]), peer["map"]),
        "image_score": largest(np.array([each.image_score for each in found]), peer["score"]),
    }


def with_memory(
    photos: dict[str, Any], encoder: ClipEncoder, targets: TextTargets, peer: Any
) -> dict[str, float]:
    """WinCLIP+: the mean of the text's map and the memory's; of the text's score and the memory's maximum."""
    settings = load_protocol("winclip").method().heatmap
    queries, references = (as_pixels(photos[name]) for name in ("queries", "references"))
    memory = WindowMemory.of(encoder.encode_windows(references, settings.windows))
    distances = [memory.distance(encoder.encode_windows(query[None], settings.windows)) for query in queries]
    distance = torch.cat(distances).numpy()
    maps, scores = [], []
    for photo, strange in zip(photos["queries"], distance, strict=True):
        text = coarse_map(photo, encoder, targets, settings)
        maps.append((text.anomaly + enlarge(strange, photo.shape[:2], 0.0)) / 2)
        scores.append((text.image_score + strange.max()) / 2)
    return {
        "distance to the memory": largest(distance, peer["distance"]),
        "map": largest(np.stack(maps), peer["few_map"]),
        "image_score": largest(np.array(scores), peer["few_score"]),
    }


def as_pixels(photos: np.ndarray) -> Tensor:
    return torch.from_numpy(photos).permute(0, 3, 1, 2) / 255


def largest(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


if __name__ == "__main__":
    sys.exit(main())
