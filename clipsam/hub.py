"""The Hugging Face hub: its local cache, and the one place where clipsam touches the network.

Input: a repository's name. Output: folders. `cached_folder` only looks; `download` fetches, and every failure
of it is one sentence. `HF_HUB_OFFLINE`, `HF_HOME`, `HF_HUB_CACHE` and proxies are honoured. Knows nothing of
what the files hold.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipsam.errors import WeightsError
from clipsam.hashes import file_sha256

CHOOSE = Callable[[Sequence[str]], Sequence[str]]


def cache_dir() -> Path:
    """The hub cache of this user."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def offline() -> bool:
    """Whether the user forbade the network with HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE)."""
    from huggingface_hub import constants

    # The library reads the variables once, at import; a notebook may set them later.
    now = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return bool(constants.HF_HUB_OFFLINE) or now.upper() in {"1", "ON", "YES", "TRUE"}


def cached_folder(repo: str, revision: str, files: Sequence[str]) -> Path | None:
    """The snapshot in the hub cache that holds any of `files`, or None. Looks only, never fetches."""
    from huggingface_hub import try_to_load_from_cache

    for file in files:
        path = try_to_load_from_cache(repo, file, cache_dir=cache_dir(), revision=revision)
        if isinstance(path, str):
            return Path(path).parent
    return None


def declared_sha256(path: Path) -> str | None:
    """The SHA-256 that the hub declared for a cached file: large files are kept as `blobs/<sha256>`."""
    blob = path.resolve()
    is_blob = blob.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", blob.name)
    return blob.name if is_blob else None


def download(repo: str, revision: str, choose: CHOOSE, folder: Path | None = None) -> tuple[Path, str]:
    """Fetch files of a repository into the hub cache, or into `folder`; what is there is not fetched again.

    `choose` picks from the names of all files. Returns the folder and the commit. `WeightsError`: the network
    is forbidden or fails, access is refused, the disk is full, or a file is not what the hub says it is.
    """
    if offline():
        raise WeightsError(
            f"{repo} cannot be fetched because HF_HUB_OFFLINE is set; unset it, or bring a pack that "
            "`clipsam models pull PRESET --to DIR` made on a machine with internet"
        )
    try:
        return _download(repo, revision, choose, folder)
    except WeightsError:
        raise
    except Exception as error:  # the hub's client raises its own, its HTTP library's and the system's errors
        raise WeightsError(_why(repo, revision, error)) from error


def _download(repo: str, revision: str, choose: CHOOSE, folder: Path | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    wanted = list(choose(list(siblings)))
    target: dict[str, Any] = {"local_dir": folder} if folder else {"cache_dir": cache_dir()}
    # The branch is asked for, not the commit, so that the cache gets the `refs/main` that finds it offline.
    got = Path(snapshot_download(repo, revision=revision, allow_patterns=wanted, **target))
    for name in wanted:
        lfs = siblings[name].lfs
        if not (got / name).is_file():
            raise WeightsError(f"{repo}: {name} did not arrive; run the same command again")
        if lfs is not None and file_sha256(got / name) != lfs.sha256:
            raise WeightsError(f"{got / name} is not what the hub declares; delete it and pull again")
    return got, str(info.sha or revision)


def _why(repo: str, revision: str, error: Exception) -> str:
    """One sentence for a failed download: what happened and what mends it."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its terms on the hub with your account, then run `hf auth login`"
    if isinstance(error, (errors.RepositoryNotFoundError, errors.RevisionNotFoundError)):
        return f"the hub shows no {repo} at revision {revision!r}: gone, or private (try `hf auth login`)"
    if isinstance(error, errors.HfHubHTTPError):
        return f"the hub refused to give {repo} ({_first_line(error)}); try again later"
    if isinstance(error, OSError) and error.filename:
        return f"{repo} could not be written to disk: {error.strerror} ({error.filename})"
    return (
        f"{repo} could not be fetched ({type(error).__name__}: {_first_line(error)}): no connection to the "
        "hub; check the network and HTTPS_PROXY, or bring a pack made elsewhere by "
        "`clipsam models pull PRESET --to DIR`"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or "no details").splitlines()[0]
