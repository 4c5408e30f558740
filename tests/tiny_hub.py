"""Tiny models in the hub's own formats, a hub cache that holds them, and a hub that serves them over HTTP.

What is proven with them holds for the big weights: the same files, names and layouts, read by the same code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import torch
from safetensors.torch import save_file

from clipsam.presets import ClipSpec, SamSpec

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MEAN, STD = [0.41, 0.42, 0.43], [0.21, 0.22, 0.23]  # no library's default
TAG = {"mean": (0.31, 0.32, 0.33), "std": (0.11, 0.12, 0.13), "interpolation": "bicubic", "quick_gelu": True}

CLIP = ClipSpec(
    "tiny.openai", "MIT", repo="acme/tiny-clip", architecture="tiny-quickgelu", tag="openai", quick_gelu=True
)
SAM = SamSpec("tiny-sam", "Apache-2.0", repo="acme/tiny-sam")
SAM2 = SamSpec("tiny-sam2", "Apache-2.0", repo="acme/tiny-sam2")

ARCHITECTURE = {
    "embed_dim": 8,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
PROMPTS = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
DECODER = {
    "hidden_size": 16,
    "mlp_dim": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 16,
}


def register_tiny_clip(folder: Path) -> None:
    """Make `tiny-quickgelu` one of open_clip's built-in architectures, with the tag `openai`."""
    import open_clip
    from open_clip import pretrained

    (folder / "tiny-quickgelu.json").write_text(json.dumps(ARCHITECTURE))
    open_clip.add_model_config(folder / "tiny-quickgelu.json")
    pretrained._PRETRAINED["tiny-quickgelu"] = {"openai": TAG}


def clip_model():
    """The tiny CLIP itself, with the same weights every time."""
    import open_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_clip.CLIP(**json.loads(json.dumps(ARCHITECTURE)))


@cache
def clip_bytes() -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in clip_model().state_dict().items()})


def write_clip(folder: Path, config: Mapping | str | None = "default") -> Path:
    """An open_clip local-dir; `config` None leaves the config out, as open_clip's own downloads do."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_model.safetensors").write_bytes(clip_bytes())
    if config == "default":
        config = {"model_cfg": ARCHITECTURE, "preprocess_cfg": {"mean": MEAN, "std": STD}}
    if config is not None:
        (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder


@cache
def _sam_models():
    from transformers import Sam2VideoConfig, Sam2VideoModel, SamConfig, SamModel

    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 16,
        "mlp_dim": 32,
        "output_channels": 16,
        "global_attn_indexes": [0],
        "window_size": 2,
    }
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [64, 64],
        "blocks_per_stage": [1, 1, 1, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_positional_embedding_background_size": [2, 2],
        "global_attention_blocks": [],
    }
    vision2 = {
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 16,
    }
    memory = {
        "memory_attention_hidden_size": 16,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 16,
        "memory_attention_downsample_rate": 1,
        "memory_encoder_hidden_size": 16,
        "memory_encoder_output_channels": 16,
        "memory_fuser_embed_dim": 16,
        "memory_fuser_num_layers": 1,
        "mask_downsampler_embed_dim": 16,
        "image_size": 64,
    }
    parts = {"prompt_encoder_config": PROMPTS, "mask_decoder_config": DECODER}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sam = SamModel(SamConfig(vision_config=vision, **parts))
        video = Sam2VideoModel(Sam2VideoConfig(vision_config=vision2, **parts, **memory))
    return sam, video


def write_sam(folder: Path, **save_options) -> Path:
    """A SAM as `save_pretrained` of transformers 5 writes it."""
    from transformers import SamImageProcessor, SamProcessor

    _sam_models()[0].save_pretrained(folder, **save_options)
    size = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    SamProcessor(size).save_pretrained(folder)
    return folder


def write_sam2(folder: Path) -> Path:
    """A SAM 2.1 as published: a video model, with a processor in transformers 4's two files."""
    from transformers import Sam2ImageProcessor

    _sam_models()[1].save_pretrained(folder)
    Sam2ImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    note = {"point_pad_value": -10, "processor_class": "Sam2VideoProcessor", "target_size": 64}
    (folder / "processor_config.json").write_text(json.dumps(note))
    return folder


def drop_tensor(weights: Path, name: str) -> None:
    """Write a safetensors file again without one of its tensors."""
    from safetensors.torch import load_file

    tensors = load_file(weights)
    del tensors[name]
    save_file(tensors, weights, metadata={"format": "pt"})


def put_into_cache(cache_dir: Path, repo: str, folder: Path) -> Path:
    """Lay a model's folder into a hub cache: blobs by hash, a snapshot of links to them, `refs/main`."""
    root = cache_dir / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for made in (root / "blobs", root / "refs", snapshot):
        made.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(COMMIT)
    for path in folder.iterdir():
        blob = root / "blobs" / _etag(path)
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def _etag(path: Path) -> str:
    """As on the hub: SHA-256 of large files, git's SHA-1 of small ones."""
    content = path.read_bytes()
    if path.suffix in {".safetensors", ".bin"}:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@contextmanager
def serve_hub(repos: Mapping[str, Path]) -> Iterator[str]:
    """The part of the hub's HTTP interface that a download uses; yields the endpoint.

    Besides `repos`: `acme/gated` is gated, `acme/silent` hangs up, `acme/forged` declares wrong hashes.
    """

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, code: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
            self.send_response(code)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            path = unquote(urlsplit(self.path).path).strip("/")
            if "acme/silent" in path:
                self.close_connection = True
                return None
            if "acme/gated" in path:
                return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
            repo = next((name for name in repos if name in path), None)
            if repo is None:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "no such"})
            files = sorted(repos[repo].iterdir())
            forged = "acme/forged" in path
            if path.startswith("api/") and "/tree/" in path:
                return self.json([self.entry(file, "path", forged) for file in files])
            if path.startswith("api/"):
                siblings = [self.entry(file, "rfilename", forged) for file in files]
                return self.json({"id": repo, "sha": COMMIT, "siblings": siblings})
            file = repos[repo] / path.rsplit("/", 1)[1]
            if not file.is_file():
                return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            headers = {
                "ETag": f'"{_etag(file)}"',
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(file.stat().st_size),
            }
            return self.answer(200, file.read_bytes(), headers)

        do_HEAD = do_GET

        def entry(self, file: Path, key: str, forged: bool) -> dict:
            entry = {key: file.name, "type": "file", "size": file.stat().st_size, "oid": _etag(file)}
            entry["blobId"] = entry["oid"]
            if file.suffix in {".safetensors", ".bin"}:
                sha256 = "0" * 64 if forged else _etag(file)
                lfs = {"size": entry["size"], "pointerSize": 134}
                entry["lfs"] = {**lfs, "oid": sha256, "sha256": sha256}
            return entry

        def json(self, content: object) -> None:
            self.answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
