"""Multinomial logistic regression on each support set, solved to convergence for many episodes at once.

Tian et al. (2020), "Rethinking few-shot image classification: a good embedding is all you need?", classify
this way. The objective is scikit-learn's, with an intercept that is not penalised:

    1/2 |W|^2 + C * sum over i of -log softmax(W x_i + b)[y_i]

At the optimum W = C * sum over i of (onehot(y_i) - p_i) x_i^T lies in the span of the support embeddings.

Tian et al. fit it to five augmented copies of each support image instead of the image itself: `views=5`. As in their
code the copies are padded by an eighth, cropped, changed in brightness, contrast and saturation, and flipped. A study
makes the copies of every image once; their code draws new ones in each episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, LOGITS, EmbeddingAdaptation, LinearIn
from fewshot_bench.adaptation.embedded_split import (
    EmbeddedSplit,
    scores_in_span,
    steps_per_check,
    support_labels,
    symmetric_products,
)
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import EmbeddingError
from fewshot_bench.training.recipe import AugmentationName

_EPISODES_AT_ONCE = 256
_PRODUCTS_AT_ONCE = 256 * 25**2
_LARGEST_CG = 200
_LARGEST_HALVINGS = 40


@ADAPTATIONS.register(
    "logistic",
    "multinomial logistic regression with L2 penalty, solved to convergence",
    paper="Tian et al., 2020, Rethinking Few-Shot Image Classification",
    family="linear",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class Logistic(EmbeddingAdaptation):
    """Logistic regression in the span of the support embeddings.

    Attributes:
        C: inverse strength of the penalty, as scikit-learn has it.
        tolerance: largest entry of the gradient at the end, relative to C.
        max_iterations: most Newton steps; an episode that needs more is an error.
        views: augmented views of each support image to train on instead of the image; 0 is the image itself.
            The loss is a sum over all views, as in scikit-learn, so C counts V times as much.
        augmentation: what makes the views; "jitter" is that of Tian et al., "auto" is AutoAugment for colour images.

    >>> import fewshot_bench as fb
    >>> fb.Logistic(C=10.0).hyper_parameters()
    {'features': 'l2', 'C': 10.0, 'tolerance': 1e-08, 'max_iterations': 100}
    >>> fb.Logistic(choose="support-cv").hyper_parameters()["grid"]
    {'C': [1.0, 0.1, 10.0, 100.0]}
    """

    name: ClassVar[str] = "logistic"
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"C": (1.0, 0.1, 10.0, 100.0)}
    C: float = 1.0
    tolerance: float = 1e-8
    max_iterations: int = 100
    views: int = 0
    augmentation: AugmentationName = "jitter"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_positive("C", "tolerance", "max_iterations")
        self._expect_whole(0, "views")

    @property
    def augmented_views(self) -> int:
        """As many as are trained on."""
        return self.views

    @property
    def augmentation_of_views(self) -> AugmentationName:
        """The one that was chosen."""
        return self.augmentation

    def hyper_parameters(self) -> dict[str, Any]:
        """Every hyper-parameter; views and augmentation only where there are views, so old fingerprints hold."""
        values = super().hyper_parameters()
        unused = () if self.views else ("views", "augmentation")
        return {name: value for name, value in values.items() if name not in unused}

    @property
    def linear_in(self) -> LinearIn:
        """Linear in the embedding."""
        return "embedding"

    @property
    def score_kind(self) -> str:
        """Logits."""
        return LOGITS

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Logits of every query; see `EmbeddingAdaptation.scores`."""
        if split.views < self.views:
            raise EmbeddingError(f"logistic needs {self.views} augmented views; there are {split.views}.")
        return self._scores(split, support.flatten(1), support_labels(support), query)

    def uneven_scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Logits, where every image counts alike; see `EmbeddingAdaptation.uneven_scores`."""
        return self._scores(split, support.unsqueeze(0), labels, query.unsqueeze(0))[0]

    def _scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """Logits [E, M, N] by support images [E, n] with labels [n]."""
        labels, rows = labels.repeat(max(1, self.views)), support
        if self.views:
            rows = torch.cat([rows + view * split.images for view in range(1, self.views + 1)], dim=1)
        # A part's matrices should stay near the cache; 256 episodes of 5-way 5-shot without views do.
        at_once = max(1, min(_EPISODES_AT_ONCE, _PRODUCTS_AT_ONCE // len(labels) ** 2))
        fit = partial(
            logistic_in_span, labels=labels, C=self.C, tolerance=self.tolerance, max_iterations=self.max_iterations
        )
        return scores_in_span(split, rows, query, fit, at_once)

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Gathered embeddings of the support's views and the queries, and their products."""
        trained_on = way * shot * max(1, self.views)
        return 2 * (trained_on + queries) * embedding_size + 4 * queries * trained_on


