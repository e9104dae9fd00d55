"""The multi-class support vector machine of Crammer and Singer (2001), solved to a stated duality gap.

Lee et al. (2019), "Meta-learning with differentiable convex optimization" (MetaOptNet-SVM), use it as the last layer
of a network. There is no intercept. With the support embeddings x_i and their labels y_i:

    minimise over W:  1/2 |W|^2 + C * sum over i of max over c of (w_c . x_i + [c != y_i] - w_y_i . x_i)

At the optimum W = sum over i of a_i x_i^T, with coefficients that solve the dual problem for the inner products G:

    maximise over a:  sum over i of a_i,y_i - 1/2 sum over i, j of G_ij a_i . a_j
    subject to        a_i,c <= C * [c = y_i],  sum over c of a_i,c = 0

The alternating direction method of multipliers (Boyd et al., 2011) solves it for many episodes at once: a linear
system with one matrix per episode, inverted once, and a projection of each a_i onto its constraints, in turn. The
projected coefficients are feasible, so their dual objective is below the optimum and the objective of their W is
above it; an episode is solved when the two are close enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation, LinearIn
from fewshot_bench.adaptation.embedded_split import (
    EmbeddedSplit,
    scores_in_span,
    steps_per_check,
    support_labels,
    symmetric_products,
)
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import EmbeddingError

_EPISODES_AT_ONCE = 256
_ITERATIONS_PER_CHECK = 5
_OVER_RELAXATION = 1.6
_FIRST_BALANCE = 60


@ADAPTATIONS.register(
    "svm",
    "multi-class support vector machine, solved to a stated duality gap",
    paper="Crammer and Singer, 2001, Multiclass Kernel-Based Vector Machines; Lee et al., 2019, MetaOptNet",
    family="linear",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class SupportVectorMachine(EmbeddingAdaptation):
    """Support vector machine in the span of the support embeddings.

    Attributes:
        C: weight of the hinge losses against the penalty. The default belongs to L2 features: within 0.1 points of
            the best from 0.03 to 100 on the validation split of CIFAR-FS. MetaOptNet's 0.1 belongs to 16,000
            unnormalised numbers.
        diagonal: added to the inner product of each support image with itself. MetaOptNet's public code adds 1
            for the sake of its solver, which its paper does not mention.
        gap: largest difference of the primal and the dual objective at the end, relative to the primal objective. Use a
            smaller one with a C far below 0.1, where the losses outweigh |W|^2.
        max_iterations: most steps of the solver; an episode that needs more is an error.

    >>> import fewshot_bench as fb
    >>> fb.SupportVectorMachine(C=0.1).hyper_parameters()
    {'features': 'l2', 'C': 0.1, 'diagonal': 0.0, 'gap': 1e-06, 'max_iterations': 100000}
    """

    name: ClassVar[str] = "svm"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"C": (1.0, 0.1, 0.3, 3.0, 10.0)}
    C: float = 1.0
    diagonal: float = 0.0
    gap: float = 1e-6
    max_iterations: int = 100_000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("C", "gap", "max_iterations")
        self._expect_not_negative("diagonal")

    @property
    def linear_in(self) -> LinearIn:
        """Linear in the embedding."""
        return "embedding"

    @property
    def score_kind(self) -> str:
        """Values of the classes."""
        return "value of the class, at least 1 above the others within the margin"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Inner products with the weights of every class; see `EmbeddingAdaptation.scores`."""
        return self._scores(split, support.flatten(1), support_labels(support), query)

    def uneven_scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """The same, where every image counts alike; see `EmbeddingAdaptation.uneven_scores`."""
        return self._scores(split, support.unsqueeze(0), labels, query.unsqueeze(0))[0]

    def _scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Scores [E, M, N] by support images [E, n] with labels [n]."""

        def fit(products: Tensor) -> tuple[Tensor, None]:
            if self.diagonal:
                products.diagonal(dim1=1, dim2=2).add_(self.diagonal)
            return svm_in_span(products, labels, C=self.C, gap=self.gap, max_iterations=self.max_iterations), None

        return scores_in_span(split, support, query, fit, _EPISODES_AT_ONCE)


def svm_in_span(
    products: Tensor, labels: Tensor, *, C: float = 1.0, gap: float = 1e-6, max_iterations: int = 100_000
) -> Tensor:
    """Fit the support vector machine of Crammer and Singer from inner products alone.

    Args:
        products: inner products of the support embeddings of each episode, [E, n, n].
        labels: class of each support image, the same in all episodes, [n].
        C: weight of the hinge losses.
        gap: largest duality gap at the end, relative to the primal objective.
        max_iterations: steps of the solver.

    Returns:
        Coefficients A, so that W = A^T X for the support embeddings X, float64 [E, n, N].

    Raises:
        ShapeError: the products are not square or there is not one label for each.
        EmbeddingError: an episode does not reach the gap in `max_iterations` steps.

    Two images at right angles, of norm 1: both lie on the margin, w_0 . x_0 - w_1 . x_0 = 1.

    >>> svm_in_span(torch.eye(2).unsqueeze(0), torch.tensor([0, 1]), C=1.0)[0].round(decimals=3).tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    products = _without_negative_curvature(symmetric_products(products, labels))
    # Classes before images, [E, N, n], so that sums over classes run along whole rows.
    targets = torch.nn.functional.one_hot(labels).double().T.contiguous()
    state = _State.start(products, targets)
    solved = torch.empty_like(state.coefficients)
    active = torch.arange(len(products), device=products.device)
    steps, next_balance = 0, _FIRST_BALANCE
    while len(active):
        if steps >= max_iterations:
            raise EmbeddingError(
                f"the support vector machine did not reach a gap of {gap:g} in {max_iterations} steps for "
                f"{len(active)} episodes. Use a smaller C, a larger gap, or features=l2."
            )
        for _ in range(min(_ITERATIONS_PER_CHECK, max_iterations - steps)):
            before = state.coefficients
            state.step(targets, C)
            steps += 1
        is_solved = _is_solved(state.products, targets, state.coefficients, C, gap)
        count = int(is_solved.sum())
        if count:  # indices, since every use of a mask would make the host wait for a GPU
            places = is_solved.argsort(descending=True, stable=True)
            finished, unfinished = places[:count], places[count:]
            solved[active[finished]] = state.coefficients[finished]
            active, state, before = active[unfinished], state.of(unfinished), before[unfinished]
        if steps >= next_balance:
            state.balance(before)
            next_balance += max(_FIRST_BALANCE, next_balance // 4)
    return solved.transpose(1, 2)


def _is_solved(products: Tensor, targets: Tensor, coefficients: Tensor, C: float, gap: float) -> Tensor:
    """Whether the duality gap is small enough, [E].

    The primal objective is strongly convex, so |W - optimum|^2 / 2 is at most the gap. Relative to |W|^2 the gap would
    bound the error of W at any C, but took over 20,000 steps with more images than dimensions.
    """
    scores = coefficients @ products
    penalty = (scores * coefficients).sum((1, 2)) / 2
    hinge = (scores + (1 - targets)).amax(1) - (scores * targets).sum(1)
    primal = penalty + C * hinge.sum(1)
    dual = (coefficients * targets).sum((1, 2)) - penalty
    return primal - dual <= gap * primal


@dataclass
class _State:
    """Where the solver is in each episode.

    Attributes:
        products: [E, n, n].
        inverse: of products + step * I, [E, n, n].
        step_size: [E, 1, 1].
        coefficients: feasible, [E, N, n].
        multipliers: scaled dual variables of the splitting, [E, N, n].
        free: solutions of the linear systems, which need not be feasible, [E, N, n].
    """

    products: Tensor
    inverse: Tensor
    step_size: Tensor
    coefficients: Tensor
    multipliers: Tensor
    free: Tensor

    @classmethod
    def start(cls, products: Tensor, targets: Tensor) -> _State:
        # The mean squared norm as step size took the fewest steps for C from 0.1 to 10 on L2 features.
        squares = products.diagonal(dim1=1, dim2=2)
        step_size = squares.mean(1).clamp_min(1e-12).view(-1, 1, 1)
        zeros = products.new_zeros(len(products), *targets.shape)
        return cls(products, _inverse(products, step_size), step_size, zeros, zeros, zeros)

    def of(self, episodes: Tensor) -> _State:
        """The same for some of the episodes."""
        return _State(*(getattr(self, name)[episodes] for name in self.__dataclass_fields__))

    def step(self, targets: Tensor, C: float) -> None:
        """Solve the linear system, project, and move the multipliers by the difference."""
        self.free = (targets + self.step_size * (self.coefficients - self.multipliers)) @ self.inverse
        moved = _OVER_RELAXATION * self.free + (1 - _OVER_RELAXATION) * self.coefficients + self.multipliers
        self.coefficients = onto_constraints(moved, C * targets)
        self.multipliers = moved - self.coefficients

    def balance(self, before: Tensor) -> None:
        """Change the step size where one of the two residuals is far larger than the other (Boyd et al., 3.4.1).

        Few episodes get here: those with more support images than dimensions, or with a large C.

        Args:
            before: the coefficients one step ago.
        """
        size = torch.maximum(_norm(self.free), _norm(self.coefficients)).clamp_min(1e-300)
        primal = _norm(self.free - self.coefficients) / size
        dual = _norm(self.coefficients - before) / _norm(self.multipliers).clamp_min(1e-300)
        factor = (primal / dual.clamp_min(1e-300)).sqrt().clamp(0.1, 10)
        factor = torch.where((factor > 2) | (factor < 0.5), factor, 1.0)
        lowest = 1e-9 * self.products.diagonal(dim1=1, dim2=2).amax(1).clamp_min(1e-12).view(-1, 1, 1)
        step_size = torch.maximum(self.step_size * factor, lowest)
        self.multipliers = self.multipliers * (self.step_size / step_size)
        self.step_size = step_size
        self.inverse = _inverse(self.products, self.step_size)


def _without_negative_curvature(products: Tensor) -> Tensor:
    """Inner products without the negative eigenvalues that rounding leaves where images are linearly dependent."""
    dependent = torch.linalg.cholesky_ex(products).info > 0
    if not bool(dependent.any()):
        return products
    values, vectors = torch.linalg.eigh(products[dependent])
    products[dependent] = (vectors * values.clamp_min(0).unsqueeze(1)) @ vectors.transpose(1, 2)
    return products


def _inverse(products: Tensor, step_size: Tensor) -> Tensor:
    identity = torch.eye(products.shape[1], dtype=products.dtype, device=products.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(products + step_size * identity))


def _norm(values: Tensor) -> Tensor:
    """Of each episode, [E, 1, 1]."""
    return values.square().sum((1, 2), keepdim=True).sqrt()


def onto_constraints(points: Tensor, bounds: Tensor) -> Tensor:
    """Nearest points that do not exceed their bounds and sum to zero over the classes, [E, N, n].

    They are min(points - shift, bounds). The shift that is right if no bound matters is too high; with the entries
    that it leaves free, it falls, at most N times (Michelot, 1986).

    Args:
        points: [E, N, n].
        bounds: of 0 or more, [N, n].
    """
    shift = points.mean(1, keepdim=True)
    left = torch.full_like(shift, points.shape[1])
    distance = points - bounds
    often = steps_per_check(points.device)
    for step in range(points.shape[1]):
        is_free = (distance < shift).to(points.dtype)
        fewer = is_free.sum(1, keepdim=True)
        if (step + 1) % often == 0 and torch.equal(fewer, left):
            break
        shift = (bounds + is_free * distance).sum(1, keepdim=True) / fewer.clamp_min(1)
        left = fewer
    return torch.minimum(points - shift, bounds)
