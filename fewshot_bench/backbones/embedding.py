"""Embed every image of a split once, and cache the result under a key of everything that decides it."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewshot_bench._io.locations import cache_folder
from fewshot_bench._io.tensors import DamagedFileError, read_tensors, write_tensors
from fewshot_bench._io.versions import installed_version
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.backbones.backbone import Backbone, checked_embeddings
from fewshot_bench.backbones.embedding_tuner import BLOCK, EmbeddingTuner, Forward, default_batch_size, is_never_tuned
from fewshot_bench.cache import EMBEDDINGS, build_once
from fewshot_bench.code_identity import source_digest
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.devices import chosen_device, float32_settings
from fewshot_bench.errors import EmbeddingError
from fewshot_bench.plugins import plugin_errors
from fewshot_bench.progress import SILENT, Progress

EMBEDDING_VERSION = 2
_PACKAGES = ("torch", "torchvision", "timm")


def embedding_key(split: ImageSplit, backbone: Backbone, augmentation_name: str, device: str) -> str:
    """The digest of everything that decides the embeddings of a split, 64 hexadecimal digits.

    Batch size, device and threads are left out: they change the last bits at most.

    Args:
        split: the images.
        backbone: network and preprocessing.
        augmentation_name: identifies the augmentation and its seed; empty for the plain images.
        device: a torch device.
    """
    content: dict[str, Any] = {
        "version": EMBEDDING_VERSION,
        "split": split.fingerprint,
        "backbone": backbone.name,
        "weights": backbone.weights,
        "embedding_size": backbone.embedding_size,
        "network": network_identity(backbone.network),
        "preprocessing": [type(backbone.preprocessing).__qualname__, backbone.preprocessing.as_dict()],
        "augmentation": augmentation_name,
        "dtype": "float32",
        "precision": float32_settings(torch.device(device)),
        "packages": {package: installed_version(package) for package in _PACKAGES},
    }
    if backbone.code is not None:
        content["code"] = backbone.code.as_record()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def network_identity(network: nn.Module) -> dict[str, str]:
    """What a network does with its weights: its printed layers, and the source of its own classes.

    Two networks may hold the same tensors and differ in an activation, a stride or a padding. Classes of torch, timm
    and this package have versions; of all others the source counts.
    """
    layers = re.sub(r" at 0x[0-9a-f]+", "", str(network))  # a function prints its address
    classes = {type(module) for module in network.modules()}
    names = sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in classes)
    identity = {"layers": hashlib.sha256("\n".join([layers, *names]).encode()).hexdigest()}
    for module in sorted({kind.__module__ for kind in classes}):
        if module.partition(".")[0] not in (*_PACKAGES, "fewshot_bench"):
            identity[module] = source_digest(module)
    return identity


_NAME = "embeddings"
_COMPARED = 2
_ROUNDING = 0.01
_AUGMENTED_VALUES = 1 << 23
Augment = Callable[[Tensor, slice], Tensor]
"""uint8 images [B, C, H, W] and their places in the split -> uint8 [B, C, H, W]."""


@checked_arguments
def embed(
    split: ImageSplit,
    backbone: Backbone,
    *,
    device: str | torch.device = "cpu",
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
        batch_size: images at once; by default what suits the input size. Where the result is cached and takes long, a
            short trial may choose another and compile the network, see `embedding_tuner`; both change the last bits at
            most.
        augment: makes an augmented view of the uint8 images, on the device. It gets their places in the split, so that
            views do not depend on the batch.
        augmentation_name: identifies the augmentation and its seed in the cache; without a name nothing is cached.
        use_cache: whether to look up and store the result under its content key. Of several processes that need the
            same, one computes and the others wait.
        progress: shown one unit per image.

    Returns:
        float32 [I, D]; from the cache it is memory-mapped, and writing to it does not change the file.

    Raises:
        EmbeddingError: an embedding is not finite, or does not have D numbers.
        CacheError: the size limit of the cache cannot be read.
        StudyError: the device is not here.

    >>> import torch
    >>> import fewshot_bench as fb
    >>> from fewshot_bench.backbones import Preprocessing
    >>> network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())
    >>> scaling = Preprocessing(28, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> pooled = fb.Backbone("pooled", network, scaling, embedding_size=48, is_pretrained=False)
    >>> fb.embed(fb.open_dataset("glyphs").novel, pooled, use_cache=False).shape
    (1200, 48)
    """
    device = chosen_device(str(device))
    if not use_cache or (augment is not None and not augmentation_name):
        return _Embedding(split, backbone, device, batch_size, augment).compute(progress)
    is_tuned = batch_size is None and not is_never_tuned(len(split))
    embedding = _Embedding(split, backbone, device, batch_size, augment, is_tuned)
    facts = _facts(split, backbone, augmentation_name)
    return build_once(
        embeddings_file(split, backbone, augmentation_name, device),
        facts["what"],
        read=embedding.read,
        build=lambda: embedding.compute(progress),
        write=lambda path, embeddings: write_tensors(path, {_NAME: torch.from_numpy(embeddings)}, facts),
        progress=progress,
    )


