"""BD-CSPN: prototypes rectified by pseudo-labelled queries, after the queries are moved onto the support set.

Liu, Song and Qin (2020), "Prototype rectification for few-shot learning", name two biases of a prototype that is the
mean of few images, and diminish both (BD) in front of a cosine classifier (CSPN):

- Cross-class bias: support set and queries have different means. All queries are shifted by the difference:

      x' = x + mean(support) - mean(queries)

- Intra-class bias: few images miss the center of their class. Each query joins the class of the nearest prototype P_n
  by cosine, and the rectified prototype is a weighted mean of the support images and the queries of the class:

      P'_n = sum over i in class n of w_i x'_i,    w_i = exp(t cos(x'_i, P_n)) / sum over j of exp(t cos(x'_j, P_n))

Queries are then classified by the cosine between x' and P'_n. Everything is made of inner products.

Public code departs from the paper; each departure is an option. easyfsl lets all queries join a class
(pseudo_labels=0), has temperature=1 and shifts queries for the prototypes alone (shift="prototypes"). The code of
LaplacianShot (Ziko et al., 2020) weighs an image by the softmax of t cos over the classes instead of the images of a
class (weighting="classes"), and lets all queries join.

The shift is right where the queries have the class mix of the support set. Where one class has most of the queries, it
moves them towards the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit
from fewshot_bench.adaptation.transductive.episode_products import episode_grams
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import ShapeError

Weighting = Literal["images", "classes"]
Shift = Literal["everywhere", "prototypes", "nowhere"]

_EPISODES_AT_ONCE = 64
_ROUNDING = 16  # units in the last place of a cosine


@dataclass(frozen=True, eq=False)
class Rectified:
    """Rectified prototypes as queries see them.

    Attributes:
        products: inner products of prototypes and queries, [E, N, M].
        prototypes: squared norms of the prototypes, [E, N].
        queries: squared norms of the queries, [E, M].
    """

    products: Tensor
    prototypes: Tensor
    queries: Tensor

    @property
    def cosines(self) -> Tensor:
        """Cosines between prototypes and queries, [E, N, M]."""
        return _cosines(self.products, self.prototypes, self.queries)

    @property
    def squared_distances(self) -> Tensor:
        """Squared distances between prototypes and queries, [E, N, M]."""
        return self.prototypes.unsqueeze(2) + self.queries.unsqueeze(1) - 2 * self.products


def rectified_prototypes(
    products: Tensor,
    way: int,
    shot: int,
    *,
    temperature: float = 10.0,
    weighting: Weighting = "images",
    pseudo_labels: int = 0,
    shift: Shift = "everywhere",
) -> Rectified:
    """Rectify prototypes from inner products alone (Liu et al., 2020).

    Args:
        products: inner products of all images of an episode, its support images first, class by class,
            [E, N * K + M, N * K + M].
        way: N.
        shot: K.
        temperature: factor of the cosines in the weights.
        weighting: weights sum to one over the "images" of a class, or are the softmax over "classes" divided by the
            number of images of the class.
        pseudo_labels: the most confident queries per class that join it; 0 for all.
        shift: whether queries are shifted "everywhere", for the "prototypes" but not where they are compared with
            them in the end, or "nowhere".

    Returns:
        The rectified prototypes as queries see them.

    Raises:
        ShapeError: the products are not square, or leave no queries.

    Example: two classes at right angles; the query between them joins the first, and pulls its prototype closer.

        >>> images = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.2, 0.4]]])
        >>> rectified = rectified_prototypes(images @ images.mT, way=2, shot=1)
        >>> rectified.cosines.argmax(dim=1)
        tensor([[0, 1]])
    """
    images = way * shot
    if products.ndim != 3 or products.shape[1] != products.shape[2] or products.shape[1] <= images:
        raise ShapeError(
            f"products [E, N * K + M, N * K + M] of {way}-way {shot}-shot episodes are not {list(products.shape)}."
        )
    # <x, shift> for every image, and |shift|^2, where shift = mean(support) - mean(queries).
    along_shift = products[:, :images].mean(1) - products[:, images:].mean(1)
    if shift == "nowhere":
        along_shift = torch.zeros_like(along_shift)
    shift_squared = (along_shift[:, :images].mean(1) - along_shift[:, images:].mean(1)).unsqueeze(1)
    unshifted = products.diagonal(dim1=1, dim2=2)
    norms = unshifted.clone()
    norms[:, images:] += 2 * along_shift[:, images:] + shift_squared

    of_base = products[:, :images].reshape(len(products), way, shot, -1).mean(2)
    base = of_base[:, :, :images].reshape(len(products), way, way, shot).mean(3).diagonal(dim1=1, dim2=2)
    towards = along_shift[:, :images].reshape(-1, way, shot).mean(2)
    of_base[:, :, images:] += towards.unsqueeze(2)
    cosines = _cosines(of_base, base, norms)

    members = _members(cosines, shot, temperature, pseudo_labels)
    weights = _weights(cosines, members, temperature, weighting)
    shifted_share = weights[:, :, images:].sum(2, keepdim=True)
    of_rectified = weights @ products
    along = (weights @ along_shift.unsqueeze(2)) + shifted_share * shift_squared.unsqueeze(2)
    of_rectified += shifted_share * along_shift.unsqueeze(1)
    # Now <P', x> for images as they are; |P'|^2 and shifted queries count the shift of the image too.
    squares = (weights * of_rectified).sum(2) + (shifted_share * along).squeeze(2)
    of_queries = of_rectified[:, :, images:]
    if shift == "prototypes":
        return Rectified(of_queries, squares, unshifted[:, images:])
    return Rectified(of_queries + along, squares, norms[:, images:])


def _cosines(products: Tensor, prototypes: Tensor, images: Tensor) -> Tensor:
    """Cosines [E, N, T] from products and squared norms [E, N] and [E, T]."""
    tiny = torch.finfo(products.dtype).tiny ** 0.5
    norms = prototypes.clamp_min(tiny).rsqrt().unsqueeze(2) * images.clamp_min(tiny).rsqrt().unsqueeze(1)
    return products * norms


def _members(cosines: Tensor, shot: int, temperature: float, pseudo_labels: int) -> Tensor:
    """How much of each image belongs to each class, [E, N, T]; classes that tie for a query share it.

    Queries that tie for the last place among the most confident ones of a class are all in. What differs by rounding
    alone is a tie: rounding depends on where a query stands, and queries stand by class.
    """
    rounding = _ROUNDING * torch.finfo(cosines.dtype).eps
    way, images = cosines.shape[1], cosines.shape[1] * shot
    members = torch.empty_like(cosines)
    labels = torch.arange(way, device=cosines.device).repeat_interleave(shot)
    members[:, :, :images] = one_hot(labels, way).T
    of_queries = cosines[:, :, images:]
    is_nearest = (of_queries >= of_queries.amax(1, keepdim=True) - rounding).to(cosines.dtype)
    members[:, :, images:] = is_nearest / is_nearest.sum(1, keepdim=True)
    if 0 < pseudo_labels < of_queries.shape[2]:
        confidences = torch.softmax(temperature * of_queries, dim=1) * is_nearest
        last = confidences.topk(pseudo_labels, dim=2).values[:, :, -1:]
        members[:, :, images:] *= confidences >= last - rounding
    return members


def _weights(cosines: Tensor, members: Tensor, temperature: float, weighting: Weighting) -> Tensor:
    """Weight of each image in each rectified prototype, [E, N, T]."""
    if weighting == "classes":
        return members * torch.softmax(temperature * cosines, dim=1) / members.sum(2, keepdim=True)
    weights = members * (temperature * (cosines - cosines.amax(2, keepdim=True))).exp()
    return weights / weights.sum(2, keepdim=True)


@ADAPTATIONS.register(
    "bd-cspn",
    "cosine to prototypes rectified by pseudo-labelled queries, after the queries are shifted to the support set",
    paper="Liu et al., 2020, Prototype Rectification for Few-Shot Learning",
    family="nearest neighbour",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class BDCSPN(EmbeddingAdaptation):
    """Prototypes rectified by the queries.

    The defaults are those of the code of LaplacianShot, whose authors print the results of BD-CSPN that others quote.
    With the paper's formula at temperature 10 the one support image, whose cosine with itself is 1, outweighs all
    queries: 62 instead of 66% at 1 shot on the validation split of CIFAR-FS with L2 features of EfficientNet-Lite0.

    Attributes:
        temperature: factor of the cosines that weigh the images of a class.
        weighting: "classes" weighs an image by the softmax over the classes, as in the code of LaplacianShot; "images"
            weighs the images of a class against each other, as in the paper.
        pseudo_labels: the most confident queries per class that rectify its prototype, 8 in the paper; 0 for all, as in
            public code.
        shift: queries are shifted "everywhere", as in the paper; for the "prototypes" alone, as in easyfsl; or
            "nowhere", which loses least where some classes have many more queries than others.

    >>> import fewshot_bench as fb
    >>> fb.BDCSPN(shift="nowhere").hyper_parameters()
    {'features': 'l2', 'temperature': 10.0, 'weighting': 'classes', 'pseudo_labels': 0, 'shift': 'nowhere'}
    >>> fb.BDCSPN().is_transductive
    True
    """

    name: ClassVar[str] = "bd-cspn"
    is_transductive = True
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"temperature": (10.0, 3.0, 30.0)}
    temperature: float = 10.0
    weighting: Weighting = "classes"
    pseudo_labels: int = 0
    shift: Shift = "everywhere"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("temperature")
        self._expect_whole(0, "pseudo_labels")

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Cosine of every query and every rectified prototype; see `EmbeddingAdaptation.scores`."""
        way, shot = support.shape[1:]
        images = torch.cat([support.flatten(1), query], dim=1)
        cosines = [
            rectified_prototypes(
                products,
                way,
                shot,
                temperature=self.temperature,
                weighting=self.weighting,
                pseudo_labels=self.pseudo_labels,
                shift=self.shift,
            ).cosines.transpose(1, 2)
            for products in episode_grams(split, images, _EPISODES_AT_ONCE)
        ]
        return torch.cat(cosines)

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Gathered embeddings, their inner products and the weights."""
        images = way * shot + queries
        return 2 * images * embedding_size + 4 * images**2 + 10 * way * images
