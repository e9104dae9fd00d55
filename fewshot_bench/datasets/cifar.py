"""CIFAR-FS and FC100: two ways to divide the 100 classes of CIFAR-100 (Krizhevsky, 2009).

Canonical order: classes by name, images by the SHA-256 of their pixels. It depends on nothing but the images,
so the CIFAR-FS zip and torchvision's CIFAR-100 give the same episodes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.datasets.dataset import Dataset
from fewshot_bench.datasets.official_splits import official_classes
from fewshot_bench.datasets.store import SplitContent, store_dataset
from fewshot_bench.errors import DatasetError

SPLITS_OF_CIFAR = ("cifar-fs", "fc100")
IMAGES_PER_CLASS = 600
CifarClasses = Mapping[str, NDArray[np.uint8]]
"""Images of each class by its name, uint8 [I, 32, 32, 3], in any order."""


def store_cifar(name: str, classes: CifarClasses, recipe: Mapping[str, Any], *, replace: bool = False) -> Dataset:
    """Divide the images of CIFAR-100 by the official split of a benchmark and store them.

    Args:
        name: "cifar-fs" or "fc100".
        classes: all 100 classes.
        recipe: where the pixels came from.
        replace: whether stored pixels that differ may be replaced.

    Raises:
        DatasetError: a class is missing or has not 600 images of 32 x 32 RGB pixels.
    """
    splits = {
        split: canonical_split(classes, class_names, IMAGES_PER_CLASS)
        for split, class_names in official_classes(name).items()
    }
    return store_dataset(name, splits, recipe, replace=replace)


def canonical_split(classes: CifarClasses, class_names: tuple[str, ...], images_per_class: int) -> SplitContent:
    """Put the images of some classes into canonical order.

    Raises:
        DatasetError: a class is missing or its images are not what they should be.
    """
    missing = [name for name in class_names if name not in classes]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DatasetError(
            f"the source has no images of {', '.join(missing[:3])}{more}: it is not the whole of CIFAR-100. "
            "Obtain it again."
        )
    ordered = []
    for name in class_names:
        images = classes[name]
        if images.shape != (images_per_class, 32, 32, 3):
            raise DatasetError(
                f"class '{name}' should have {images_per_class} images of 32 x 32 x 3 pixels, but the source has "
                f"{len(images)} of {' x '.join(map(str, images.shape[1:]))}. Obtain it again."
            )
        digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
        ordered.append(images[sorted(range(len(images)), key=digests.__getitem__)])
    return np.concatenate(ordered), class_names, (images_per_class,) * len(class_names)
