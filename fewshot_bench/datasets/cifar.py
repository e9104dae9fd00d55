"""CIFAR-FS and FC100: two ways to divide the 100 classes of CIFAR-100 (Krizhevsky, 2009).

Canonical order: classes by name, images by the SHA-256 of their pixels. It depends on nothing but the images, so every
archive of CIFAR-100 gives the same episodes. A class is known by its images, too: the digest of all 600 says which it
is, whatever number its file gives it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.datasets.official_splits import official_class_sizes
from fewshot_bench.datasets.store import WholeSplit
from fewshot_bench.errors import DatasetError

SPLITS_OF_CIFAR = ("cifar-fs", "fc100")
CifarClasses = Mapping[str, NDArray[np.uint8]]
"""Images of each class by its name, uint8 [I, 32, 32, 3], in any order."""


def divide_cifar(dataset: str, classes: CifarClasses) -> dict[SplitName, WholeSplit]:
    """Divide the images of CIFAR-100 by the official split of a benchmark, in canonical order.

    Args:
        dataset: "cifar-fs" or "fc100".
        classes: all 100 classes.

    Raises:
        DatasetError: a class is missing or has not its 600 images of 32 x 32 RGB pixels.
    """
    return {split: canonical_split(classes, sizes) for split, sizes in official_class_sizes(dataset).items()}


def canonical_split(classes: CifarClasses, sizes: Mapping[str, int]) -> WholeSplit:
    """Put the images of some classes into canonical order.

    Args:
        classes: the images.
        sizes: how many images each class must have, in canonical order of the classes.

    Raises:
        DatasetError: a class is missing or its images are not what they should be.
    """
    missing = [name for name in sizes if name not in classes]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DatasetError(
            f"the source has no images of {', '.join(missing[:3])}{more}: it is not the whole of CIFAR-100. "
            "Obtain it again."
        )
    ordered = []
    for name, size in sizes.items():
        images = classes[name]
        if images.shape != (size, 32, 32, 3):
            raise DatasetError(
                f"class '{name}' should have {size} images of 32 x 32 x 3 pixels, but the source has "
                f"{len(images)} of {' x '.join(map(str, images.shape[1:]))}. Obtain it again."
            )
        digests = image_digests(images)
        ordered.append(images[sorted(range(len(images)), key=digests.__getitem__)])
    return WholeSplit(np.concatenate(ordered), tuple(sizes), tuple(sizes.values()))


def image_digests(images: NDArray[np.uint8]) -> list[bytes]:
    """SHA-256 of the pixels of each image, [I]."""
    return [hashlib.sha256(image).digest() for image in np.ascontiguousarray(images)]


def class_digest(images: NDArray[np.uint8]) -> str:
    """What a class is known by: a digest of its images, in whatever order they come."""
    return hashlib.sha256(b"".join(sorted(image_digests(images)))).hexdigest()
