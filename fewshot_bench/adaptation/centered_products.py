"""Centre the images of each episode and normalise them again, on their inner products alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Centering = Literal["separate", "joint", "none"]

# A square of a norm, relative to before: less is rounding of float32 products, and the image is the centre itself.
_NOTHING_LEFT = 1e-6


def centered_products(products: Tensor, support: int, centering: Centering) -> Tensor:
    """Inner products of the images of each episode after centring and division by the norm.

    Args:
        products: inner products of the support images and the queries, in this order, [E, n + M, n + M].
        support: n, the number of support images.
        centering: "separate" subtracts from the support images their mean and from the queries theirs. "joint"
            subtracts the mean of all, as is done where there is one query. "none" leaves the products alone.

    Returns:
        float64 [E, n + M, n + M]. An image that is the centre itself has products of 0 with all.
    """
    products = products.double()
    if centering == "none":
        return products
    images = products.shape[1]
    is_joint = centering == "joint" or images - support == 1
    sizes = [images] if is_joint else [support, images - support]
    before = products.diagonal(dim1=1, dim2=2)
    for axis in (1, 2):
        groups = torch.split(products, sizes, dim=axis)
        products = torch.cat([group - group.mean(dim=axis, keepdim=True) for group in groups], dim=axis)
    squares = products.diagonal(dim1=1, dim2=2)
    inverse = torch.where(squares > _NOTHING_LEFT * before, squares.clamp_min(1e-300).rsqrt(), 0)
    return products * inverse.unsqueeze(1) * inverse.unsqueeze(2)
