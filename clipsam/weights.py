"""Weights: a model's files become the loaded parts that `ClipEncoder`, `SamRefiner` and `ProxyEncoder` take.

Input: a `ClipSpec`, `SamSpec` or `ProxySpec`. Output: its parts, float32 on the CPU, in eval mode, with the
SHA-256 of the weights. Where the files lie and whether they are unchanged is `clipsam/locations.py`. No
pickle that could run code is ever loaded, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from clipsam.errors import WeightsError
from clipsam.locations import CLIP_CONFIG, SAM_CONFIG, SAM_PROCESSOR, Location, need, prove, read_json, remedy
from clipsam.presets import ClipSpec, ProxySpec, SamSpec
from clipsam.sam_backends import BACKENDS

Colour = tuple[float, float, float]

PROXY_CLASSES = {  # by `model_type` in config.json
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
}


@dataclass(frozen=True)
class ClipParts:
    """What `ClipEncoder` is built from.

    `mean` and `std` are those of the training, for RGB in [0, 1]; `image_size` is the native (height, width).
    """

    model: Any
    tokenizer: Any
    mean: Colour
    std: Colour
    image_size: tuple[int, int]
    name: str
    weights_hash: str


@dataclass(frozen=True)
class SamParts:
    """What `SamRefiner` is built from: transformers' model and its processor."""

    model: Any
    processor: Any
    name: str
    weights_hash: str


@dataclass(frozen=True)
class ProxyParts:
    """What `ProxyEncoder` is built from; `mean` and `std` are those of the training, for RGB in [0, 1]."""

    model: Any
    mean: Colour
    std: Colour
    name: str
    weights_hash: str


def load_clip(spec: ClipSpec, models_dir: str | Path | None = None) -> ClipParts:
    """Load a CLIP by open_clip. `WeightsError`: missing, damaged, or another activation than in training.

    Mean and standard deviation come from the config beside the weights, else from open_clip's entry of the
    tag, never from a default: open_clip's default is silently wrong for some weights (open_clip issue 1068).
    """
    location = need(spec, models_dir)
    prove(location)
    if spec.library == "transformers":
        return _load_tips(spec, location)
    config = _clip_config(location.folder)
    mean, std = _normalisation(spec, location.folder, config)
    with _loading(location):
        model = _create_clip(spec, location, config, mean, std)
        tokenizer = _clip_tokenizer(spec, location.folder, config)
    _require_activation(spec, location, model)
    size = model.visual.image_size
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    frozen = model.eval().requires_grad_(False)
    return ClipParts(frozen, tokenizer, mean, std, (height, width), spec.name, location.weights_hash)


def _load_tips(spec: ClipSpec, location: Location) -> ClipParts:
    """TIPSv2 by transformers: colours as they are, sentences in lower case and padded to 64 tokens."""
    _family(location, ("tipsv2",))
    with _loading(location), _quiet_transformers():
        import transformers

        if not hasattr(transformers, "Tipsv2Model"):
            raise ValueError(f"transformers {transformers.__version__} has no TIPSv2; install a newer one")
        from clipsam.tips import TipsClip, TipsTokenizer

        model = TipsClip(_saved_model(location, "Tipsv2Model"))
        tokenizer = TipsTokenizer(
            transformers.AutoTokenizer.from_pretrained(location.folder, local_files_only=True)
        )
    size = model.visual.image_size
    colours = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return ClipParts(model, tokenizer, *colours, size, spec.name, location.weights_hash)


def load_sam(spec: SamSpec, models_dir: str | Path | None = None) -> SamParts:
    """Load a SAM by transformers. `WeightsError`: missing, damaged, or of a family that is not known here."""
    location = need(spec, models_dir)
    prove(location)
    backend = BACKENDS[_family(location, tuple(BACKENDS))]
    with _loading(location), _quiet_transformers():
        import transformers

        model = _saved_model(location, backend.model_class, dict(backend.renamed))
        processor = getattr(transformers, backend.processor_class).from_pretrained(
            location.folder, local_files_only=True
        )
    return SamParts(model, processor, spec.name, location.weights_hash)


def load_sam3(spec: SamSpec, models_dir: str | Path | None = None) -> SamParts:
    """Load SAM 3's detector, which takes words, by transformers; `WeightsError` as in `load_sam`."""
    location = need(spec, models_dir)
    prove(location)
    _family(location, ("sam3", "sam3_video"))  # the published file holds the tracker too
    with _loading(location), _quiet_transformers():
        from transformers import Sam3Processor

        model = _saved_model(location, "Sam3Model")
        processor = Sam3Processor.from_pretrained(location.folder, local_files_only=True)
    return SamParts(model, processor, spec.name, location.weights_hash)


def load_proxy(spec: ProxySpec, models_dir: str | Path | None = None) -> ProxyParts:
    """Load a DINOv2 or DINOv3 ViT by transformers; `WeightsError` as in `load_sam`."""
    location = need(spec, models_dir)
    prove(location)
    model_class = PROXY_CLASSES[_family(location, tuple(PROXY_CLASSES))]
    with _loading(location), _quiet_transformers():
        model = _saved_model(location, model_class)
        path = next(location.folder / name for name in SAM_PROCESSOR if (location.folder / name).is_file())
        colours = read_json(path)
        mean, std = (
            (float(r), float(g), float(b)) for r, g, b in (colours["image_mean"], colours["image_std"])
        )
    return ProxyParts(model, mean, std, spec.name, location.weights_hash)


