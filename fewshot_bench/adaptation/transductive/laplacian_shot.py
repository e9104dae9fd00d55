"""LaplacianShot: nearest prototypes, and neighbouring queries that should agree.

Ziko, Dolz, Granger and Ben Ayed (2020), "Laplacian regularized few-shot learning", minimise over the assignments y of
the queries to classes

    sum over q, c of y_qc |x_q - m_c|^2  +  lambda / 2 sum over q, p of w_qp |y_q - y_p|^2

where w_qp is 1 if p is among the nearest neighbours of q. The prototypes m_c are rectified by the queries as in BD-CSPN
(Liu et al., 2020). With an entropy as barrier, each step minimises a bound of the relaxed objective for all queries at
once:

    y_q  <-  softmax over c of ( -|x_q - m_c|^2 + lambda sum over p of w_qp y_pc )

The number of queries per class is free: labels follow distances and neighbours, and no class is filled up.

The authors' code takes a query for one of its own neighbours before it leaves it out, so that its knn=3 are two
neighbours; `knn` here counts other queries. Its prototype is the mean over a class of images that are weighed by a
softmax over the classes (weighting="classes"); easyfsl weighs the images of a class against each other with temperature
1, and shifts queries for the prototypes alone (weighting="images", temperature=1, shift="prototypes", knn=2).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, steps_per_check
from fewshot_bench.adaptation.transductive.bd_cspn import Shift, Weighting, rectified_prototypes
from fewshot_bench.adaptation.transductive.episode_products import episode_grams, nearest_neighbours
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import ShapeError

Prototypes = Literal["rectified", "mean"]

_EPISODES_AT_ONCE = 64


def laplacian_assignments(
    distances: Tensor, neighbours: Tensor, *, laplacian_weight: float, iterations: int = 20, tolerance: float = 1e-6
) -> Tensor:
    """Assign queries to classes by bound optimisation (Ziko et al., 2020).

    An episode stops changing once a step changes its bound by no more than `tolerance` of it.

    Args:
        distances: squared distances between classes and queries, [E, N, M].
        neighbours: row q weighs the neighbours of query q, [E, M, M].
        laplacian_weight: weight of the agreement between neighbours, lambda in the paper.
        iterations: most steps.
        tolerance: relative change of the bound that ends the steps.

    Returns:
        Probabilities of the classes, [E, N, M].

    Raises:
        ShapeError: distances and neighbours do not fit.

    Example: the third query is a little nearer to the second class, its neighbours belong to the first.

        >>> distances = torch.tensor([[[0.0, 0.0, 0.5], [1.0, 1.0, 0.4]]])
        >>> neighbours = torch.tensor([[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]]])
        >>> laplacian_assignments(distances, neighbours, laplacian_weight=1.0).argmax(dim=1)
        tensor([[0, 0, 0]])
    """
    if distances.ndim != 3 or neighbours.shape != (len(distances), distances.shape[2], distances.shape[2]):
        raise ShapeError(
            f"distances [E, N, M] and neighbours [E, M, M] do not fit: {list(distances.shape)} and "
            f"{list(neighbours.shape)}."
        )
    attraction, graph = -distances, laplacian_weight * neighbours.transpose(1, 2).to(distances.dtype)
    assignments = torch.softmax(attraction, dim=1)
    agreement = assignments @ graph
    before = torch.full_like(attraction[:, 0, 0], torch.inf, dtype=torch.float64)
    is_running = torch.ones_like(before, dtype=torch.bool)
    often = steps_per_check(distances.device)
    for step in range(iterations):
        logits = attraction + agreement
        renewed = torch.log_softmax(logits, dim=1)
        assignments = torch.where(is_running.view(-1, 1, 1), renewed.exp(), assignments)
        agreement = assignments @ graph
        bound = (assignments * (renewed - attraction - agreement)).sum((1, 2), dtype=torch.float64)
        if step > 1:
            is_running &= (bound - before).abs() > tolerance * before.abs()
            if (step + 1) % often == 0 and not bool(is_running.any()):
                break
        before = bound
    return assignments


@ADAPTATIONS.register(
    "laplacian-shot",
    "nearest rectified prototypes, and neighbouring queries that should agree",
    paper="Ziko et al., 2020, Laplacian Regularized Few-Shot Learning",
    family="graph",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class LaplacianShot(EmbeddingAdaptation):
    """Laplacian-regularised assignment of the queries.

    The default weight was chosen on the validation split of CIFAR-FS with L2 features of EfficientNet-Lite0.

    Attributes:
        laplacian_weight: weight of the agreement between neighbouring queries, lambda in the paper, which chooses it on
            a validation split among 0.1, 0.3, 0.5, 0.7, 0.8, 1, 1.2 and 1.5; for L2 features.
        knn: neighbours of each query, not counting itself.
        prototypes: "rectified" by the queries, as in BD-CSPN, or the "mean" of the support images.
        weighting: of images in rectified prototypes, over "classes" or "images"; see bd-cspn.
        temperature: factor of the cosines in these weights.
        shift: with rectified prototypes, queries are shifted "everywhere", for the "prototypes" or "nowhere"; see
            bd-cspn.
        iterations: most steps of the bound optimisation.

    >>> import fewshot_bench as fb
    >>> method = fb.LaplacianShot(laplacian_weight=1.0, prototypes="mean")
    >>> method.laplacian_weight, method.is_transductive
    (1.0, True)
    """

    name: ClassVar[str] = "laplacian-shot"
    is_transductive = True
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"laplacian_weight": (0.3, 0.1, 0.5, 0.7, 1.0)}
    laplacian_weight: float = 0.3
    knn: int = 3
    prototypes: Prototypes = "rectified"
    weighting: Weighting = "classes"
    temperature: float = 10.0
    shift: Shift = "everywhere"
    iterations: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("temperature")
        self._expect_not_negative("laplacian_weight")
        self._expect_whole(1, "knn", "iterations")

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Probabilities of every query; see `EmbeddingAdaptation.scores`."""
        parts = []
        images = torch.cat([support.flatten(1), query], dim=1)
        for products in episode_grams(split, images, _EPISODES_AT_ONCE):
            distances = self._distances(products, *support.shape[1:])
            of_queries = products[:, -query.shape[1] :, -query.shape[1] :]
            assignments = laplacian_assignments(
                distances,
                nearest_neighbours(of_queries, self.knn),
                laplacian_weight=self.laplacian_weight,
                iterations=self.iterations,
            )
            parts.append(assignments.transpose(1, 2))
        return torch.cat(parts)

    def _distances(self, products: Tensor, way: int, shot: int) -> Tensor:
        """Squared distances between prototypes and queries, [E, N, M]."""
        if self.prototypes == "rectified":
            return rectified_prototypes(
                products,
                way,
                shot,
                temperature=self.temperature,
                weighting=self.weighting,
                shift=self.shift,
            ).squared_distances
        images = way * shot
        norms = products.diagonal(dim1=1, dim2=2)[:, images:].unsqueeze(1)
        of_means = products[:, :images].reshape(len(products), way, shot, -1).mean(2)
        within = of_means[:, :, :images].reshape(len(products), way, way, shot).mean(3).diagonal(dim1=1, dim2=2)
        return within.unsqueeze(2) + norms - 2 * of_means[:, :, images:]

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Gathered embeddings, their inner products, the graph and the assignments."""
        images = way * shot + queries
        return 2 * images * embedding_size + 8 * images**2 + 20 * way * images
