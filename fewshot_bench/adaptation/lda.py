"""Linear discriminant analysis: class means and one covariance that all classes share (Fisher, 1936; Friedman, 1989).

The classes are Gaussians with means mu_c and a common covariance S, all equally likely. The most likely class of x has
the largest

    mu_c' S^-1 x - 1/2 mu_c' S^-1 mu_c

A support set has fewer images than dimensions, so S is shrunk towards a multiple of the identity, as in Friedman
(1989), "Regularized discriminant analysis":

    S = (1 - s) W + s (tr W / D) I,    W = 1/(N K) sum over images i of (x_i - mu_(y_i)) (x_i - mu_(y_i))'

This is scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)`. At one shot W is zero and scikit-learn
raises an error; here S is then a multiple of the identity, so LDA is the nearest centroid by Euclidean distance. W has
rank N (K - 1) at most, so Woodbury's identity gives S^-1 from the inner products of N K images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation, LinearIn
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, in_parts, scores_in_span
from fewshot_bench.arguments import checked_names
from fewshot_bench.errors import ShapeError

CovarianceSource = Literal["support", "base"]

_EPISODES_AT_ONCE = 128
# Scatter below this share of the squared norms is rounding of float32 inner products, not spread within classes.
_ROUNDING = 1e-6


def lda_in_span(products: Tensor, way: int, size: int, *, shrinkage: float = 0.99) -> tuple[Tensor, Tensor]:
    """Fit LDA with a shrunk covariance from inner products alone.

    Args:
        products: inner products of the support embeddings of each episode, class by class, [E, N * K, N * K].
        way: N.
        size: D, the dimension of the embeddings; the target of the shrinkage is tr W / D times the identity.
        shrinkage: s, above 0 and at most 1.

    Returns:
        Coefficients A, so that the weights of the classes are A^T X for the support embeddings X, float64
        [E, N * K, N]; intercepts, [E, N]. Both are multiples of scikit-learn's, by s (tr W / D).

    Raises:
        ShapeError: the products are not those of N classes of the same size.

    >>> coefficients, intercept = lda_in_span(torch.eye(2).unsqueeze(0), way=2, size=2)
    >>> coefficients[0].tolist(), intercept[0].tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [-0.5, -0.5])
    """
    images = products.shape[-1]
    if products.ndim != 3 or products.shape[1] != images or images % way:
        raise ShapeError(f"products [E, N * K, N * K] of N = {way} classes do not fit: {list(products.shape)}.")
    sizes = torch.full((way,), images // way, device=products.device)
    return _lda_of_sizes(products, sizes, size, shrinkage=shrinkage)


def _lda_of_sizes(products: Tensor, sizes: Tensor, size: int, *, shrinkage: float) -> tuple[Tensor, Tensor]:
    """`lda_in_span` of classes with these numbers of images, int64 [N], which follow each other."""
    gram = (products + products.transpose(1, 2)).double() / 2
    images, counts = gram.shape[1], sizes.to(gram.dtype)
    averages = torch.diag(1 / counts).repeat_interleave(sizes, dim=0)  # [n, N]
    centring = torch.eye(images, dtype=gram.dtype, device=gram.device) - averages * counts @ averages.T
    of_means = gram @ averages
    between, centred = averages.T @ of_means, centring @ of_means  # <mu_c, mu_d> and <x_i - mu_(y_i), mu_c>
    scatter = centring @ gram @ centring
    trace, whole = (matrix.diagonal(dim1=1, dim2=2).sum(1) for matrix in (scatter, gram))
    is_spread = trace > _ROUNDING * whole
    # S is s (tr W / D) times I + strength * (sum over images of the centred outer products).
    strength = torch.where(is_spread, (1 - shrinkage) / shrinkage * size / torch.where(is_spread, trace, 1), 0)
    solved = _solve(scatter, strength, centred)
    coefficients = averages - strength.view(-1, 1, 1) * (centring @ solved)
    squares = between - strength.view(-1, 1, 1) * (centred.transpose(1, 2) @ solved)
    return coefficients, -squares.diagonal(dim1=1, dim2=2) / 2


def _solve(scatter: Tensor, strength: Tensor, right: Tensor) -> Tensor:
    """(I + strength * scatter)^-1 right for each episode, [E, n, N]; scatter is positive but for rounding."""
    identity = torch.eye(scatter.shape[1], dtype=scatter.dtype, device=scatter.device)
    factor, failures = torch.linalg.cholesky_ex(identity + strength.view(-1, 1, 1) * scatter)
    failed = failures > 0
    if bool(failed.any()):
        values, vectors = torch.linalg.eigh(scatter[failed])
        raised = (vectors * values.clamp_min(0).unsqueeze(1)) @ vectors.transpose(1, 2)
        factor[failed] = torch.linalg.cholesky(identity + strength[failed].view(-1, 1, 1) * raised)
    return torch.cholesky_solve(right, factor)


@ADAPTATIONS.register(
    "lda",
    "linear discriminant analysis with a shrunk covariance that all classes share",
    paper="Fisher, 1936, The Use of Multiple Measurements in Taxonomic Problems; Friedman, 1989, Regularized "
    "Discriminant Analysis",
    family="generative",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class LDA(EmbeddingAdaptation):
    """Linear discriminant analysis.

    Attributes:
        shrinkage: share of the identity in the covariance, above 0 and at most 1; 1 is the nearest Euclidean centroid.
            The norm of the features cancels out. The default is for about 1,280 dimensions: the identity is divided
            among all of them, and the support's covariance among N (K - 1), so fewer dimensions want a smaller share.
        covariance: "support" estimates the covariance in each support set; "base" takes the one within the classes of
            the base split, which is known at one shot as well, and shrinks it in the same way.

    >>> import fewshot_bench as fb
    >>> fb.LDA(shrinkage=0.9).hyper_parameters()
    {'features': 'l2', 'shrinkage': 0.9, 'covariance': 'support'}
    >>> fb.LDA(covariance="base").needs_base_covariance
    True
    """

    name: ClassVar[str] = "lda"
    grid: ClassVar[dict[str, tuple[Any, ...]]] = {"shrinkage": (0.99, 0.999, 0.9, 0.5)}
    shrinkage: float = 0.99
    covariance: CovarianceSource = "support"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect(0 < self.shrinkage <= 1, "shrinkage", "above 0 and at most 1")

    @property
    def needs_base_covariance(self) -> bool:
        """Whether the covariance is that of the base split."""
        return self.covariance == "base"

    @property
    def linear_in(self) -> LinearIn:
        """Linear in the embedding."""
        return "embedding"

    @property
    def score_kind(self) -> str:
        """Discriminants, up to a factor."""
        return "discriminant, of classes that are equally likely"

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Discriminant of every query and class; see `EmbeddingAdaptation.scores`."""
        if self.covariance == "base":
            return self._with_base_covariance(split, support, query)
        size = split.embeddings.shape[1]
        fit = partial(lda_in_span, way=support.shape[1], size=size, shrinkage=self.shrinkage)
        return scores_in_span(split, support.flatten(1), query, fit, _EPISODES_AT_ONCE)

    def uneven_scores(self, split: EmbeddedSplit, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
        """The same; a large class counts more in the covariance. See `EmbeddingAdaptation.uneven_scores`."""
        sizes = torch.bincount(labels)
        if self.covariance == "base":
            means = torch.stack([rows.mean(dim=0) for rows in torch.split(split.rows(support), sizes.tolist())])
            return self._by_base_covariance(split, means.unsqueeze(0), query.unsqueeze(0))[0]
        fit = partial(_lda_of_sizes, sizes=sizes, size=split.embeddings.shape[1], shrinkage=self.shrinkage)
        return scores_in_span(split, support.unsqueeze(0), query.unsqueeze(0), fit, _EPISODES_AT_ONCE)[0]

    def _with_base_covariance(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """The same with one covariance for all episodes, whose inverse is made once."""
        parts = in_parts(_EPISODES_AT_ONCE, support, query)
        return torch.cat([self._by_base_covariance(split, split.rows(own).mean(dim=2), other) for own, other in parts])

    def _by_base_covariance(self, split: EmbeddedSplit, means: Tensor, query: Tensor) -> Tensor:
        """Discriminants [E, M, N] by class means [E, N, D]."""
        weights = (means.flatten(0, 1) @ split.inverse_base_covariance(self.shrinkage)).view_as(means)
        intercept = -(weights * means).sum(dim=2) / 2
        return torch.baddbmm(intercept.unsqueeze(1), split.rows(query), weights.transpose(1, 2))
