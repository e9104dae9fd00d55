"""Embed every image of a split once, and keep the result under a key of everything that went in."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.atomic import write_atomically
from fewshot_bench.backbones.backbone import Backbone
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import EmbeddingError
from fewshot_bench.paths import cache_folder
from fewshot_bench.progress import SILENT, Progress

EMBEDDING_VERSION = 1
_BLOCK = 256
_AUGMENTED_VALUES = 1 << 23
Augment = Callable[[Tensor, slice], Tensor]
"""uint8 [B, C, H, W] and which images of the split they are -> uint8 [B, C, H, W]."""


def embed(
    split: ImageSplit,
    backbone: Backbone,
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    augment: Augment | None = None,
    augmentation_name: str = "",
    use_cache: bool = True,
    progress: Progress = SILENT,
) -> NDArray[np.float32]:
    """Embeddings of all images of a split, in canonical order.

    Args:
        split: the images.
        backbone: network and preprocessing.
        device: a torch device.
        batch_size: images at once; by default what suits the input size.
        augment: applied to the uint8 images first, on the device, for an augmented view. It is told which images it
            gets, so that a view need not depend on how many come at once.
        augmentation_name: identifies the augmentation and its seed in the cache.
        use_cache: whether to look the result up, and store it, under its content key.
        progress: shown one unit per image.

    Returns:
        float32 [I, D].

    Raises:
        EmbeddingError: an embedding is not finite.
    """
    path = cache_folder() / "embeddings" / f"{_content_key(split, backbone, augmentation_name)}.npy"
    if use_cache and path.is_file():
        cached = _read(path, len(split), backbone.embedding_size)
        if cached is not None:
            return cached
    batch_size = batch_size or _batch_size(backbone.preprocessing.image_size, device)
    embeddings = np.empty((len(split), backbone.embedding_size), dtype=np.float32)
    with progress.step(f"embedding {split.dataset} {split.name}", len(split)) as step, torch.inference_mode():
        done = 0
        for batch in _embedded_batches(split, backbone, device, batch_size, augment):
            embeddings[done : done + len(batch)] = batch
            done += len(batch)
            step.advance(len(batch))
    check_embeddings(embeddings, split, backbone.name)
    if use_cache:
        _write(path, embeddings)
    return embeddings


def _embedded_batches(
    split: ImageSplit, backbone: Backbone, device: str, batch_size: int, augment: Augment | None
) -> Iterator[NDArray[np.float32]]:
    # The layout changes speed only: channels last is faster for the depthwise networks on a CPU and for all on a GPU.
    network = backbone.network.to(device).to(memory_format=torch.channels_last).eval()
    at_once = _BLOCK if augment is None else max(_BLOCK, _AUGMENTED_VALUES // split.images[0].size)
    for start in range(0, len(split), at_once):
        some = slice(start, min(start + at_once, len(split)))
        block = torch.from_numpy(np.array(split.images[some])).permute(0, 3, 1, 2)
        if augment is not None:
            block = augment(block.to(device), some)
        for first in range(0, len(block), batch_size):
            images = block[first : first + batch_size]
            pixels = backbone.preprocessing(images.to(device)).contiguous(memory_format=torch.channels_last)
            yield network(pixels).float().cpu().numpy()


def _batch_size(image_size: int, device: str) -> int:
    """Images at once: a GPU wants many; on a CPU activations should stay where its allocator reuses them."""
    if device == "cpu":
        return max(8, min(_BLOCK, (1 << 19) // image_size**2))
    return _BLOCK


def check_embeddings(embeddings: NDArray[np.float32], split: ImageSplit, backbone: str) -> None:
    """Refuse embeddings that cannot be those of a split.

    Raises:
        EmbeddingError: the number of rows differs, or a value is not finite.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(split):
        raise EmbeddingError(
            f"embeddings of {backbone} are {list(embeddings.shape)}; the {split.name} split of {split.dataset} "
            f"needs [{len(split)}, D]."
        )
    finite = np.isfinite(embeddings).all(axis=1)
    if not finite.all():
        first = int(np.argmin(finite))
        raise EmbeddingError(
            f"{backbone} gave NaN or infinite embeddings for {int((~finite).sum())} images of the {split.name} split "
            f"of {split.dataset}, first {split.image_id(first)}. Check the weights and the input size."
        )


def _content_key(split: ImageSplit, backbone: Backbone, augmentation_name: str) -> str:
    content = {
        "version": EMBEDDING_VERSION,
        "split": split.fingerprint,
        "weights": backbone.weights,
        "network": type(backbone.network).__qualname__,
        "preprocessing": backbone.preprocessing.as_dict(),
        "augmentation": augmentation_name,
        "dtype": "float32",
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(path: Path, images: int, embedding_size: int) -> NDArray[np.float32] | None:
    """A cached array, or None where the file is damaged: then it is made again."""
    try:
        cached: NDArray[np.float32] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return cached if cached.shape == (images, embedding_size) and np.isfinite(cached).all() else None


def _write(path: Path, embeddings: NDArray[np.float32]) -> None:
    content = io.BytesIO()
    np.save(content, embeddings, allow_pickle=False)
    write_atomically(path, content.getvalue())
