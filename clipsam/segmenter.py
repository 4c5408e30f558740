"""AnomalySegmenter: load once, segment many. Start reading here: `segment` is the whole way of one photo.

Input: a photo (path, PIL image or array) and a product in words. Output: a `Segmentation`. Each stage is a
function or an object of a file of its own; this file only hands things on. Knows nothing of files, folders
and reports.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from clipsam.adapter import Adapter
from clipsam.clip import ClipEncoder
from clipsam.companions import references_from
from clipsam.compiled import compile_towers
from clipsam.devices import keep_freed_memory
from clipsam.edges import sharpen
from clipsam.fusion import find_regions, fuse, photo_score
from clipsam.heatmap import CoarseMap, coarse_map, text_targets
from clipsam.images import Photo, as_photo
from clipsam.loading import chosen, load_models, load_roi
from clipsam.masks import SoftMask
from clipsam.memory import draw
from clipsam.presets import Preset
from clipsam.prompts import PromptEnsemble, load_prompts
from clipsam.references import Words
from clipsam.regions import RegionPrompt, region_prompts
from clipsam.result import Segmentation
from clipsam.roi import only
from clipsam.sam import SamRefiner
from clipsam.sam3_map import Sam3TextMap
from clipsam.setup_manifest import manifest_of, words_hash
from clipsam.stopwatch import Stopwatch
from clipsam.stream import Stream

if TYPE_CHECKING:
    from PIL.Image import Image

    from clipsam.calibrate import Calibration
    from clipsam.consensus import Consensus
    from clipsam.references import ReferenceMemory
    from clipsam.roi import Roi
    from clipsam.window_references import WindowReferences


_LEAST = float(np.nextafter(np.float32(0), np.float32(1)))


class AnomalySegmenter:
    """A warm pair of models with sentences about one product.

    `segment` keeps no state between photos; on a CPU several threads may call it at once, unless exported
    programs run the towers or the photos vote on each other (consensus).
    """

    def __init__(
        self,
        preset: Preset,
        clip: ClipEncoder,
        sam: SamRefiner | None,
        prompts: PromptEnsemble,
        product: str = "object",
        *,
        adapter: Adapter | None = None,
        text_map: Sam3TextMap | None = None,
        memory: ReferenceMemory | WindowReferences | Consensus | None = None,
        roi: Roi | None = None,
    ) -> None:
        keep_freed_memory()
        self.preset = preset
        self.clip = clip
        self.sam = sam
        self.adapter = adapter
        self.prompts = prompts
        self.product = product
        self.text_map = text_map  # gives the coarse map in place of CLIP
        self.memory = memory  # other photos that every photo is compared with
        self.roi = roi  # where to look; everywhere if None
        self.calibration: Calibration | None = None  # see `calibrated`
        self.programs: dict[str, Any] | None = None  # what runs the image towers, if not torch
        self.compiled = False  # whether torch compiled them; see `clipsam/compiled.py`
        self.choice = f"preset {preset.name}"  # why this preset, in words
        self.targets = text_targets(clip, prompts.sentences(product))

    @classmethod
    def from_preset(
        cls,
        name: str | Preset | None = None,
        *,
        product: str = "object",
        prompts: str | Path | None = None,
        defects: Sequence[str] = (),
        sam: bool = True,
        adapter: str | Path | None = None,
        references: str | Path | Sequence[str | Path] | None = None,
        threshold: float | None = None,
        calibration: str | Path | Calibration | None = None,
        roi: str | Path | Roi | None = None,
        device: str | None = None,
        dtype: str = "float32",
        models_dir: str | Path | None = None,
        exported: str | Path | None = None,
        compiled: bool = False,
    ) -> AnomalySegmenter:
        """Load a preset's models and the sentences about `product`.

        `name` is a preset's name, or None for the best pair that is present on this machine; `prompts` a
        shipped prompt file's name or a path (the preset's own by default); `defects` adds defect types in
        words; `sam=False` leaves the coarse map as the result; `adapter` is a file of `clipsam train umci`
        whose map takes the place of the text map; `references` are photos of flawless parts, a folder of
        them, or a file of `save_references`; `threshold` in [0, 1] replaces the preset's pixel threshold;
        `calibration` (a file of `clipsam calibrate`) gives both thresholds and thereby `is_defective`; `roi`
        is a file that says where to look (see `clipsam/roi.py`); `device` is a torch device, the GPU where
        there is one by default; `dtype` is "float32" or "bfloat16"; `models_dir` a pack of weights;
        `exported` a folder of `clipsam export`, whose programs run the image towers on the CPU; `compiled`
        lets torch.compile make their blocks faster: a minute before the first photo, once on a machine, and
        seconds later; maps differ by rounding, and it takes a C++ compiler. Raises `UsageError`,
        `PromptError`, `WeightsError`, or `CalibrationError` where the calibration was made with another
        setup.
        """
        choice = chosen(name, models_dir, threshold, calibration)
        preset, ensemble = choice.preset, load_prompts(prompts or choice.preset.prompts)
        models = load_models(
            preset,
            ensemble,
            sam=sam,
            adapter=adapter,
            device=device,
            dtype=dtype,
            models_dir=models_dir,
            exported=exported,
            compiled=compiled,
        )
        segmenter = cls(
            preset,
            models.clip,
            models.sam,
            ensemble.with_defects(defects),
            product,
            adapter=models.adapter,
            text_map=models.text_map,
            roi=load_roi(roi, product, preset),
        )
        segmenter.choice, segmenter.programs = choice.reason, models.programs
        if compiled:
            segmenter.compile()
        if references:
            segmenter.memory = references_from(references).memory(models.clip, preset, segmenter.words)
        return segmenter if calibration is None else segmenter.calibrated(calibration)

    def compile(self) -> None:
        """Let torch compile what repeats in the image towers, for the present number of threads, from now on.

        Raises `UsageError` where it cannot, for want of a C++ compiler above all.
        """
        compile_towers(self.clip, self.sam, self.preset.heatmap)
        self.compiled = True

    def about(self, product: str) -> AnomalySegmenter:
        """The same warm models with sentences about another product, and nothing that belongs to this one:
        no memory, region of interest or calibration.
        """
        other = self.with_memory(None)
        other.roi = None
        other.product, other.targets = product, text_targets(self.clip, self.prompts.sentences(product))
        return other

    @torch.inference_mode()
    def segment(
        self,
        image: str | Path | Image | NDArray[np.uint8] | Photo,
        *,
        refine: Callable[[], bool] | None = None,
    ) -> Segmentation:
        """Find and outline what does not belong on the product: photo -> `Segmentation`.

        `refine` is asked once the coarse map is there whether there is time for the rest; if not, that map
        is the result, which then says `degraded`. Raises `PhotoError` where the photo cannot be read.
        """
        clock = Stopwatch()
        with clock.stage("decode"):
            photo = as_photo(image)
        with clock.stage("clip"):
            coarse = self._coarse_map(photo.pixels)
        inside = self.roi.of(photo) if self.roi else None
        if self.memory is not None:
            with clock.stage(self.memory.stage):
                coarse = self.memory.join(coarse, photo.pixels, inside)
        seen = only(coarse.anomaly, inside)
        degraded = self._refines and refine is not None and not refine()
        with clock.stage("regions"):
            asked = self.sam is not None and not degraded
            prompts = region_prompts(seen, self.preset.regions) if asked else ()
        with clock.stage("sam"):
            masks = self._masks(photo.pixels, prompts, seen)
        with clock.stage("fusion"):
            anomaly_map = seen
            if not degraded:
                fusion = self.preset.fusion
                sharp = sharpen(coarse.anomaly, photo.pixels, fusion)
                own = None if sharp is coarse.anomaly else sharp  # one map less in memory
                anomaly_map = only(fuse(sharp, masks, fusion, out=own), inside)
            mask, regions = find_regions(
                anomaly_map, coarse.types, coarse.defects, self.pixel_threshold, self.preset.fusion
            )
            score = coarse.others_score
            if score is None:
                score = photo_score(anomaly_map, seen, coarse.image_score, self.preset.fusion, inside)
        return Segmentation(
            path=photo.path,
            sha256=photo.sha256,
            score=score,
            anomaly_map=anomaly_map,
            coarse_map=seen,
            mask=mask,
            regions=regions,
            is_defective=self.calibration.is_defective(score) if self.calibration else None,
            timings=clock.seconds,
            degraded=degraded,
        )

    @property
    def _refines(self) -> bool:
        """Whether anything costly comes after the coarse map."""
        fusion = self.preset.fusion
        return self.sam is not None or fusion.edge_weight > 0 or fusion.edge_guide > 0

    @torch.inference_mode()
    def warm_up(self, image: str | Path | Image | NDArray[np.uint8] | Photo) -> dict[str, float]:
        """Run every stage on a photo of the size to come, SAM too, however quiet the photo is; gives the
        seconds of each stage when warm.
        """
        photo = as_photo(image)
        height, width = photo.pixels.shape[:2]
        spot = np.zeros((height, width), np.float32)
        spot[height // 3 : height - height // 3, width // 3 : width - width // 3] = 1
        for _ in range(2):  # the first time allocates
            seconds = dict(self.segment(photo).timings)
            clock = Stopwatch()
            with clock.stage("sam"):
                self._masks(photo.pixels, region_prompts(spot, self.preset.regions), spot)
        return seconds | {"sam": max(seconds["sam"], clock.seconds["sam"])}

    def stream(
        self,
        frames: Iterable[Any],
        *,
        deadline_ms: float | None = None,
        queue: int = 2,
        drop: bool | None = None,
        warm_up: bool = True,
    ) -> Stream:
        """Segment frames as they come, in order: an iterator of `Answer`s; `stats` has counts and times.

        `frames`: paths, PIL images, uint8 arrays, or a camera of `clipsam.sources`. With `deadline_ms`, from
        a frame's arrival to its answer, at most `queue` frames wait and the oldest is dropped and counted;
        where SAM would be too late, the coarse map is the answer, which says `degraded`. Without a deadline
        every frame is answered, unless the source is a camera, or `drop` says otherwise. Close it, or use it
        as a context manager, to end early. Raises what the source raises, after the frames before.
        """
        return Stream(self, frames, deadline_ms=deadline_ms, queue=queue, drop=drop, warm_up=warm_up)

    def _masks(
        self, pixels: NDArray[np.uint8], prompts: Sequence[RegionPrompt], coarse: NDArray[np.float32]
    ) -> Sequence[SoftMask]:
        if self.sam is None or not prompts:
            return ()
        return self.sam.refine(pixels, prompts, coarse, self.preset.sam_settings)

    def _coarse_map(self, pixels: NDArray[np.uint8]) -> CoarseMap:
        if self.text_map is not None:
            return self.text_map.coarse_map(pixels, self.targets.defects)
        scored = self.preset.fusion.score == "whole"
        trained = self.adapter.about(self.product) if self.adapter else None
        return coarse_map(
            pixels, self.clip, self.targets, self.preset.heatmap, scored=scored, trained=trained
        )

    @property
    def words(self) -> Words:
        """What the sentences alone say of photos: the map before other photos and SAM."""

        def text(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
            return self._coarse_map(pixels).anomaly

        return Words(text, words_hash(self))

    @property
    def pixel_threshold(self) -> float:
        """Pixels where the map is at or above this are flagged: the calibration's, or else the preset's."""
        if self.calibration is not None:
            return self.calibration.pixel_cut
        # Outside of the region of interest the map is 0, and no threshold may flag that.
        return max(self.preset.pixel_threshold, _LEAST) if self.roi else self.preset.pixel_threshold

    def segment_batch(
        self, images: Sequence[str | Path | Image | NDArray[np.uint8] | Photo], *, consensus: bool = False
    ) -> list[Segmentation]:
        """Segment several photos, in order. Raises `PhotoError` at the first that cannot be read.

        `consensus`: the photos are each other's reference, instead of those that the segmenter has.
        """
        if not consensus:
            return [self.segment(image) for image in images]
        from clipsam.consensus import Consensus

        settings = self.preset.consensus_settings
        chosen = draw(len(images), settings.photos or len(images), settings.seed).tolist()
        photos = (as_photo(images[index]).pixels for index in chosen)
        with_others = self.with_memory(
            Consensus.of(photos, self.clip, self.preset.layers, settings, self.words)
        )
        return [with_others.segment(image) for image in images]

    def with_memory(self, memory: ReferenceMemory | WindowReferences | Consensus | None) -> AnomalySegmenter:
        """The same models and product; photos are compared with this memory too, or with none.

        The calibration goes: it was made without this memory.
        """
        other = copy.copy(self)
        other.memory, other.calibration = memory, None
        return other

    def calibrated(self, calibration: str | Path | Calibration) -> AnomalySegmenter:
        """The same models with the thresholds of a calibration, given as such or as its file.

        Of a degraded answer the verdict keeps the promise where its score is that of the whole way (score
        "coarse" or "whole", or "max" without the photo's own relief), and the mask is not covered.
        Raises `CalibrationError` that says what differs where it was made with another setup.
        """
        if isinstance(calibration, (str, Path)):
            from clipsam.calibration_files import load_calibration

            calibration = load_calibration(calibration)
        calibration.check(self.manifest())
        other = copy.copy(self)
        other.calibration = calibration
        return other

    def manifest(self) -> dict[str, Any]:
        """Return all that decides a result, for `run.json`: versions, preset, weights, prompts, settings."""
        return manifest_of(self)
