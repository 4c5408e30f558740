"""Presets: named pairs of a CLIP and a SAM with the settings that suit them.

Input: a preset's name, or nothing. Output: frozen dataclasses that say which weights to load and how to use
them. Knows no torch and touches no file itself: where weights are found is `clipsam/locations.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from clipsam.errors import UsageError
from clipsam.settings import (
    ConsensusSettings,
    FusionSettings,
    HeatmapSettings,
    LayerSettings,
    ReferenceSettings,
    RegionSettings,
    SamSettings,
)

EMBEDDED = Path(__file__).parent / "nano" / "weights"


@dataclass(frozen=True)
class ClipSpec:
    """Which CLIP: a repository on the hub with open_clip's name for the architecture, or a folder, or both.

    A folder is an open_clip `local-dir` (`open_clip_config.json`, weights, tokenizer files where the config
    names a tokenizer). `quick_gelu`: the activation of the training; None: whatever the config says.
    """

    kind: ClassVar[str] = "clip"

    name: str  # shown to people; the model's folder name inside a pack
    licence: str = "unknown"
    size: int = 0  # bytes of the weights, about
    repo: str = ""
    revision: str = "main"
    architecture: str = ""  # open_clip's model name
    tag: str = (
        ""  # open_clip's pretrained tag, the source of mean and std where no config came with the weights
    )
    quick_gelu: bool | None = None
    folder: str = ""
    own_tokenizer: bool = False  # tokenizer files belong to the weights, though the architecture is built in
    library: str = "open_clip"  # or "transformers": TIPSv2, in a folder as `save_pretrained` writes it


@dataclass(frozen=True)
class SamSpec:
    """Which SAM: a repository on the hub, or a folder written by transformers' `save_pretrained`, or both."""

    kind: ClassVar[str] = "sam"

    name: str
    licence: str = "unknown"
    size: int = 0
    repo: str = ""
    revision: str = "main"
    folder: str = ""


@dataclass(frozen=True)
class ProxySpec:
    """Which second image encoder lends its attention (a DINOv2 or DINOv3 ViT); places as for `SamSpec`."""

    kind: ClassVar[str] = "proxy"

    name: str
    licence: str = "unknown"
    size: int = 0
    repo: str = ""
    revision: str = "main"
    folder: str = ""


ModelSpec = ClipSpec | SamSpec | ProxySpec

DINOV2_BASE = ProxySpec("dinov2-base", "Apache-2.0", 346_000_000, repo="facebook/dinov2-base")


@dataclass(frozen=True)
class Preset:
    """A pair of models and the settings of every stage. Without `sam` the coarse map is the result.

    `proxy` is loaded only where `heatmap.attention` is "proxy". `text_map` names a SAM 3 whose own
    text-prompted map is the coarse map in place of CLIP's.
    """

    name: str
    title: str
    clip: ClipSpec
    sam: SamSpec | None
    heatmap: HeatmapSettings = field(default_factory=HeatmapSettings)
    regions: RegionSettings = field(default_factory=RegionSettings)
    sam_settings: SamSettings = field(default_factory=SamSettings)
    fusion: FusionSettings = field(default_factory=FusionSettings)
    layers: LayerSettings = field(default_factory=LayerSettings)
    reference_settings: ReferenceSettings = field(default_factory=ReferenceSettings)
    consensus_settings: ConsensusSettings = field(default_factory=ConsensusSettings)
    pixel_threshold: float = 0.5
    prompts: str = "industrial"
    proxy: ProxySpec = DINOV2_BASE
    text_map: SamSpec | None = None

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """The specifications of the models that are loaded, CLIP first."""
        proxy = self.proxy if self.heatmap.attention == "proxy" else None
        return tuple(spec for spec in (self.clip, self.sam, proxy, self.text_map) if spec is not None)


