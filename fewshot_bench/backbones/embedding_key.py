"""Everything that decides an embedding, as the key under which it is kept."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import torch
from torch import nn

from fewshot_bench.backbones.backbone import Backbone
from fewshot_bench.code_identity import source_digest
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.versions import installed_version

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
