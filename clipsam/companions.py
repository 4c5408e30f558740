"""Companions: the other photos that a photo is compared with, and how a user names them.

Input: a folder, files or a number of photos of a dataset's training split; or the batch itself. Output:
`Companions`, small enough to be sent to another process, which read the photos when a model is at hand.
Knows nothing of features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clipsam.errors import PhotoError, UsageError
from clipsam.finding import find_photos
from clipsam.hashes import files_sha256
from clipsam.images import read_photo

if TYPE_CHECKING:
    from clipsam.clip import ClipEncoder
    from clipsam.consensus import Consensus
    from clipsam.datasets import Category
    from clipsam.presets import Preset
    from clipsam.references import ReferenceMemory, Words
    from clipsam.window_references import WindowReferences

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]
KEPT = ".safetensors"
MOST = 1000  # reference photos; more would take hours and add nothing


@dataclass(frozen=True)
class Companions:
    """Photos to compare with: flawless `references` (or one file that keeps them), or the batch itself."""

    kind: str  # "references" or "consensus"
    paths: tuple[Path, ...]

    def memory(
        self, encoder: ClipEncoder, preset: Preset, words: Words | None, change: Change | None = None
    ) -> ReferenceMemory | WindowReferences | Consensus:
        """Read them and make the memory; `words` say of them what the text says, where settings ask for it;
        `change` is done to every photo of a batch first.

        Raises `UsageError` where no photo can be read, `WeightsError` for a file of another model.
        """
        if self.kind == "consensus":
            from clipsam.consensus import Consensus

            seen = (change(pixels) if change else pixels for pixels in _readable(self.paths))
            return Consensus.of(seen, encoder, preset.layers, preset.consensus_settings, words)
        from clipsam.reference_files import load_references
        from clipsam.references import ReferenceMemory
        from clipsam.window_references import WindowReferences

        if self.paths[0].suffix == KEPT:
            return load_references(self.paths[0], encoder, preset.layers, preset.reference_settings, words)
        photos = [read_photo(path).pixels for path in self.paths]
        if preset.heatmap.attention == "windows":
            return WindowReferences.build(photos, encoder, preset.heatmap)
        return ReferenceMemory.build(photos, encoder, preset.layers, preset.reference_settings, words)

    def describe(self, preset: Preset) -> dict[str, Any]:
        """What decides the memory, read from the files alone."""
        settings = preset.reference_settings if self.kind == "references" else preset.consensus_settings
        facts = {"files": len(self.paths), "hash": files_sha256(self.paths)}
        return {self.kind: {**facts, **asdict(settings), "layers": asdict(preset.layers)}}


def references_from(given: str | Path | Sequence[str | Path]) -> Companions:
    """A folder, a kept memory (.safetensors), or some photos. Raises `UsageError` where there are none."""
    inputs = [given] if isinstance(given, str | Path) else list(given)
    if len(inputs) == 1 and Path(inputs[0]).suffix == KEPT:
        if not Path(inputs[0]).is_file():
            raise UsageError(f"there is no {inputs[0]}; expected a file that --save-references wrote")
        return Companions("references", (Path(inputs[0]),))
    photos = tuple(path for path in find_photos(inputs).photos if path.exists())
    if not photos:
        names = ", ".join(map(str, inputs))
        raise UsageError(f"{names}: no reference photos; expected a folder with photos of flawless parts")
    if len(photos) > MOST:
        raise UsageError(f"{len(photos)} reference photos are too many; choose up to {MOST}, 100 do well")
    return Companions("references", photos)


def references_of(category: Category, given: str) -> Companions:
    """References of one category: a number of its good training photos, spread evenly over their names, or a
    folder that holds photos, or a folder of that name that does.
    """
    if not given.isdecimal():
        own = Path(given) / category.name
        return references_from(own if own.is_dir() else given)
    count, found = int(given), len(category.train)
    if not 0 < count <= found:
        raise UsageError(
            f"{category.name} has {found} good training photos, but {count} references are asked for; "
            f"ask for 1 to {found}, or name a folder with photos of flawless parts"
        )
    places = np.linspace(0, found - 1, count).round().astype(int) if count > 1 else [found // 2]
    return Companions("references", tuple(category.train[place] for place in places))


def batch(paths: Sequence[Path], preset: Preset) -> Companions:
    """The photos of a batch that get a vote on the others."""
    from clipsam.memory import draw

    settings = preset.consensus_settings
    count = settings.photos or len(paths)
    chosen = draw(len(paths), count, settings.seed).tolist()
    return Companions("consensus", tuple(paths[index] for index in chosen))


def _readable(paths: Sequence[Path]) -> Iterator[Pixels]:
    """Photos of a batch; one that cannot be read has no vote, and is told of when its turn comes."""
    for path in paths:
        try:
            yield read_photo(path).pixels
        except PhotoError:
            continue