NANO = Preset(
    name="nano",
    title="the embedded pair: small, fast, always here",
    clip=ClipSpec("nano-clip", licence="Apache-2.0", folder=str(EMBEDDED / "clip")),
    sam=SamSpec("nano-sam", licence="Apache-2.0", folder=str(EMBEDDED / "sam")),
    # Chosen on rendered validation pictures alone: eval/select_nano.py.
    heatmap=HeatmapSettings(attention="plain", sizes=(256, 384), temperature=0.05, smoothing=0.01),
    regions=RegionSettings(low=0.5, high=0.73, max_regions=5),
    # eval/select_sam.py: the photo's own cue wins on rendered pictures. There masks that count in full win
    # more still, but SAM-nano, which saw no other pictures, now and then swallows a whole part: so they
    # count as far as CLIP agrees.
    fusion=FusionSettings(
        weighting="agreement", edge_weight=0.4, edge_guide=0.015, score="coarse", min_area=3e-4
    ),
    # Cells of pixels and the stages of the stem together say best how two photos differ.
    layers=LayerSettings(
        size=512, enlarge=False, depths=(), strides=(8, 16), cells=(8, 16), grid=8, scaling="spread"
    ),
    reference_settings=ReferenceSettings(
        smoothing=0.012, mixing="odds", text_weight=0.15, excess_weight=0.3, photo_score="distances"
    ),
    consensus_settings=ConsensusSettings(
        joint=True,
        together=True,
        patches=512,
        smoothing=0.012,
        mixing="odds",
        text_weight=0.15,
        excess_weight=0.3,
        photo_score="distances",
    ),
    pixel_threshold=0.71,
)

SMALL = Preset(
    name="small",
    title="CLIP ViT-B/16 (OpenAI) with SAM 2.1 tiny",
    clip=ClipSpec(
        "ViT-B-16.openai",
        licence="MIT",
        size=599_000_000,
        repo="timm/vit_base_patch16_clip_224.openai",
        architecture="ViT-B-16-quickgelu",
        tag="openai",
        quick_gelu=True,
    ),
    sam=SamSpec("sam2.1-hiera-tiny", "Apache-2.0", 156_000_000, repo="facebook/sam2.1-hiera-tiny"),
    heatmap=HeatmapSettings(sizes=(448,)),  # 28 x 28 patches, twice the grid of its training
)

BASE = Preset(
    name="base",
    title="CLIP ViT-B/16+ at 240 px (LAION-400M), WinCLIP's tower, with SAM ViT-B",
    clip=ClipSpec(
        # open_clip's tag laion400m_e32 of this model points at the repository of e31, so what WinCLIP
        # re-implementations load as "e32" through the hub is e31; it is called by its true name here.
        "ViT-B-16-plus-240.laion400m_e31",
        licence="MIT",
        size=833_000_000,
        repo="timm/vit_base_patch16_plus_clip_240.laion400m_e31",
        architecture="ViT-B-16-plus-240",
        tag="laion400m_e31",
        quick_gelu=False,
    ),
    sam=SamSpec("sam-vit-base", "Apache-2.0", 375_000_000, repo="facebook/sam-vit-base"),
    heatmap=HeatmapSettings(sizes=(240, 480)),  # the native grid for context, twice that for detail
)

LARGE = Preset(
    name="large",
    title="CLIP ViT-L/14 at 336 px (OpenAI) with SAM ViT-H: the pair of the ClipSAM paper",
    clip=ClipSpec(
        "ViT-L-14-336.openai",
        licence="MIT",
        size=1_712_000_000,
        repo="timm/vit_large_patch14_clip_336.openai",
        architecture="ViT-L-14-336-quickgelu",
        tag="openai",
        quick_gelu=True,
    ),
    sam=SamSpec("sam-vit-huge", "Apache-2.0", 2_564_000_000, repo="facebook/sam-vit-huge"),
    heatmap=HeatmapSettings(sizes=(518,)),  # 37 x 37 patches, the field's usual input for this tower
)

SAM21_LARGE = SamSpec("sam2.1-hiera-large", "Apache-2.0", 898_000_000, repo="facebook/sam2.1-hiera-large")

