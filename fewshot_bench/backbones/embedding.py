"""Embed every image of a split once, and keep the result under a key of everything that went in.

Everything that decides an embedding, as the key under which it is kept.
"""

from __future__ import annotations

import hashlib
import json
import re
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
from fewshot_bench.backbones.backbone import Backbone, checked_embeddings
from fewshot_bench.cache import EMBEDDINGS, made_once
from fewshot_bench.code_identity import source_digest
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.errors import EmbeddingError
from fewshot_bench.plugins import plugin_errors
from fewshot_bench.progress import SILENT, Progress

EMBEDDING_VERSION = 2
_PACKAGES = ("torch", "torchvision", "timm")


def embedding_key(split: ImageSplit, backbone: Backbone, augmentation_name: str, device: str) -> str:
    """The digest of what goes into the embeddings of a split, 64 hexadecimal digits.

    The number of images at once, the device and its threads are left out: they change the last bits at most.

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
        "precision": _precision(device),
        "packages": {package: installed_version(package) for package in _PACKAGES},
    }
    if backbone.code is not None:
        content["code"] = backbone.code.as_record()
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def network_identity(network: nn.Module) -> dict[str, str]:
    """What a network does with its weights, as far as its text tells: its layers, and the files of its own classes.

    Two networks may hold the same tensors and differ in an activation, a stride or a padding. Classes of torch, timm
    and this package have versions; of all others, which may be a file that somebody is working on, the source counts.
    """
    layers = re.sub(r" at 0x[0-9a-f]+", "", str(network))  # a function prints its address
    classes = {type(module) for module in network.modules()}
    names = sorted(f"{kind.__module__}.{kind.__qualname__}" for kind in classes)
    identity = {"layers": hashlib.sha256("\n".join([layers, *names]).encode()).hexdigest()}
    for module in sorted({kind.__module__ for kind in classes}):
        if module.partition(".")[0] not in (*_PACKAGES, "fewshot_bench"):
            identity[module] = source_digest(module)
    return identity


def _precision(device: str) -> list[str]:
    """In how many bits products of float32 numbers are made: TF32 and bfloat16 change the third digit."""
    is_cuda = torch.device(device).type == "cuda"
    told: list[Any] = [torch.get_float32_matmul_precision()]
    try:
        library = torch.backends.cudnn if is_cuda else torch.backends.mkldnn
        told += [library.conv.fp32_precision, (torch.backends.cuda if is_cuda else library).matmul.fp32_precision]
    except AttributeError:  # before torch 2.9
        told += [torch.backends.cudnn.allow_tf32] if is_cuda else []
    return [str(setting) for setting in told]


_NAME = "embeddings"
_ASKED_AGAIN = 2
_ROUNDING = 0.01
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
        augmentation_name: identifies the augmentation and its seed in the cache; one without a name is not cached.
        use_cache: whether to look the result up, and store it, under its content key. Of several processes that
            want the same, one computes and the others wait.
        progress: shown one unit per image.

    Returns:
        float32 [I, D]; from the cache it is mapped into memory, and to write to it never changes the file.

    Raises:
        EmbeddingError: an embedding is not finite, or none of D numbers.
        CacheError: the bound of the cache cannot be read.
    """
    use = _Use(split, backbone, device, batch_size, augment)

    if not use_cache or (augment is not None and not augmentation_name):
        return use.computed(progress)
    facts = _facts(split, backbone, augmentation_name)
    return made_once(
        embeddings_file(split, backbone, augmentation_name, device),
        facts["what"],
        read=use.read,
        make=lambda: use.computed(progress),
        write=lambda path, embeddings: write_tensors(path, {_NAME: torch.from_numpy(embeddings)}, facts),
        progress=progress,
    )


def embeddings_file(split: ImageSplit, backbone: Backbone, augmentation_name: str, device: str) -> Path:
    """Where `embed` keeps the embeddings of a split, whether they are there or not; see there for the arguments."""
    return cache_folder() / EMBEDDINGS / f"{embedding_key(split, backbone, augmentation_name, device)}.safetensors"


def _facts(split: ImageSplit, backbone: Backbone, augmentation_name: str) -> dict[str, str]:
    """What embeddings are, for the person who lists the cache."""
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
class _Use:
    """A network asked about the images of a split."""

    split: ImageSplit
    backbone: Backbone
    device: str
    batch_size: int | None
    augment: Augment | None

    def computed(self, progress: Progress) -> NDArray[np.float32]:
        split = self.split
        embeddings = np.empty((len(split), self.backbone.embedding_size), dtype=np.float32)
        with progress.step(f"embedding {split.dataset} {split.name}", len(split)) as step:
            done = 0
            for batch in self._batches(len(split)):
                embeddings[done : done + len(batch)] = batch
                done += len(batch)
                step.advance(len(batch))
        check_embeddings(embeddings, split, self.backbone.name)
        return embeddings

    def read(self, path: Path) -> NDArray[np.float32] | None:
        """Cached embeddings; None where the file is damaged, or the network no longer gives what it holds."""
        try:
            tensor = read_tensors(path)[0][_NAME]
        except (DamagedFileError, KeyError):
            return None
        if tensor.dtype != torch.float32 or tensor.shape != (len(self.split), self.backbone.embedding_size):
            return None
        cached: NDArray[np.float32] = tensor.numpy()
        return cached if self._still_gives(cached[:_ASKED_AGAIN]) else None

    def _still_gives(self, cached: NDArray[np.float32]) -> bool:
        """Whether the network, asked again about a few images, says the same but for rounding.

        The key holds what can be named; this finds what cannot: code that a network calls, an attribute, a buffer that
        is not saved, weights that were changed after their digest was taken.
        """
        now = np.concatenate(list(self._batches(len(cached))))
        return bool(np.linalg.norm(now - cached) <= _ROUNDING * np.linalg.norm(now))

    @torch.inference_mode()
    def _batches(self, images: int) -> Iterator[NDArray[np.float32]]:
        """Embeddings of the first images, some at a time, in float32 whatever autocast the caller is in."""
        network, split, augment = self.backbone.network, self.split, self.augment
        # The layout changes speed only: channels last is faster for the depthwise networks on a CPU, all on a GPU.
        network.to(self.device).to(memory_format=torch.channels_last).eval()
        batch_size = self.batch_size or _batch_size(self.backbone.preprocessing.image_size, self.device)
        at_once = _BLOCK if augment is None else max(_BLOCK, _AUGMENTED_VALUES // split.images[0].size)
        for start in range(0, images, at_once):
            some = slice(start, min(start + at_once, images))
            block = torch.from_numpy(np.array(split.images[some])).permute(0, 3, 1, 2)
            if augment is not None:
                block = augment(block.to(self.device), some)
            for first in range(0, len(block), batch_size):
                yield self._of_batch(block[first : first + batch_size])

    def _of_batch(self, images: Tensor) -> NDArray[np.float32]:
        with torch.autocast(torch.device(self.device).type, enabled=False):
            pixels = self.backbone.preprocessing(images.to(self.device)).contiguous(memory_format=torch.channels_last)
            network = self.backbone.network
            with plugin_errors(network, "forward"):
                given = network(pixels)
            checked = checked_embeddings(given, network, len(images), self.backbone.embedding_size)
            embeddings: NDArray[np.float32] = checked.float().cpu().numpy()
        return embeddings


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
