"""Adapter: a trained UMCI as a file, and at work on photos.

Input: a safetensors file, the encoder and the prompts that it was trained with. Output: anomaly maps [H, W]
in [0, 1] that take the place of the text map. The file's card says all it was trained for; an adapter used
with anything else is refused, for its maps would look right and be wrong. Knows nothing of SAM and training.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clipsam.errors import WeightsError
from clipsam.hashes import file_sha256
from clipsam.heatmap import TextTargets, enlarge, mean_scales, see, text_targets
from clipsam.umci import Umci, UmciSettings, anomaly_logits

if TYPE_CHECKING:
    import numpy as np

    from clipsam.clip import ClipEncoder
    from clipsam.prompts import PromptEnsemble
    from clipsam.settings import HeatmapSettings

FORMAT = "clipsam-umci-1"
KEY = "clipsam"  # of the card in the file's metadata


@dataclass(frozen=True)
class Bond:
    """What an adapter was trained with and can be used with alone."""

    tower: str
    weights_hash: str
    prompts: str
    prompt_hash: str
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, clip: ClipEncoder, prompts: PromptEnsemble, heatmap: HeatmapSettings) -> Bond:
        """The bond to an encoder, an ensemble, and the scales at which photos are seen."""
        return cls(clip.name, clip.weights_hash, prompts.name, prompts.hash(), tuple(heatmap.sizes))

    def differences(self, other: Bond) -> list[str]:
        """In words, what `other` has that this one was not trained with."""
        found = []
        if self.weights_hash != other.weights_hash:
            tower = f"{self.tower} (weights {self.weights_hash[:12]})"
            found.append(f"the tower {tower}, not {other.tower} (weights {other.weights_hash[:12]})")
        if self.prompt_hash != other.prompt_hash:
            same = " of another content" if self.prompts == other.prompts else ""
            found.append(f"the prompts '{self.prompts}', not '{other.prompts}'{same}")
        if self.sizes != other.sizes:
            found.append(f"photos at {_listed(self.sizes)} px, not at {_listed(other.sizes)} px")
        return found


def _listed(sizes: tuple[int, ...]) -> str:
    return " and ".join(map(str, sizes))


class Adapter:
    """A UMCI bound to the encoder and the prompts that it was trained with. `card`: what the file says of
    itself.
    """

    def __init__(
        self,
        network: Umci,
        clip: ClipEncoder,
        prompts: PromptEnsemble,
        heatmap: HeatmapSettings,
        *,
        levels: tuple[int, ...],
        offset: float = 0.0,
        card: dict[str, Any] | None = None,
        sha256: str = "",
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(clip.device)
        self.clip, self.prompts, self.heatmap = clip, prompts, heatmap
        self.levels, self.offset, self.card, self.sha256 = levels, offset, card or {}, sha256
        self.named = self.card.get("training", {}).get("named", True)  # whether it was told products
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def load(
        cls, path: str | Path, clip: ClipEncoder, prompts: PromptEnsemble, heatmap: HeatmapSettings
    ) -> Adapter:
        """Read a file of `save_adapter`. Raises `WeightsError` where it is none, or names what differs."""
        path = Path(path)
        card, state = _read(path)
        bond = Bond(**{**card["bond"], "sizes": tuple(card["bond"]["sizes"])})
        if differences := bond.differences(Bond.of(clip, prompts, heatmap)):
            raise WeightsError(
                f"{path} was trained with {', and with '.join(differences)}; use it with what it was trained "
                "with, or train another with: clipsam train umci"
            )
        given: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in card["settings"].items()
        }
        settings = UmciSettings(**given)
        network = Umci(settings, len(card["levels"]), clip.tower.width, clip.dim)
        network.load_state_dict(state)
        return cls(
            network, clip, prompts, heatmap, levels=tuple(card["levels"]), offset=card["offset"], card=card,
            sha256=file_sha256(path),
        )  # fmt: skip

    @torch.inference_mode()
    def map(self, pixels: NDArray[np.uint8], product: str) -> NDArray[np.float32]:
        """Photo [H, W, 3] (RGB) -> how likely each pixel shows something abnormal, float32 [H, W] in [0, 1].

        Scales, tiles and smoothing are those of the text map.
        """
        product = product if self.named else "object"
        if product not in self._texts:
            self._texts[product] = contrast(text_targets(self.clip, self.prompts.sentences(product)))
        text = self._texts[product]

        def look(crops: Tensor) -> tuple[Tensor, None]:
            levels = self.clip.encode_levels(crops, self.levels)
            return anomaly_logits(self.network(levels, text.expand(len(crops), 2, -1)))[None], None

        patch = self.clip.patch_size
        scales = [see(pixels, size, patch, self.heatmap, 1, look).patches for size in self.heatmap.sizes]
        anomaly = (mean_scales(scales)[0] + self.offset).sigmoid()
        return enlarge(anomaly.numpy(), pixels.shape[:2], self.heatmap.smoothing)

    def describe(self) -> dict[str, Any]:
        """For `run.json`: which file it is and what it was trained on."""
        return {
            "sha256": self.sha256,
            "settings": asdict(self.network.settings),
            "training": self.card.get("training"),
            "data": self.card.get("data"),
        }


def contrast(targets: TextTargets) -> Tensor:
    """The two texts that UMCI asks: normal and the mean of all defect types, unit vectors [2, d]."""
    return torch.stack([targets.normal, F.normalize(targets.abnormal.mean(dim=0), dim=0)])


def save_adapter(
    path: Path,
    network: Umci,
    bond: Bond,
    *,
    levels: tuple[int, ...],
    offset: float,
    training: dict[str, Any],
    data: dict[str, Any],
) -> dict[str, Any]:
    """Write the weights with their card, whole or not at all; return the card."""
    card = {
        "format": FORMAT, "bond": asdict(bond), "settings": asdict(network.settings), "levels": levels,
        "offset": offset, "training": training, "data": data,
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    fresh = path.with_name(f"{path.name}.part")
    save_file(state, fresh, {KEY: json.dumps(card, sort_keys=True)})
    os.replace(fresh, path)
    return card


def read_card(path: str | Path) -> dict[str, Any]:
    """What an adapter's file says of itself: bond, settings, training, data. `WeightsError` if it is none."""
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The card and the tensors of an adapter's file."""
    try:
        with safe_open(path, "pt") as file:
            card = json.loads((file.metadata() or {}).get(KEY, "{}"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as an adapter ({error}); expected a file of clipsam train umci"
        ) from error
    if card.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is no adapter of this version (format {card.get('format')!r}); expected {FORMAT}, "
            "a file of clipsam train umci"
        )
    return card, state