LAION = Preset(
    name="laion",
    title="CLIP ViT-L/14 (LAION-2B) with SAM 2.1 large",
    clip=ClipSpec(
        "ViT-L-14.laion2b_s32b_b82k",
        licence="MIT",
        size=1_711_000_000,
        repo="laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        architecture="ViT-L-14",
        tag="laion2b_s32b_b82k",
        quick_gelu=False,
    ),
    sam=SAM21_LARGE,
)

DATACOMP = Preset(
    name="datacomp",
    title="CLIP ViT-L/14 (DataComp-XL) with SAM 2.1 large",
    clip=ClipSpec(
        "ViT-L-14.datacomp_xl_s13b_b90k",
        licence="MIT",
        size=1_711_000_000,
        repo="laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
        architecture="ViT-L-14",
        tag="datacomp_xl_s13b_b90k",
        quick_gelu=False,
    ),
    sam=SAM21_LARGE,
)

SIGLIP2 = Preset(
    name="siglip2",
    title="SigLIP 2 ViT-L/16 at 512 px with SAM 2.1 large",
    clip=ClipSpec(
        "ViT-L-16-SigLIP2-512.webli",
        licence="Apache-2.0",
        size=3_526_000_000,
        repo="timm/ViT-L-16-SigLIP2-512",
        architecture="ViT-L-16-SigLIP2-512",
        tag="webli",
        own_tokenizer=True,
    ),
    sam=SAM21_LARGE,
    heatmap=HeatmapSettings(sizes=(512,)),
)

MOBILECLIP2 = Preset(
    name="mobileclip2",
    title="MobileCLIP2-B with SAM 2.1 tiny",
    clip=ClipSpec(
        "MobileCLIP2-B.dfndr2b",
        licence="Apple AMLR (research)",
        size=600_000_000,
        repo="timm/MobileCLIP2-B-OpenCLIP",
        architecture="MobileCLIP2-B",
        tag="dfndr2b",
    ),
    sam=SMALL.sam,
    heatmap=HeatmapSettings(sizes=(448,)),
)

TIPS = Preset(
    name="tips",
    title="TIPSv2 ViT-L/14, dense by its training, with SAM 2.1 large",
    clip=ClipSpec(
        "tipsv2-l14",
        licence="Apache-2.0",
        size=1_950_000_000,
        repo="google/tipsv2-l14",
        own_tokenizer=True,
        library="transformers",
    ),
    sam=SAM21_LARGE,
    heatmap=HeatmapSettings(attention="value", sizes=(448,)),
)

RANKED = (NANO, SMALL, BASE, LARGE)  # worst to best; the others are taken only by name
PRESETS: dict[str, Preset] = {
    preset.name: preset for preset in (*RANKED, LAION, DATACOMP, SIGLIP2, MOBILECLIP2, TIPS)
}


@dataclass(frozen=True)
class PresetChoice:
    """A preset and the sentence that says why it is this one; the sentence is shown to the user."""

    preset: Preset
    reason: str


def get_preset(name: str) -> Preset:
    """The preset called `name`; `UsageError` with the known names otherwise."""
    if name not in PRESETS:
        raise UsageError(f"there is no preset {name!r}; choose one of: {', '.join(PRESETS)}")
    return PRESETS[name]


def choose_preset(name: str | None = None, models_dir: str | Path | None = None) -> PresetChoice:
    """The preset that is asked for, else the best pair whose weights are all on this machine, else `nano`.

    Only looks at file names, in the pack (`models_dir`, else $CLIPSAM_MODELS) and the hub cache: no network.
    """
    if name is not None:
        return PresetChoice(get_preset(name), f"preset {name}, as asked for")
    from clipsam.locations import locate  # here, because locations build on the specifications above

    for preset in reversed(RANKED):
        places = [locate(spec, models_dir) for spec in preset.models]
        if preset is not NANO and all(place is not None and place.complete for place in places):
            found = " and ".join(dict.fromkeys(place.place for place in places if place is not None))
            return PresetChoice(preset, f"preset {preset.name}, the best pair on this machine ({found})")
    return PresetChoice(NANO, "preset nano, the embedded pair: no larger pair is on this machine")