def logistic_in_span(
    products: Tensor, labels: Tensor, *, C: float = 1.0, tolerance: float = 1e-8, max_iterations: int = 100
) -> tuple[Tensor, Tensor]:
    """Fit logistic regression from inner products alone.

    Args:
        products: inner products of the support embeddings of each episode, [E, n, n].
        labels: class of each support image, the same in all episodes, [n].
        C: inverse strength of the penalty.
        tolerance: largest entry of the gradient at the end, relative to C.
        max_iterations: Newton steps.

    Returns:
        Coefficients A, so that W = A^T X for the support embeddings X, float64 [E, n, N]; intercepts, [E, N].

    Raises:
        ShapeError: the products are not square or there is not one label for each.
        EmbeddingError: the iteration did not converge, which finite embeddings do not cause.
    """
    features = _features(symmetric_products(products, labels))
    # Classes before images, [E, N, n]: softmax over a middle axis is several times faster than over a short last one.
    targets = torch.nn.functional.one_hot(labels).double().T.expand(len(products), -1, -1)
    weights = features.new_zeros(len(features), targets.shape[1], features.shape[2])
    problem = _Problem(features, targets, C)
    active = torch.arange(len(features), device=features.device)
    for _ in range(max_iterations):
        now = problem.of(active)
        gradient, probabilities = now.gradient(weights[active])
        unfinished = torch.nonzero(gradient.abs().amax((1, 2)) > tolerance * C).squeeze(1)
        if not len(unfinished):
            break
        active, now = active[unfinished], now.of(unfinished)
        weights[active] = _newton_step(now, weights[active], gradient[unfinished], probabilities[unfinished])
    else:
        raise EmbeddingError(
            f"logistic regression did not converge in {max_iterations} steps for {len(active)} episodes. "
            "Check the embeddings, or use a smaller C."
        )
    probabilities = torch.softmax(weights @ features.transpose(1, 2), dim=1)
    return C * (targets - probabilities).transpose(1, 2), weights[:, :, -1]


def _features(symmetric: Tensor) -> Tensor:
    """Coordinates of the support images in their span, and a column of ones for the intercept, [E, n, n + 1].

    A Cholesky factor where the images are independent; where an image occurs twice, or there are more images than
    dimensions, the square root by eigenvalues, which takes ten times longer.
    """
    factor, failures = torch.linalg.cholesky_ex(symmetric)
    dependent = failures > 0
    if bool(dependent.any()):
        values, vectors = torch.linalg.eigh(symmetric[dependent])
        factor[dependent] = vectors * values.clamp_min(0).sqrt().unsqueeze(1)
    return torch.cat([factor, factor.new_ones(len(factor), factor.shape[1], 1)], dim=2)


