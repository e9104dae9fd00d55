"""PT-MAP: class centres that follow a balanced assignment of the queries (Hu, Gripon, Pateux, 2021).

"Leveraging the feature distribution in transfer-based few-shot learning". The embeddings are made more Gaussian by a
power transform (`features="power"`) and put on the unit sphere. With Gaussian classes of equal spread, maximum a
posteriori estimation of the centres alternates between two steps:

    the plan M assigns queries f_i to centres c_j by optimal transport with costs |f_i - c_j|^2: every query is assigned
        once, every class receives M / N queries, and lambda says how sharp the assignment is;
    c_j moves by the share alpha towards the mean of its support images and its assigned queries.

A query's class is where the last plan sends most of it. A centre is its coefficients over the episode's images, so
inner products are all that is needed.

Implementations differ: the paper's formulas end with the power transform and the norm. The authors' code, which gives
the published numbers, then also subtracts the mean from the support images and from the queries, each their own, and
normalises again (`centering="separate"`); iLPC's copy subtracts the mean of all (`joint`); easyfsl subtracts none and
does not normalise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, Features
from fewshot_bench.adaptation.transductive.episode_products import Centering, centered_grams
from fewshot_bench.adaptation.transductive.sinkhorn import decide_ties, transport_plan
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import ShapeError

_EPISODES_AT_ONCE = 128
_ALPHA_AT_ONE_SHOT, _ALPHA = 0.2, 0.4


@ADAPTATIONS.register(
    "pt-map",
    "class centres that follow a balanced optimal-transport assignment of the queries",
    paper="Hu et al., 2021, Leveraging the Feature Distribution in Transfer-based Few-Shot Learning",
    family="optimal transport",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class PTMAP(EmbeddingAdaptation):
    """Class centres that follow an optimal-transport assignment of the queries.

    Attributes:
        features: "power" is the power transform of the paper; "signed-power" where embeddings can be negative.
        regularization: sharpness of the assignment, the inverse of the entropic penalty; for embeddings of norm one.
        alpha: share of the way a centre moves in one step; None is 0.2 at one shot and 0.4 at more.
        steps: how often the centres move.
        centering: mean subtracted from each episode's images, "separate" (support and queries each their own), "joint"
            or "none". A single query has no mean of its own and is centred with the support.
        balanced: whether every class receives the same number of queries; without it, classes receive what lies near.

    >>> import fewshot_bench as fb
    >>> fb.PTMAP().assumes_balanced_queries, fb.PTMAP(balanced=False).assumes_balanced_queries
    (True, False)
    >>> fb.PTMAP(alpha=2.0)
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: alpha of pt-map should be above 0 and at most 1, not 2.0.
    """

    name: ClassVar[str] = "pt-map"
    is_transductive = True
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"regularization": (10.0, 5.0, 20.0), "alpha": (None, 0.2, 0.4)}
    features: Features = "power"
    regularization: float = 10.0
    alpha: float | None = None
    steps: int = 20
    centering: Centering = "separate"
    balanced: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("regularization")
        self._expect(self.alpha is None or 0 < self.alpha <= 1, "alpha", "above 0 and at most 1")
        self._expect_whole(0, "steps")

    @property
    def assumes_balanced_queries(self) -> bool:
        """The plan gives every class the same number of queries, unless `balanced` is off."""
        return self.balanced

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """The share of each query that the plan sends to each class; see `EmbeddingAdaptation.scores`."""
        way, shot = support.shape[1:]
        alpha = self.alpha
        if alpha is None:
            alpha = _ALPHA_AT_ONE_SHOT if shot == 1 else _ALPHA
        plans = [
            map_assignment(
                products,
                way=way,
                shot=shot,
                regularization=self.regularization,
                alpha=alpha,
                steps=self.steps,
                balanced=self.balanced,
            ).transpose(1, 2)
            for products in centered_grams(split, support, query, self.centering, _EPISODES_AT_ONCE)
        ]
        return torch.cat(plans)

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Inner products and a handful of assignments; embeddings are gathered for a few episodes at a time."""
        images = way * shot + queries
        return 2 * images * embedding_size // 8 + 8 * images**2 + 24 * way * images


def map_assignment(
    products: Tensor,
    *,
    way: int,
    shot: int,
    regularization: float = 10.0,
    alpha: float = 0.2,
    steps: int = 20,
    balanced: bool = True,
) -> Tensor:
    """Assign queries to class centres and move the centres, in turn.

    Args:
        products: inner products of the support images, class by class, and then the queries, [E, N*K + M, N*K + M].
        way: N.
        shot: K.
        regularization: sharpness of the assignment.
        alpha: share of the way a centre moves in one step.
        steps: how often the centres move.
        balanced: whether every class receives M / N queries.

    Returns:
        The share of each query that goes to each class, float64 [E, N, M].

    Raises:
        ShapeError: the products are not square, or hold no query.
    """
    episodes, images = products.shape[:2]
    labelled = way * shot
    if products.ndim != 3 or products.shape[2] != images or images <= labelled:
        raise ShapeError(f"products of {labelled} support images and some queries expected: {list(products.shape)}.")
    products = products.double()
    truth = torch.eye(way, dtype=torch.float64, device=products.device).repeat_interleave(shot, dim=1)
    truth = truth.expand(episodes, -1, -1)
    totals = products.new_full((episodes, way), (images - labelled) / way)
    squares = products.diagonal(dim1=1, dim2=2)[:, labelled:].unsqueeze(1)
    centres = torch.cat([truth / shot, truth.new_zeros(episodes, way, images - labelled)], dim=2)
    potentials = None
    for step in range(steps + 1):
        along = centres @ products
        own = (along * centres).sum(2, keepdim=True)
        affinities = regularization * (2 * along[:, :, labelled:] - own - squares)
        if balanced:
            # Centres move little in a step, and so do the potentials.
            plan, potentials = transport_plan(affinities, totals, potentials=potentials)
        else:
            plan = torch.softmax(affinities, dim=1)
        if step < steps:
            assigned = torch.cat([truth, plan], dim=2)
            centres = torch.lerp(centres, assigned / assigned.sum(2, keepdim=True), alpha)
    return decide_ties(plan, affinities, totals) if balanced else plan
