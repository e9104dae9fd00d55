"""What methods on a graph of an episode's images begin with: inner products of all with all, and nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.errors import ShapeError

_BLOCKS = 8
_FEW = 4
# Rounding errors of an inner product, in units of the last place of the largest squared norm.
_ROUNDING = 16


def episode_gram(split: EmbeddedSplit, images: Tensor) -> Tensor:
    """Inner products of all images of each episode with each other.

    Looking numbers up in a large Gram matrix waits for memory. Blocks of rows look up what is right of the diagonal and
    copy the rest, which takes two thirds of the time of looking up everything.

    Args:
        split: embeddings of the split.
        images: image indices, [E, T].

    Returns:
        [E, T, T].
    """
    if split.gram is None:
        return split.products(images, images)
    count = images.shape[1]
    products = split.embeddings.new_empty(len(images), count, count)
    height = -(-count // _BLOCKS)
    for start in range(0, count, height):
        end = min(start + height, count)
        block = split.products(images[:, start:end], images[:, start:])
        products[:, start:end, start:] = block
        products[:, end:, start:end] = block[:, :, end - start :].transpose(1, 2)
    return products


def squared_distances(products: Tensor) -> Tensor:
    """Squared distances between the images of each episode, 0 or more, [E, T, T].

    Args:
        products: their inner products, [E, T, T].
    """
    norms = products.diagonal(dim1=1, dim2=2)
    return (norms.unsqueeze(1) + norms.unsqueeze(2) - 2 * products).clamp_min(0)


def nearest_neighbours(products: Tensor, count: int) -> Tensor:
    """The nearest neighbours of each image by Euclidean distance, from inner products.

    An image is not its own neighbour. Images that are equally far, up to rounding errors, share the places that are
    left equally: the order of the images never decides.

    Args:
        products: inner products, [E, T, T].
        count: neighbours of each image; all others where there are not so many.

    Returns:
        Row t holds 1 at the neighbours of image t, a fraction where several share a place, and 0 elsewhere, [E, T, T].

    Raises:
        ShapeError: the products are not square.

    Example: the second and the third image are equally far from the first, and share its one place.

        >>> images = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]]])
        >>> nearest_neighbours(images @ images.mT, 1)[0]
        tensor([[0.0000, 0.5000, 0.5000, 0.0000],
                [1.0000, 0.0000, 0.0000, 0.0000],
                [1.0000, 0.0000, 0.0000, 0.0000],
                [0.0000, 0.0000, 1.0000, 0.0000]])
    """
    if products.ndim != 3 or products.shape[1] != products.shape[2]:
        raise ShapeError(f"products should be [E, T, T], not {list(products.shape)}.")
    count = min(count, products.shape[1] - 1)
    if count == 0:
        return torch.zeros_like(products)
    norms = products.diagonal(dim1=1, dim2=2)
    # What a row has in common, its own norm, changes no order.
    nearness = 2 * products - norms.unsqueeze(1)
    nearness.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    slack = _ROUNDING * torch.finfo(products.dtype).eps * norms.amax(1).view(-1, 1, 1)
    last = _largest(nearness, count)
    is_nearer = nearness > last + slack
    is_last = (nearness >= last - slack) ^ is_nearer
    places_left = count - is_nearer.sum(2, keepdim=True, dtype=products.dtype)
    return is_nearer + is_last * (places_left / is_last.sum(2, keepdim=True, dtype=products.dtype))


def _largest(values: Tensor, count: int) -> Tensor:
    """The `count`-th largest value of each row, [E, T, 1].

    Few maxima, one after the other, take a quarter of the time of `topk`. They pass over equal values at once; where
    there are such, `topk` counts them.
    """
    if count <= _FEW:
        last = values.amax(2, keepdim=True)
        for _ in range(count - 1):
            last = values.masked_fill(values >= last, -torch.inf).amax(2, keepdim=True)
        if bool(((values > last).sum(2) < count).all()):
            return last
    return values.topk(count, dim=2, sorted=False).values.amin(2, keepdim=True)
