"""CIFAR-100 as torchvision downloads it, checked by torchvision against the published md5 before it is read."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fewshot_bench.datasets.cifar import CifarClasses
from fewshot_bench.errors import DatasetError
from fewshot_bench.paths import datasets_folder

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR100


def download_cifar() -> CifarClasses:
    """Download CIFAR-100 and return its images by class; the archive itself is not kept.

    Raises:
        DatasetError: the download failed or did not match its md5.
    """
    from torchvision.datasets import CIFAR100

    datasets_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".cifar100-", dir=datasets_folder()) as root:
        try:
            return classes_of([CIFAR100(Path(root), train=train, download=True) for train in (True, False)])
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DatasetError(
                f"CIFAR-100 could not be downloaded ({reason}). Obtain cifar100.zip of the CIFAR-FS distribution "
                "on another machine and run: fewshot-bench data import cifar-fs --from cifar100.zip"
            ) from error


def classes_of(parts: list[CIFAR100]) -> CifarClasses:
    """Images of each class over torchvision's training and test parts.

    Args:
        parts: opened `torchvision.datasets.CIFAR100`.
    """
    images = np.concatenate([np.asarray(part.data, dtype=np.uint8) for part in parts])
    labels = np.concatenate([np.asarray(part.targets) for part in parts])
    return {name: images[labels == label] for label, name in enumerate(parts[0].classes)}
