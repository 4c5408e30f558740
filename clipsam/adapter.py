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
from clipsam.heatmap import (
    Features,
    TextTargets,
    Trained,
    coarse_map,
    compare,
    features_of,
    soft_maximum,
    text_targets,
)
from clipsam.umci import Umci, UmciSettings, anomaly_logits

if TYPE_CHECKING:
    import numpy as np

    from clipsam.clip import ClipEncoder
    from clipsam.prompts import PromptEnsemble
    from clipsam.settings import HeatmapSettings

FORMAT = "clipsam-umci-2"
READABLE = (FORMAT, "clipsam-umci-1")  # the first had no text map to start from
OF_THE_TEXT_MAP = (
    "attention", "attention_blocks", "layers", "layer_merge", "windows", "temperature", "sharpness"
)  # fmt: skip
KEY = "clipsam"  # of the card in the file's metadata


@dataclass(frozen=True)
class Bond:
    """What an adapter was trained with and can be used with alone."""

    tower: str
    weights_hash: str
    prompts: str
    prompt_hash: str
    sizes: tuple[int, ...]
    text_map: dict[str, Any] | None = None  # how it is made, where training started from it

    @classmethod
    def of(
        cls, clip: ClipEncoder, prompts: PromptEnsemble, heatmap: HeatmapSettings, settings: UmciSettings
    ) -> Bond:
        """The bond to an encoder, an ensemble, the scales at which photos are seen, and their text map if it
        is read.
        """
        made = text_map_of(heatmap) if settings.prior else None
        return cls(clip.name, clip.weights_hash, prompts.name, prompts.hash(), tuple(heatmap.sizes), made)

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
        given = other.text_map or {}
        for name, value in (self.text_map or {}).items():
            if value != (now := given.get(name)):
                found.append(f"a text map of {name} = {value!r}, not {now!r}")
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
        self.words = WordMaps(clip, prompts, heatmap)

    @classmethod
    def load(
        cls, path: str | Path, clip: ClipEncoder, prompts: PromptEnsemble, heatmap: HeatmapSettings
    ) -> Adapter:
        """Read a file of `save_adapter`. Raises `WeightsError` where it is none, or names what differs."""
        path = Path(path)
        card, state = _read(path)
        bond = Bond(**{**card["bond"], "sizes": tuple(card["bond"]["sizes"])})
        settings = _settings(card)
        if differences := bond.differences(Bond.of(clip, prompts, heatmap, settings)):
            raise WeightsError(
                f"{path} was trained with {', and with '.join(differences)}; use it with what it was trained "
                "with, or train another with: clipsam train umci"
            )
        network = network_for(settings, clip, prompts, len(card["levels"]))
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
        targets, trained = self.words.targets(product), self.about(product)
        return coarse_map(pixels, self.clip, targets, self.heatmap, scored=False, trained=trained).anomaly

    def about(self, product: str) -> Trained:
        """What `coarse_map` takes: the adapter reads the pass that the text map is made of."""
        text = contrast(self.words.targets(product if self.named else "object"))

        def logits(features: Features) -> Tensor:
            words = self.words.of(features, product) if self.network.settings.prior else None
            stages = self.network(features.levels, text.expand(len(features.patches), 2, -1), words)
            return anomaly_logits(stages) + self.offset

        return Trained(self.levels, logits)

    def describe(self) -> dict[str, Any]:
        """For `run.json`: which file it is and what it was trained on."""
        return {
            "sha256": self.sha256,
            "settings": asdict(self.network.settings),
            "training": self.card.get("training"),
            "data": self.card.get("data"),
        }


class WordMaps:
    """The text map's logits of pictures: all types together, then each of them; `channels` in all. `identity`
    says what decides them.
    """

    def __init__(self, clip: ClipEncoder, prompts: PromptEnsemble, heatmap: HeatmapSettings) -> None:
        self.clip, self.prompts, self.heatmap = clip, prompts, heatmap
        self.channels = 1 + len(prompts.defects)
        self.identity = {"prompts": prompts.hash(), **text_map_of(heatmap)}
        self._targets: dict[str, TextTargets] = {}

    def targets(self, product: str) -> TextTargets:
        """What patches of that product are compared with."""
        if product not in self._targets:
            self._targets[product] = text_targets(self.clip, self.prompts.sentences(product))
        return self._targets[product]

    def __call__(self, pixels: Tensor, product: str) -> Tensor:
        """Pixels [b, 3, H, W] in [0, 1] -> logits [b, 1 + k, h, w]."""
        return self.of(features_of(pixels, self.clip, self.heatmap, scored=False), product)

    def of(self, features: Features, product: str) -> Tensor:
        """The same of what the tower gave for those pixels."""
        types, _ = compare(features, self.targets(product), self.heatmap)
        return torch.cat([soft_maximum(types, self.heatmap.sharpness)[None], types]).movedim(0, 1)


def text_map_of(heatmap: HeatmapSettings) -> dict[str, Any]:
    """The settings that decide the text map's logits, as a JSON file gives them back."""
    found = {name: getattr(heatmap, name) for name in OF_THE_TEXT_MAP}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


def network_for(settings: UmciSettings, clip: ClipEncoder, prompts: PromptEnsemble, levels: int) -> Umci:
    """A fresh UMCI for so many levels of this tower, and for the text map of these prompts if it is read."""
    types = len(prompts.defects) if settings.prior else 0
    return Umci(settings, levels, clip.tower.width, clip.dim, types)


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


def _settings(card: dict[str, Any]) -> UmciSettings:
    """Those of the file's network; what it does not know was not there when it was written."""
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in card["settings"].items()}
    return UmciSettings(**given)


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
    if card.get("format") not in READABLE:
        raise WeightsError(
            f"{path} is no adapter of this version (format {card.get('format')!r}); expected {FORMAT}, "
            "a file of clipsam train umci"
        )
    return card, state
