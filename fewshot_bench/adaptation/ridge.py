"""Ridge regression from support embeddings to one-hot labels, in closed form.

Bertinetto et al. (2019), "Meta-learning with differentiable closed-form solvers" (R2D2), and Lee et al. (2019),
"Meta-learning with differentiable convex optimization" (MetaOptNet-RR), use it as the last layer of a network:

    minimise over W:  |X W - Y|^2 + penalty * |W|^2

with the support embeddings X [n, D] and their one-hot labels Y [n, N]. With fewer images than dimensions the dual form
is the cheap one: W = X^T A with A = (X X^T + penalty * I)^-1 Y. The scale and shift of the scores that R2D2 learns
change no prediction and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation, LinearIn
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, scores_in_span, support_labels, symmetric_products
from fewshot_bench.arguments import checked_names

_EPISODES_AT_ONCE = 256


@ADAPTATIONS.register(
    "ridge",
    "ridge regression onto one-hot labels, in closed form",
    paper="Bertinetto et al., 2019, Closed-Form Solvers (R2D2); Lee et al., 2019, MetaOptNet",
    family="linear",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class Ridge(EmbeddingAdaptation):
    """Ridge regression in the span of the support embeddings.

    Attributes:
        penalty: strength of the L2 penalty. The default belongs to L2 features: within 0.1 points of the best from
            0.01 to 50 on the validation split of CIFAR-FS. MetaOptNet's 50 belongs to 16,000 unnormalised numbers; on
            L2 features it leaves little more than inner products with class means.
        intercept: whether an intercept is fitted, which is not penalised. R2D2 and MetaOptNet have none.

    >>> import fewshot_bench as fb
    >>> fb.Ridge(penalty=0.1).hyper_parameters()
    {'features': 'l2', 'penalty': 0.1, 'intercept': False}
    >>> fb.Ridge(penalty=-1.0)
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.StudyError: penalty of ridge should be positive, not -1.0.
    """

    name: ClassVar[str] = "ridge"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"penalty": (1.0, 0.1, 0.3, 3.0, 10.0)}
    penalty: float = 1.0
    intercept: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("penalty")

    @property
    def linear_in(self) -> LinearIn:
        """Linear in the embedding."""
        return "embedding"

    @property
    def score_kind(self) -> str:
        """Predicted one-hot labels."""
        return "regression onto 1 for the class and 0 for others"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Predicted one-hot labels of every query; see `EmbeddingAdaptation.scores`."""
        return self._scores(split, support.flatten(1), support_labels(support), query)

    def uneven_scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """The same, where every image counts alike; see `EmbeddingAdaptation.uneven_scores`."""
        return self._scores(split, support.unsqueeze(0), labels, query.unsqueeze(0))[0]

    def _scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Scores [E, M, N] by support images [E, n] with labels [n]."""
        fit = partial(ridge_in_span, labels=labels, penalty=self.penalty, intercept=self.intercept)
        return scores_in_span(split, support, query, fit, _EPISODES_AT_ONCE)


def ridge_in_span(
    products: Tensor, labels: Tensor, *, penalty: float = 1.0, intercept: bool = False
) -> tuple[Tensor, Tensor]:
    """Fit ridge regression onto one-hot labels from inner products alone.

    Args:
        products: inner products of the support embeddings of each episode, [E, n, n].
        labels: class of each support image, the same in all episodes, [n].
        penalty: strength of the L2 penalty.
        intercept: whether an intercept is fitted.

    Returns:
        Coefficients A, so that W = X^T A for the support embeddings X, float64 [E, n, N]; intercepts, [E, N].

    Raises:
        ShapeError: the products are not square or there is not one label for each.

    Two images at right angles, of norm 1, and a penalty of 1: each answers with half of its label.

    >>> coefficients, _ = ridge_in_span(torch.eye(2).unsqueeze(0), torch.tensor([0, 1]), penalty=1.0)
    >>> coefficients[0].round(decimals=3).tolist()
    [[0.5, 0.0], [0.0, 0.5]]
    """
    products = symmetric_products(products, labels)
    targets = torch.nn.functional.one_hot(labels).double().expand(len(products), -1, -1)
    if not intercept:
        return penalised_solution(products, targets, penalty), targets.new_zeros(len(products), targets.shape[2])
    # With an intercept, embeddings and targets are centred, and the intercept makes up for their means.
    means = products.mean(dim=1, keepdim=True)
    centred = products - means - means.transpose(1, 2) + means.mean(dim=2, keepdim=True)
    shares = targets.mean(dim=1, keepdim=True)
    coefficients = penalised_solution(centred, targets - shares, penalty)
    # The rows of the solution sum to zero but for rounding, which would count once per query.
    coefficients = coefficients - coefficients.mean(dim=1, keepdim=True)
    return coefficients, (shares - means @ coefficients).squeeze(1)


def penalised_solution(products: Tensor, targets: Tensor, penalty: float) -> Tensor:
    """Solve (products + penalty * I) X = targets for symmetric positive semi-definite products, [E, n, N].

    Solved by Cholesky factors; by eigenvalues, ten times slower, where the penalty is far below the rounding of the
    products. Directions whose eigenvalue is rounding are left out: the embeddings have no extent there.
    """
    penalised = products.clone()
    penalised.diagonal(dim1=1, dim2=2).add_(penalty)
    factors, failures = torch.linalg.cholesky_ex(penalised)
    failed = failures > 0
    if not bool(failed.any()):
        return torch.cholesky_solve(targets, factors)
    factors[failed] = torch.eye(products.shape[1], dtype=products.dtype, device=products.device)
    solution = torch.cholesky_solve(targets, factors)
    values, vectors = torch.linalg.eigh(products[failed])
    rounding = products.shape[1] * torch.finfo(torch.float32).eps * values[:, -1:].clamp_min(0)
    inverses = torch.where(values > rounding, 1 / (values.clamp_min(0) + penalty), 0)
    inverse = (vectors * inverses.unsqueeze(1)) @ vectors.transpose(1, 2)
    solution[failed] = inverse @ targets[failed]
    return solution
