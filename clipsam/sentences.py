"""Embeddings of sentences on disk, one safetensors file per list of sentences and set of weights.

Input and output: the sentences and their embeddings [n, d]. The cache is a convenience: a folder that cannot
be read or written, or a damaged file, costs time and nothing else. Knows nothing of the text tower that made
the embeddings.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

_log = logging.getLogger(__name__)


class SentenceCache:
    """A folder of embeddings by (hash of the weights, SHA-256 of the sentences in their order)."""

    def __init__(self, folder: Path, weights_hash: str) -> None:
        self.folder = folder / "sentences"
        self.weights_hash = weights_hash

    def load(self, sentences: Sequence[str]) -> Tensor | None:
        """The stored embeddings [n, d], or None where there are none that fit."""
        path, key = self._locate(sentences)
        try:
            with safe_open(path, framework="pt") as file:
                if (file.metadata() or {}).get("key") != key:
                    return None
                embeddings = file.get_tensor("embeddings")
        except (OSError, SafetensorError):
            return None
        return embeddings if len(embeddings) == len(sentences) else None

    def save(self, sentences: Sequence[str], embeddings: Tensor) -> None:
        """Store embeddings [n, d]; readers see the whole file or none."""
        path, key = self._locate(sentences)
        part = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
            os.close(handle)
            save_file({"embeddings": embeddings.contiguous()}, part, metadata={"key": key})
            os.replace(part, path)
        except (OSError, SafetensorError) as error:
            _log.info("sentence embeddings are not kept in %s: %s", path.parent, error)
            if part:
                Path(part).unlink(missing_ok=True)

    def _locate(self, sentences: Sequence[str]) -> tuple[Path, str]:
        key = f"{self.weights_hash}/{hashlib.sha256(json.dumps(list(sentences)).encode()).hexdigest()}"
        return self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.safetensors", key
