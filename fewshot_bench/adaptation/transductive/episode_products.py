"""What methods on a graph of an episode's images begin with: inner products of all with all, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts
from fewshot_bench.errors import ShapeError

_BLOCKS = 8
_FEW = 4
_FAR = 1e30
# Rounding errors of an inner product, in units of the last place of the largest squared norm.
_ROUNDING = 16


def episode_grams(split: EmbeddedSplit, images: Tensor, at_once: int) -> Iterator[Tensor]:
    """Inner products of all images of each episode with each other, some episodes at a time.

    Looking numbers up in a large Gram matrix waits for memory. Blocks of rows look up what is right of the diagonal and
    copy the rest, which takes two thirds of the time of looking up everything.

    Args:
        split: embeddings of the split.
        images: image indices, [E, T].
        at_once: most episodes at a time.

    Yields:
        [E', T, T], valid until the next ones: fresh memory would take a third of the time again.
    """
    count = images.shape[1]
    height = -(-count // _BLOCKS)
    space = split.embeddings.new_empty(min(at_once, len(images)), count, count)
    for (some,) in in_parts(at_once, images):
        if split.gram is None:
            yield split.products(some, some)
            continue
        products = space[: len(some)]
        for start in range(0, count, height):
            end = min(start + height, count)
            block = split.products(some[:, start:end], some[:, start:])
            products[:, start:end, start:] = block
            products[:, end:, start:end] = block[:, :, end - start :].transpose(1, 2)
        yield products


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