def embeddings_file(split: ImageSplit, backbone: Backbone, augmentation_name: str, device: str) -> Path:
    """The cache file of the embeddings of a split, whether it exists or not; arguments as for `embed`."""
    return cache_folder() / EMBEDDINGS / f"{embedding_key(split, backbone, augmentation_name, device)}.safetensors"


def _facts(split: ImageSplit, backbone: Backbone, augmentation_name: str) -> dict[str, str]:
    """Metadata of embeddings, for listings of the cache."""
    view = f", {augmentation_name}" if augmentation_name else ""
    return {
        "what": f"embeddings of {split.dataset} {split.name} by {backbone.name} {backbone.weights[:8]}{view}",
        "dataset": split.dataset,
        "split": split.name,
        "images": str(len(split)),
        "backbone": backbone.name,
        "weights": backbone.weights,
        "view": augmentation_name or "plain",
    }


@dataclass(frozen=True)
class _Embedding:
    """The embedding of a split by a backbone."""

    split: ImageSplit
    backbone: Backbone
    device: str
    batch_size: int | None
    augment: Augment | None
    is_tuned: bool = False  # only where the result is cached: the next time it may round otherwise

    def compute(self, progress: Progress) -> NDArray[np.float32]:
        split = self.split
        embeddings = np.empty((len(split), self.backbone.embedding_size), dtype=np.float32)
        with progress.step(f"embedding {split.dataset} {split.name}", len(split)) as step:
            done = 0
            for batch in self._batches(len(split), progress if self.is_tuned else None):
                embeddings[done : done + len(batch)] = batch
                done += len(batch)
                step.advance(len(batch))
        check_embeddings(embeddings, split, self.backbone.name)
        return embeddings

    def read(self, path: Path) -> NDArray[np.float32] | None:
        """Cached embeddings; None if the file is damaged or the network now gives others."""
        try:
            tensor = read_tensors(path)[0][_NAME]
        except (DamagedFileError, KeyError):
            return None
        if tensor.dtype != torch.float32 or tensor.shape != (len(self.split), self.backbone.embedding_size):
            return None
        cached: NDArray[np.float32] = tensor.numpy()
        return cached if self._still_gives(cached[:_COMPARED]) else None

    def _still_gives(self, cached: NDArray[np.float32]) -> bool:
        """Whether the network gives the same embeddings of a few images, up to rounding.

        This finds what the key cannot hold: code that a network calls, an attribute, an unsaved buffer, or weights
        changed after their digest was taken.
        """
        now = np.concatenate(list(self._batches(len(cached))))
        return bool(np.linalg.norm(now - cached) <= _ROUNDING * np.linalg.norm(now))

    @torch.inference_mode()
    def _batches(self, images: int, progress: Progress | None = None) -> Iterator[NDArray[np.float32]]:
        """Embeddings of the first images, a batch at a time, in float32 even inside of autocast.

        With a progress, batch size and forward pass are tuned while many images are left.
        """
        network, split, augment = self.backbone.network, self.split, self.augment
        # Channels last is faster for depthwise networks on a CPU, and for all on a GPU.
        network.to(self.device).to(memory_format=torch.channels_last).eval()
        size = self.backbone.preprocessing.image_size
        batch_size = self.batch_size or default_batch_size(size, self.device)
        forward: Forward = network
        tuner: EmbeddingTuner | None = None
        if progress is not None:
            tuner = EmbeddingTuner(network, size, self.device, self._of_batch, network_identity(network), progress)
        at_once = BLOCK if augment is None else max(BLOCK, _AUGMENTED_VALUES // split.images[0].size)
        done = 0
        while done < images:
            rows = slice(done, min(done + at_once, images))
            block = torch.from_numpy(np.array(split.images[rows])).permute(0, 3, 1, 2)
            if augment is not None:
                block = augment(block.to(self.device), rows)
            began = time.perf_counter()
            for first in range(0, len(block), batch_size):
                yield self._of_batch(block[first : first + batch_size], forward)
            done = rows.stop
            if tuner is not None and done < images:
                tuner.tune(block, images - done, time.perf_counter() - began)
                batch_size, forward = tuner.batch_size, tuner.forward
                at_once = max(at_once, batch_size)

    def _of_batch(self, images: Tensor, forward: Forward) -> NDArray[np.float32]:
        with torch.autocast(torch.device(self.device).type, enabled=False):
            pixels = self.backbone.preprocessing(images.to(self.device)).contiguous(memory_format=torch.channels_last)
            network = self.backbone.network
            with plugin_errors(network, "forward"):
                output = forward(pixels)
            checked = checked_embeddings(output, network, len(images), self.backbone.embedding_size)
            embeddings: NDArray[np.float32] = checked.float().cpu().numpy()
        return embeddings


def check_embeddings(embeddings: NDArray[np.float32], split: ImageSplit, backbone: str) -> None:
    """Raise EmbeddingError if the rows are not those of the split, or a value is not finite."""
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