def _family(location: Location, known: tuple[str, ...]) -> str:
    """The `model_type` of a folder that transformers wrote; `WeightsError` if it is none of `known`."""
    config = location.folder / SAM_CONFIG
    family = str(read_json(config).get("model_type"))
    if family not in known:
        raise WeightsError(f"{config} says model_type {family!r}; expected one of: {', '.join(known)}")
    return family


def _saved_model(location: Location, model_class: str, renamed: dict[str, str] | None = None) -> Any:
    import torch
    import transformers

    model, report = getattr(transformers, model_class).from_pretrained(
        location.folder,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        local_files_only=True,
        key_mapping=renamed or None,
    )
    if missing := report["missing_keys"]:  # transformers initialises them at random and only warns
        raise ValueError(f"{len(missing)} tensors are missing, {min(missing)} among them")
    return model.eval().requires_grad_(False)


def _create_clip(
    spec: ClipSpec, location: Location, config: dict[str, Any] | None, mean: Colour, std: Colour
) -> Any:
    import open_clip

    _refuse_code(location.weights[0])
    if config is not None and "timm_model_name" in config["model_cfg"].get("vision_cfg", {}):
        import_module("clipsam.nano.tower")  # registers the embedded tower with timm
    bare = config is None
    return open_clip.create_model(
        spec.architecture if bare else f"local-dir:{location.folder}",
        pretrained=str(location.weights[0]) if bare else None,
        force_quick_gelu=bool(spec.quick_gelu),
        force_preprocess_cfg={"mean": mean, "std": std},
        require_pretrained=True,
        weights_only=True,
    )


def _clip_config(folder: Path) -> dict[str, Any] | None:
    path = folder / CLIP_CONFIG
    if not path.is_file():
        return None
    config = read_json(path)
    if not isinstance(config.get("model_cfg"), dict):
        raise WeightsError(
            f"{path} has no 'model_cfg'; expected open_clip's 'model_cfg' and 'preprocess_cfg'"
        )
    return config


def _normalisation(spec: ClipSpec, folder: Path, config: dict[str, Any] | None) -> tuple[Colour, Colour]:
    known = (config or {}).get("preprocess_cfg") or {}
    if not {"mean", "std"} <= known.keys():
        from open_clip.pretrained import get_pretrained_cfg

        known = get_pretrained_cfg(spec.architecture, spec.tag)
    try:
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (known["mean"], known["std"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"nothing says with which mean and std {spec.name} was trained; expected three numbers each in "
            f"'preprocess_cfg' of {folder / CLIP_CONFIG}"
        ) from error
    return mean, std


def _clip_tokenizer(spec: ClipSpec, folder: Path, config: dict[str, Any] | None) -> Any:
    import open_clip

    built_in = open_clip.get_model_config(spec.architecture) if spec.architecture else None
    if (
        built_in is not None and spec.own_tokenizer
    ):  # SigLIP: cleaned and cut as open_clip says, files from here
        text = built_in["text_cfg"]
        options = {"context_length": text["context_length"], **text.get("tokenizer_kwargs", {})}
        with _quiet_transformers():
            return open_clip.tokenizer.HFTokenizer(str(folder), local_files_only=True, **options)
    if spec.architecture or config is None:
        return open_clip.get_tokenizer(spec.architecture)
    from_files = bool(config["model_cfg"].get("text_cfg", {}).get("hf_tokenizer_name"))
    options = {"local_files_only": True} if from_files else {}
    with _quiet_transformers():
        return open_clip.get_tokenizer(f"local-dir:{folder}", **options)


def _require_activation(spec: ClipSpec, location: Location, model: Any) -> None:
    """OpenAI's weights want QuickGELU, most of LAION's do not; with the wrong one all runs, only worse."""
    from open_clip.transformer import QuickGELU

    found = any(isinstance(module, QuickGELU) for module in model.modules())
    if spec.quick_gelu is not None and found != spec.quick_gelu:
        raise WeightsError(
            f"{location.folder / CLIP_CONFIG} gives quick_gelu={found}, but {spec.name} was trained with "
            f"quick_gelu={spec.quick_gelu}; {remedy(spec)}"
        )


def _refuse_code(weights: Path) -> None:
    """Refuse a pickle of more than tensors here: on a TypeError open_clip loads it again without care."""
    if weights.suffix == ".safetensors":
        return
    import pickle

    import torch

    try:
        torch.load(weights, map_location="meta", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, TypeError, AttributeError, EOFError) as error:
        raise ValueError(
            f"{weights.name} is damaged, or a pickle that could run code; expected a .safetensors file"
        ) from error


@contextmanager
def _loading(location: Location) -> Iterator[None]:
    """Turn whatever a library says about files that it cannot load into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise WeightsError(
            f"{location.spec.name} in {location.folder} cannot be loaded: {reason}; {remedy(location.spec)}"
        ) from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and no remark about SAM 2.1's video weights while loading; problems still raise."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
