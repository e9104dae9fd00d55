"""Augmented views of a split, to be embedded beside the plain images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from fewshot_bench.datasets import ImageSplit
from fewshot_bench.training import AUGMENTATION_VERSION, choose_augmentation, image_keys, keyed_uniform


def augmented_view(split: ImageSplit, seed: int, view: int) -> Callable[[Tensor, slice], Tensor]:
    """What makes one view of every image of a split, in parts of any size.

    Args:
        split: the images.
        seed: of the study.
        view: number of the view, from 1.

    Returns:
        A function from uint8 [B, C, H, W], and which images of the split these are, to their views, uint8
        [B, C, H, W]. The view of an image depends on its pixels, the seed, the view and its position only.
    """
    _, height, width, channels = split.images.shape
    augmentation = choose_augmentation("auto", channels=channels, image_size=min(height, width))
    uniform = keyed_uniform(image_keys(seed, np.arange(len(split))), [view], augmentation.numbers)
    return lambda images, which: augmentation(images, uniform[which])


def name_of_view(seed: int, view: int) -> str:
    """The name under which the embeddings of a view are cached; another seed, view or code has another."""
    return f"auto, version {AUGMENTATION_VERSION}, view {view} of seed {seed}"
