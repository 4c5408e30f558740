"""ClipEncoder: an open_clip model as two functions, pixels -> dense features and sentences -> embeddings.

Input: pixels in [0, 1] of any size in whole patches, or complete sentences. Output: unit vectors in the space
that image and text share. Knows nothing of products, prompts, photos on disk or where weights are found; how
patches attend is `attention.py`'s affair, and what differs from tower to tower `towers.py`'s.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clipsam.attention import attend_densely, find_mode
from clipsam.errors import TowerError, UsageError
from clipsam.hashes import cache_folder
from clipsam.presets import ClipSpec
from clipsam.proxy import ProxyEncoder
from clipsam.sentences import SentenceCache
from clipsam.towers import open_tower
from clipsam.weights import load_clip
from clipsam.windows import WindowFeatures, see_windows

if TYPE_CHECKING:
    from clipsam.programs.modules import ClipPrograms

TEXT_BATCH = 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class PatchFeatures:
    """Unit vectors, float32: `patches` [b, h, w, d], one per patch; `pooled` [b, d], the tower's view of the
    whole, None where nobody wanted it; `layers`: like `patches`, after each block that was asked for.
    `levels`, no unit vectors, are what `encode_levels` gives, None where nobody wanted them.
    """

    patches: Tensor
    pooled: Tensor | None
    layers: tuple[Tensor, ...] = ()
    levels: Tensor | None = None


class ClipEncoder:
    """A loaded open_clip model: `name`, `weights_hash`, `patch_size` (px), `image_size` (native h, w),
    `depth`, `dim`.

    `mean` and `std` (per channel, of pixels in [0, 1]) are those of its training; so is `image_size`, which
    None leaves to the tower. `dtype` is that of the matrices of the image tower: "bfloat16" halves its memory
    and runs it under autocast, the residual stream stays in float32. Sentences are always encoded in float32.
    `proxy` is a second encoder for attention mode "proxy".
    `cache_dir` keeps their embeddings; None is `$CLIPSAM_CACHE`, else the user's cache folder.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        name: str,
        weights_hash: str,
        image_size: tuple[int, int] | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        cache_dir: str | Path | None = None,
        proxy: ProxyEncoder | None = None,
    ) -> None:
        if dtype not in DTYPES:
            raise UsageError(f"{dtype!r} is no dtype of an image tower; expected one of: {', '.join(DTYPES)}")
        self.tower = open_tower(model.visual)
        self.model = model.eval().requires_grad_(False).to(device)
        if dtype == "bfloat16":
            _cast_matrices(model.visual, torch.bfloat16)
        self.tokenizer, self.name, self.weights_hash = tokenizer, name, weights_hash
        self.device, self.dtype = torch.device(device), DTYPES[dtype]
        self.patch_size, self.image_size = self.tower.patch_size, image_size or self.tower.image_size
        self.depth, self.proxy = self.tower.depth, proxy
        self.programs: ClipPrograms | None = None  # take the tower's place; see `clipsam/programs`
        self._mean, self._std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (mean, std))
        self._known: dict[str, Tensor] = {}
        self._cache = SentenceCache(Path(cache_dir) if cache_dir else cache_folder(), weights_hash)
        with torch.inference_mode(), self._precision():
            self.dim = int(self.tower.project(torch.zeros(1, 1, self.tower.width, device=device)).shape[-1])

    @classmethod
    def from_spec(
        cls, spec: ClipSpec, *, models_dir: str | Path | None = None, **options: Any
    ) -> ClipEncoder:
        """Load what a specification names; `options` (device, dtype, cache_dir) go to the constructor.

        Raises `WeightsError` where the weights are missing or damaged, `TowerError` for a tower without patch
        tokens.
        """
        return cls(**vars(load_clip(spec, models_dir)), **options)

    @classmethod
    def from_dir(cls, path: str | Path, **options: Any) -> ClipEncoder:
        """Load an open_clip folder: config, safetensors, and tokenizer files where the config names one."""
        folder = Path(path)
        return cls.from_spec(ClipSpec(folder.name, folder=str(folder)), **options)

    @classmethod
    def random(cls, model_name: str, seed: int = 0, **options: Any) -> ClipEncoder:
        """One of open_clip's architectures with random weights, equal for equal seeds: for proofs and
        benchmarks.
        """
        if model_name not in open_clip.list_models():
            raise UsageError(
                f"open_clip has no model {model_name!r}; expected one of open_clip.list_models()"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = open_clip.create_model(model_name, load_weights=False, pretrained_text=False)
        return cls(
            model,
            open_clip.get_tokenizer(model_name),
            mean=open_clip.OPENAI_DATASET_MEAN,
            std=open_clip.OPENAI_DATASET_STD,
            name=f"{model_name} (random, seed {seed})",
            weights_hash=hash_parameters(model),
            **options,
        )

    @torch.inference_mode()
    def encode_pixels(
        self,
        pixels: Tensor,
        attention: str = "v-v",
        *,
        blocks: int | None = None,
        layers: Sequence[int] = (),
        levels: Sequence[int] = (),
        pooled: bool = True,
    ) -> PatchFeatures:
        """Pixels [b, 3, H, W] in [0, 1], H and W multiples of `patch_size` -> a feature for every patch.

        `attention` names a mode of `ATTENTION_MODES`; `blocks` is how many of the last blocks it rebuilds
        (None: the mode's own number); `layers` are blocks, counted from 1, whose features are wanted too.
        Final norm and projection are applied once to each. `levels` are blocks as `encode_levels` takes
        them: its tokens of the same pass. `pooled` is the same in every mode;
        without it the dense modes save the last block of the tower as trained.
        """
        if self.programs is not None and not levels and self.programs.serves(attention, blocks, layers):
            self._require_whole_patches(pixels)
            return self.programs(pixels)
        return self.dense(pixels, attention, blocks=blocks, layers=layers, levels=levels, pooled=pooled)

    def dense(
        self,
        pixels: Tensor,
        attention: str,
        *,
        blocks: int | None = None,
        layers: Sequence[int] = (),
        levels: Sequence[int] = (),
        pooled: bool = True,
    ) -> PatchFeatures:
        """`encode_pixels` by the tower itself, in a form that `torch.export` can trace."""
        mode, normalised, proxy = find_mode(attention), self._normalised(pixels), None
        if mode.proxy and self.proxy is not None:
            height, width = (side // self.patch_size for side in pixels.shape[-2:])
            proxy = self.proxy.features(pixels.to(self.device, torch.float32), (height, width))
        with self._precision():
            tokens = attend_densely(
                self.tower, normalised, mode, blocks, layers=layers, levels=levels, proxy=proxy, plain=pooled
            )
            paths = (path[:, self.tower.prefix :] for path in (tokens.dense, *tokens.layers))
            dense = [self.tower.project(path).float() for path in paths]
            whole = None if tokens.plain is None else self.tower.pool(tokens.plain).float()
        patches, *kept = (F.normalize(path, dim=-1).unflatten(1, tokens.grid) for path in dense)
        pooled_unit = None if whole is None else F.normalize(whole, dim=-1)
        return PatchFeatures(patches, pooled_unit, tuple(kept), tokens.levels)

    @torch.inference_mode()
    def encode_windows(
        self, pixels: Tensor, sides: Sequence[int] = (2, 3), levels: Sequence[int] = ()
    ) -> WindowFeatures:
        """Pixels and `levels` as in `encode_pixels` -> an embedding for every window of `sides` x `sides`
        patches.

        Raises `TowerError` for a tower with rotary positions, `UsageError` where a window is larger than the
        photo.
        """
        pixels = self._normalised(pixels)
        with self._precision():
            return see_windows(self.tower, pixels, sides, levels)

    @torch.inference_mode()
    def encode_levels(self, pixels: Tensor, blocks: Sequence[int]) -> Tensor:
        """Pixels [b, 3, H, W] in [0, 1] -> tokens [b, len(blocks), h, w, width] as they leave those blocks
        (from 1).

        They are of the tower as it was trained, float32, without final norm and projection. Raises
        `TowerError` for a block that the tower does not have.
        """
        wrong = [number for number in blocks if not 1 <= number <= self.depth]
        if wrong or not blocks:
            raise TowerError(
                f"features of blocks {list(blocks)} were asked for; expected one or more of 1 to "
                f"{self.depth}, the depth of {self.name}"
            )
        pixels = self._normalised(pixels)
        with self._precision():
            return self.tower.levels(pixels, blocks)

    @torch.inference_mode()
    def encode_stages(self, pixels: Tensor) -> list[Tensor]:
        """Pixels [b, 3, H, W] in [0, 1] -> features [b, c, h, w] of each stage of a convolutional stem,
        float32, the finest first. Raises `TowerError` for a tower without one.
        """
        pixels = self._normalised(pixels)
        with self._precision():
            return [stage.float() for stage in self.tower.stages(pixels)]

    @torch.inference_mode()
    def encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Complete sentences -> unit vectors [n, d], float32, in the same order, each encoded once."""
        if not sentences:
            raise UsageError("there are no sentences to encode; expected at least one")
        unknown = sorted(set(sentences) - self._known.keys())
        if unknown:
            embeddings = self._cache.load(unknown)
            if embeddings is None:
                embeddings = self._encode(unknown)
                self._cache.save(unknown, embeddings)
            self._known.update(zip(unknown, embeddings, strict=True))
        return torch.stack([self._known[sentence] for sentence in sentences]).to(self.device)

    def _normalised(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] as the tower was trained to see them; `UsageError` for no whole patches."""
        self._require_whole_patches(pixels)
        return (pixels.to(self.device, torch.float32) - self._mean) / self._std

    def _require_whole_patches(self, pixels: Tensor) -> None:
        height, width = pixels.shape[-2:]
        if not height or not width or height % self.patch_size or width % self.patch_size:
            raise UsageError(
                f"pixels are {height}x{width}, which is not a whole number of patches; "
                f"resize both sides to multiples of {self.patch_size} px"
            )

    def _encode(self, sentences: list[str]) -> Tensor:
        batches = (sentences[i : i + TEXT_BATCH] for i in range(0, len(sentences), TEXT_BATCH))
        embeddings = [self.model.encode_text(self.tokenizer(batch).to(self.device)) for batch in batches]
        return F.normalize(torch.cat(embeddings).float(), dim=-1).cpu()

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def hash_parameters(model: nn.Module) -> str:
    """SHA-256 (hex) of the names and values of all parameters and buffers: for weights that no file holds."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _cast_matrices(visual: nn.Module, dtype: torch.dtype) -> None:
    """Cast what autocast would cast on every call anyway; norms, embeddings and scales stay in float32."""
    for module in visual.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