@dataclass(frozen=True)
class _Problem:
    """Logistic regression of each episode: features [E, n, d], the last one constant, and targets [E, N, n]."""

    features: Tensor
    targets: Tensor
    C: float

    def of(self, episodes: Tensor) -> _Problem:
        """The same for a selection of the episodes, by their positions in ascending order."""
        if len(episodes) == len(self.features):
            return self
        return _Problem(self.features[episodes], self.targets[episodes], self.C)

    def gradient(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [E, N, d] and class probabilities [E, N, n]."""
        probabilities = torch.softmax(weights @ self.features.transpose(1, 2), dim=1)
        slope = self.C * ((probabilities - self.targets) @ self.features)
        slope[:, :, :-1] += weights[:, :, :-1]
        return slope, probabilities

    def objective(self, weights: Tensor) -> Tensor:
        """Value of each episode, [E]."""
        log_probabilities = torch.log_softmax(weights @ self.features.transpose(1, 2), dim=1)
        loss = -(log_probabilities * self.targets).sum((1, 2))
        return self.C * loss + weights[:, :, :-1].square().sum((1, 2)) / 2


def _newton_step(problem: _Problem, weights: Tensor, gradient: Tensor, probabilities: Tensor) -> Tensor:
    """Damped Newton step; its direction comes from conjugate gradients, [E, N, d]."""
    direction = _solve(problem, gradient, probabilities)
    slope = (gradient * direction).sum((1, 2))
    before = problem.objective(weights)
    slack = 1e-13 * before.abs()
    length = torch.ones_like(slope)
    for _ in range(_LARGEST_HALVINGS):
        after = problem.objective(weights - length.view(-1, 1, 1) * direction)
        too_far = ~(after <= before - 1e-4 * length * slope + slack)
        if not bool(too_far.any()):
            break
        length = torch.where(too_far, length / 2, length)
    return weights - length.view(-1, 1, 1) * direction


def _solve(problem: _Problem, gradient: Tensor, probabilities: Tensor) -> Tensor:
    """Hessian^-1 gradient by preconditioned conjugate gradients; finished episodes do not change, [E, N, d].

    The Hessian couples classes through the softmax; the preconditioner leaves the coupling out and so is one small
    inverse per episode. It is exact for equal probabilities, where every fit starts.
    """
    features, C = problem.features, problem.C
    transposed = features.transpose(1, 2)
    inverse = _preconditioner(problem, probabilities)
    solution = torch.zeros_like(gradient)
    residual = gradient
    preconditioned = _centered(residual @ inverse)
    search = preconditioned
    energy = (residual * preconditioned).sum((1, 2))
    # Loose while far from the optimum, tight near it: the outer iteration stays quadratic.
    first = energy.clamp_min(torch.finfo(energy.dtype).tiny)
    target = first * torch.minimum(torch.full_like(first, 1e-3), first / C).clamp_min(1e-16)
    often = steps_per_check(gradient.device)
    for step in range(_LARGEST_CG):
        running = energy > target
        if (step + 1) % often == 0 and not bool(running.any()):
            break
        weighted = probabilities * (search @ transposed)
        curved = weighted - probabilities * weighted.sum(1, keepdim=True)
        image = C * (curved @ features)
        image[:, :, :-1] += search[:, :, :-1]
        curvature = (search * image).sum((1, 2))
        length = torch.where(running & (curvature > 0), energy / curvature.clamp_min(1e-300), 0).view(-1, 1, 1)
        solution = solution + length * search
        residual = residual - length * image
        preconditioned = _centered(residual @ inverse)
        renewed = (residual * preconditioned).sum((1, 2))
        momentum = torch.where(running, renewed / energy.clamp_min(1e-300), 0).view(-1, 1, 1)
        search = preconditioned + momentum * search
        energy = torch.where(running, renewed, 0)
    return solution


def _centered(step: Tensor) -> Tensor:
    """Without what all classes share, which changes no probability and would only gather rounding errors."""
    return step - step.mean(dim=1, keepdim=True)


def _preconditioner(problem: _Problem, probabilities: Tensor) -> Tensor:
    """Inverse of the Hessian with the mean curvature of each image in place of the softmax's, [E, d, d]."""
    way = probabilities.shape[1]
    curvature = (1 - probabilities.square().sum(1)) / (way - 1)
    weighted = problem.features * (problem.C * curvature).clamp_min(1e-12).unsqueeze(-1)
    matrix = problem.features.transpose(1, 2) @ weighted
    matrix.diagonal(dim1=1, dim2=2)[:, :-1] += 1
    return torch.cholesky_inverse(torch.linalg.cholesky(matrix))
