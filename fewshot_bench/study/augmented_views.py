"""Augmented views of a split, to be embedded beside the plain images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from fewshot_bench.datasets import ImageSplit
from fewshot_bench.training import AUGMENTATION_VERSION, choose_augmentation, image_keys, keyed_uniform
from fewshot_bench.training.recipe import AugmentationName


def augmented_view(
    split: ImageSplit, seed: int, view: int, augmentation_name: AugmentationName = "auto"
) -> Callable[[Tensor, slice], Tensor]:
    """What makes one view of every image of a split, in parts of any size.

    Args:
        split: the images.
        seed: of the study.
        view: number of the view, from 1.
        augmentation_name: what makes it.

    Returns:
        A function from uint8 [B, C, H, W], and which images of the split these are, to their views, uint8
        [B, C, H, W]. The view of an image depends on its pixels, the seed, the view and its position only.
    """
    _, height, width, channels = split.images.shape
    augmentation = choose_augmentation(augmentation_name, channels=channels, image_size=min(height, width))
    uniform = keyed_uniform(image_keys(seed, np.arange(len(split))), [view], augmentation.numbers)
    return lambda images, which: augmentation(images, uniform[which])


def name_of_view(seed: int, view: int, augmentation_name: AugmentationName = "auto") -> str:
    """The name under which the embeddings of a view are cached; another seed, view or code has another."""
    return f"{augmentation_name}, version {AUGMENTATION_VERSION}, view {view} of seed {seed}"
