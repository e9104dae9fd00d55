"""Mixup (Zhang et al., 2018, "mixup: Beyond empirical risk minimization"): images and labels of a batch in pairs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Beta

from fewshot_bench.devices import to_device


class Mixed(NamedTuple):
    """Views of images, each mixed with the same view of another image.

    Attributes:
        views: uint8 [VB, C, H, W]; mixed pixels are rounded to whole levels.
        partners: where in the batch the other image of each view is, int64 [VB].
        shares: of its own image in each view, from a half to 1, float32 [VB].
    """

    views: Tensor
    partners: Tensor
    shares: Tensor


def mixup(views: Tensor, per_image: int, alpha: float) -> Mixed:
    """Mix the images of a batch in pairs by PyTorch's global random numbers of the CPU.

    Each image draws a share of its own, as fastai does (Dhillon et al., 2020); Zhang et al. draw one for a batch. The
    larger share is that of the image itself.

    Args:
        views: uint8 [VB, C, H, W], the first views of all images first.
        per_image: V; all views of an image have the same partner and share.
        alpha: both parameters of the Beta distribution of the shares.
    """
    images = len(views) // per_image
    drawn = Beta(alpha, alpha).sample((images,))
    order = torch.randperm(images)
    partners = torch.cat([order + view * images for view in range(per_image)])
    partners = to_device(partners, views.device)
    shares = to_device(torch.maximum(drawn, 1 - drawn).repeat(per_image), views.device)
    own = shares.view(-1, 1, 1, 1)
    mixed = (own * views + (1 - own) * views[partners]).round().to(torch.uint8)
    return Mixed(mixed, partners, shares)
