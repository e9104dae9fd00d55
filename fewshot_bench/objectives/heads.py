"""Heads that classify the queries of many tasks by their support sets, with gradients in both.

Each is an adaptation of the same name, so that a network is trained by what it is evaluated with:

- `centroid`: Euclidean distances from the means of the classes (Snell et al., 2017); see `adaptation.centroid`.
- `matching`: attention over the support images (Vinyals et al., 2016).
- `ridge`: ridge regression in closed form (Bertinetto et al., 2019; Lee et al., 2019).
- `svm`: the support vector machine of Crammer and Singer (Lee et al., 2019), whose solution is found by the
  adaptation's solver and differentiated through the optimality conditions of its dual.

Ridge regression and the support vector machine make the host wait for a GPU, to see whether a solver has finished.

Shapes: T tasks, N way, K shot, n = N * K support images, M queries, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from fewshot_bench.adaptation.centroid import nearest_centroid
from fewshot_bench.adaptation.knn import log_attention
from fewshot_bench.adaptation.ridge import penalised_solution, ridge_in_span
from fewshot_bench.adaptation.svm import onto_constraints, svm_in_span
from fewshot_bench.errors import EmbeddingError, ShapeError, StudyError
from fewshot_bench.training.recipe import Recipe

_RIDGE_PENALTY, _SVM_C = 50.0, 0.1  # MetaOptNet's, for embeddings that are not normalised


class EpisodicHead(nn.Module):
    """The head of a recipe, with the scale of its scores.

    Attributes:
        scale: a learned factor of the scores, []; None where it is fixed. MetaOptNet (Lee et al., 2019) learns it,
            since predicted one-hot labels are too close to each other for a cross-entropy. It changes no prediction,
            so it is part of a training's state, not of the trained network.
    """

    def __init__(self, recipe: Recipe) -> None:
        """Take the settings of a recipe."""
        super().__init__()
        self.name, self.penalty, self.factor = recipe.episodic_head, recipe.head_penalty, recipe.head_scale
        is_learned = recipe.learned_scale
        if is_learned is None:
            is_learned = self.name in ("ridge", "svm")
        self.scale = nn.Parameter(torch.ones(())) if is_learned else None

    def forward(self, support: Tensor, query: Tensor) -> Tensor:
        """Logits [T, M, N] of queries [T, M, D] by support sets [T, N, K, D]; see the functions of this file."""
        if self.name == "matching":
            return matching(support, query, scale=self.factor)
        logits = self.factor * self._scores(support, query)
        return logits if self.scale is None else self.scale * logits

    def _scores(self, support: Tensor, query: Tensor) -> Tensor:
        if self.name == "ridge":
            return ridge(support, query, penalty=self.penalty or _RIDGE_PENALTY)
        if self.name == "svm":
            return svm(support, query, C=self.penalty or _SVM_C)
        return nearest_centroid(support, query, metric="euclidean")


def matching(support: Tensor, query: Tensor, *, scale: float = 1.0) -> Tensor:
    """Classify by attention over the support images (Vinyals et al., 2016, without full context embeddings).

    Args:
        support: embeddings of the support sets, [T, N, K, D].
        query: embeddings of the queries, [T, M, D].
        scale: factor of the cosines before the softmax; 1 in the paper.

    Returns:
        Log-probabilities, [T, M, N].

    Raises:
        ShapeError: the tasks or the embedding sizes differ.
    """
    _check_shapes(support, query)
    way, shot = support.shape[1:3]
    cosines = normalize(support.flatten(1, 2), dim=-1) @ normalize(query, dim=-1).transpose(1, 2)
    return log_attention(cosines.view(len(support), way, shot, -1), scale=scale)


def ridge(support: Tensor, query: Tensor, *, penalty: float = _RIDGE_PENALTY) -> Tensor:
    """Classify by ridge regression onto one-hot labels (Bertinetto et al., 2019; Lee et al., 2019).

    Args:
        support: embeddings of the support sets, [T, N, K, D].
        query: embeddings of the queries, [T, M, D].
        penalty: strength of the L2 penalty; the default is MetaOptNet's.

    Returns:
        Predicted one-hot labels, [T, M, N].

    Raises:
        ShapeError: the tasks or the embedding sizes differ.
    """
    return _scores_in_span(support, query, lambda products, labels: ridge_in_span(products, labels, penalty=penalty)[0])


def svm(support: Tensor, query: Tensor, *, C: float = _SVM_C) -> Tensor:
    """Classify by the support vector machine of Crammer and Singer (2001), as MetaOptNet does (Lee et al., 2019).

    Args:
        support: embeddings of the support sets, [T, N, K, D].
        query: embeddings of the queries, [T, M, D].
        C: weight of the hinge losses; the default is MetaOptNet's.

    Returns:
        Inner products with the weights of each class, [T, M, N].

    Raises:
        ShapeError: the tasks or the embedding sizes differ.
        StudyError: the solver does not converge.
    """

    def solve(products: Tensor, labels: Tensor) -> Tensor:
        smallest_curvature = products.shape[1] * torch.finfo(support.dtype).eps
        try:
            return differentiable_svm(products.double(), labels, C=C, smallest_curvature=smallest_curvature)
        except EmbeddingError as error:
            raise StudyError(
                "the support vector machine of a training task does not converge; its support images are too much "
                "alike, or too far apart. Use a smaller --head-penalty or --learning-rate."
            ) from error

    return _scores_in_span(support, query, solve)


def differentiable_svm(products: Tensor, labels: Tensor, *, C: float, smallest_curvature: float = 1e-12) -> Tensor:
    """The coefficients of `svm_in_span` with a gradient in the inner products.

    At the optimum, entries of the coefficients A are at their bounds or free. The optimality conditions of the free
    ones, G A - Y + nu 1^T = 0 with rows of A that sum to zero, are linear. A step of Newton's method solves them, and
    taken at the solution, with a constant matrix, it has the derivative of the solution (implicit function theorem).
    The derivative does not exist where an entry is at its bound with a multiplier of zero, or where the solution is not
    unique; this is then one of its one-sided derivatives.

    Differentiating through the solver's iterations would keep the activations of all of them.

    Args:
        products: inner products of the support embeddings, G, float64 [T, n, n].
        labels: class of each support image, the same in all tasks, [n].
        C: weight of the hinge losses.
        smallest_curvature: relative to the mean squared norm; directions in which the products curve less are
            damped, since they hold rounding errors.

    Returns:
        A, so that W = A^T X for the support embeddings X, float64 [T, n, N].

    Raises:
        EmbeddingError: the solver does not converge.
    """
    targets = one_hot(labels).to(products.dtype)
    constant = products.detach()
    with torch.no_grad():
        solution = svm_in_span(constant, labels, C=C)
    step = _newton_step(solution, products, targets, C, smallest_curvature)
    with torch.no_grad():  # from the solver's duality gap to the precision of float64
        errors = [_distance_from_optimum(values, constant, targets, C) for values in (step, solution)]
    is_better = (errors[0] < errors[1]).view(-1, 1, 1)
    return torch.where(is_better, step, solution + (step - step.detach()))


def _newton_step(
    coefficients: Tensor, products: Tensor, targets: Tensor, C: float, smallest_curvature: float
) -> Tensor:
    """Solve the optimality conditions of the entries that are free at these coefficients, [T, n, N]."""
    tasks, images, way = coefficients.shape
    with torch.no_grad():
        constant = products.detach()
        size = _mean_square(constant)
        start = _projected(coefficients, constant, targets, C)
        is_free = (start < C * targets).to(products.dtype)
        free = is_free.sum(2).clamp_min(1).view(tasks, images, 1, 1)
        # Changes of the free entries that keep the sum of an image: a projection [N, N] for each image.
        of_free = torch.diag_embed(is_free) - is_free.unsqueeze(3) * is_free.unsqueeze(2) / free
        pairs = torch.einsum("tice,tjed->ticjd", of_free, of_free)
        curvature = (constant / size).view(tasks, images, 1, images, 1) * pairs
        # The other changes get a curvature too, so that the system can be solved; its right-hand side has none.
        curvature = curvature.reshape(tasks, images * way, images * way)
        others = torch.eye(way, dtype=products.dtype, device=products.device) - of_free
        places = torch.arange(images, device=products.device)
        curvature.view(tasks, images, way, images, way)[:, places, :, places, :] += others.transpose(0, 1)
    slope = torch.einsum("tice,tie->tic", of_free, (targets - products @ start) / size)
    change = penalised_solution(curvature, slope.reshape(tasks, -1, 1), smallest_curvature)
    return start + change.view(tasks, images, way)


def _projected(coefficients: Tensor, products: Tensor, targets: Tensor, C: float) -> Tensor:
    """A step along the gradient of the dual objective, back onto the constraints; the optimum stays where it is."""
    moved = coefficients + (targets - products @ coefficients) / _mean_square(products)
    return onto_constraints(moved.transpose(1, 2).contiguous(), C * targets.T).transpose(1, 2)


def _distance_from_optimum(coefficients: Tensor, products: Tensor, targets: Tensor, C: float) -> Tensor:
    """0 only at the optimum, [T]."""
    return (coefficients - _projected(coefficients, products, targets, C)).abs().amax((1, 2))


def _mean_square(products: Tensor) -> Tensor:
    """Mean squared norm of the support embeddings of each task, [T, 1, 1]."""
    return products.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12).view(-1, 1, 1)


def _check_shapes(support: Tensor, query: Tensor) -> None:
    if support.ndim != 4 or query.ndim != 3 or support.shape[::3] != query.shape[::2]:
        raise ShapeError(
            f"support [T, N, K, D] and query [T, M, D] do not fit: {list(support.shape)} and {list(query.shape)}."
        )


def _scores_in_span(support: Tensor, query: Tensor, solve: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Scores of the queries by coefficients of the support embeddings, [T, M, N].

    `solve` gives the coefficients, [T, n, N], from the inner products of the support embeddings, [T, n, n], and the
    class of each, [n]. Embeddings that are not finite give NaN, so that the training reports its loss; no solver could
    end.
    """
    _check_shapes(support, query)
    rows = support.flatten(1, 2)
    labels = torch.arange(support.shape[1], device=support.device).repeat_interleave(support.shape[2])
    products = rows @ rows.transpose(1, 2)
    if not products.isfinite().all():
        return (query.sum() + support.sum()) * query.new_full((*query.shape[:2], support.shape[1]), torch.nan)
    coefficients = solve(products, labels)
    return ((query @ rows.transpose(1, 2)).to(coefficients.dtype) @ coefficients).to(query.dtype)
