"""Inner products of all images of an episode, centred if asked for, and the distances and neighbours they give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts
from fewshot_bench.errors import ShapeError

_BLOCKS = 8
_FEW = 4
_FAR = 1e30
# Rounding errors of an inner product, in units of the last place of the largest squared norm.
_ROUNDING = 16
# A square of a norm, relative to before: less is rounding of float32 products, and the image is the centre itself.
_NOTHING_LEFT = 1e-6

Centering = Literal["separate", "joint", "none"]


def episode_grams(split: EmbeddedSplit, images: Tensor, at_once: int) -> Iterator[Tensor]:
    """Inner products of all images of each episode with each other, some episodes at a time.

    Look-ups in a large Gram matrix wait for memory. Blocks of rows look up what is right of the diagonal and copy the
    rest, in two thirds of the time of looking up everything.

    Args:
        split: embeddings of the split.
        images: image indices, [E, T].
        at_once: most episodes at a time.

    Yields:
        [E', T, T], valid until the next one: fresh memory would cost another third of the time.
    """
    count = images.shape[1]
    height = -(-count // _BLOCKS)
    space = split.embeddings.new_empty(min(at_once, len(images)), count, count)
    for (part,) in in_parts(at_once, images):
        if split.gram is None:
            yield split.products(part, part)
            continue
        products = space[: len(part)]
        for start in range(0, count, height):
            end = min(start + height, count)
            block = split.products(part[:, start:end], part[:, start:])
            products[:, start:end, start:] = block
            products[:, end:, start:end] = block[:, :, end - start :].transpose(1, 2)
        yield products


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


def centered_grams(
    split: EmbeddedSplit, support: Tensor, query: Tensor, centering: Centering, at_once: int
) -> Iterator[Tensor]:
    """Centred products of the images of each episode, support first, some episodes at a time; see `centered_products`.

    Yields:
        float64 [E', N * K + M, N * K + M].
    """
    for (images,) in in_parts(at_once, torch.cat([support.flatten(1), query], dim=1)):
        yield centered_products(split.products(images, images), support[0].numel(), centering)


def squared_distances(products: Tensor) -> Tensor:
    """Squared distances, 0 or more, of images with the given inner products, [E, T, T]."""
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
    norms = products.diagonal(dim1=1, dim2=2).contiguous()
    # What a row has in common, its own norm, changes no order.
    nearness = torch.sub(products, norms.unsqueeze(1), alpha=0.5)
    nearness.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    slack = _ROUNDING / 2 * torch.finfo(products.dtype).eps * norms.amax(1).view(-1, 1, 1)
    # In place, comparisons give numbers, which takes a sixth of the time of turning truth values into numbers.
    neighbours = nearness.clone().ge_(_largest(nearness, count) - slack)
    episodes, images = (neighbours.sum(2) != count).nonzero(as_tuple=True)
    if len(episodes):
        neighbours[episodes, images] = _with_shared_places(
            nearness[episodes, images], slack.view(-1, 1)[episodes], count
        )
    return neighbours


def _with_shared_places(nearness: Tensor, slack: Tensor, count: int) -> Tensor:
    """The neighbours of images where several are equally far, up to the slack [R, 1], [R, T]."""
    last = nearness.topk(count, dim=1, sorted=False).values.amin(1, keepdim=True)
    is_nearer = nearness > last + slack
    is_last = (nearness >= last - slack) ^ is_nearer
    places_left = count - is_nearer.sum(1, keepdim=True, dtype=nearness.dtype)
    return is_nearer + is_last * (places_left / is_last.sum(1, keepdim=True, dtype=nearness.dtype))


def _largest(values: Tensor, count: int) -> Tensor:
    """The `count`-th largest value of each row, or a smaller one where values are equal, [E, T, 1].

    Few maxima, one after the other, take a quarter of the time of `topk`. They pass over equal values at once.
    """
    if count > _FEW:
        return values.topk(count, dim=2, sorted=False).values.amin(2, keepdim=True)
    last, left = values.amax(2, keepdim=True), values
    for _ in range(count - 1):
        left = torch.sub(left, values.clone().ge_(last), alpha=_FAR)
        last = left.amax(2, keepdim=True)
    return last
