"""iLPC: labels spread over a graph, balanced, and added to the support set a few of the cleanest at a time.

Lazarou, Stathaki, Avrithis (2021), "Iterative label cleaning for transductive and semi-supervised few-shot learning".
Each round has four steps, on the support images and the queries of an episode together:

    propagation: W joins every image to its k nearest by cosine, with weight cosine^3, made symmetric and normalised by
        the square roots of the degrees; Z = (1 - alpha W)^-1 Y spreads the known labels Y (Zhou et al., 2004);
    balancing: Sinkhorn's iteration brings the query rows of Z, raised to a power, to one for each query and the same
        total for each class; the largest entry is a query's pseudo-label;
    cleaning: a linear classifier starts at the class means of the labelled images and is trained on labels and
        pseudo-labels. It learns the clean ones first, so those of the smallest loss, averaged over the training, are
        trusted (Huang et al., 2019, "O2U-Net");
    selection: of each class, the queries of smallest loss join the support set with their pseudo-label.

Rounds continue until every query has joined, or fewer of them are selected than there are classes.

What the paper leaves open follows the authors' code, which gives the published numbers: the totals of a class are what
is left of M / N after each selection; three queries of a class join at a time; training takes 1,000 steps on all
images, at a learning rate of 0.1 with momentum 0.9 and weight decay 5e-4. Their linear layer draws its first bias at
random; here it starts at zero. Where the totals leave a tie, the propagated probabilities decide, and images that are
equally near or equally clean are taken together: the order of images and classes never decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import Any, ClassVar

import torch
from torch import Tensor

from fewshot_bench.adaptation.base import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, Features, steps_per_check
from fewshot_bench.adaptation.transductive.episode_products import Centering, centered_grams
from fewshot_bench.adaptation.transductive.sinkhorn import decide_ties, transport_plan
from fewshot_bench.arguments import checked_names

LONGEST_STRIDE = 128
"""The most steps that are ever taken together."""

_LEARNING_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.1, 0.9, 5e-4
_ALLOWED_ERROR = 1e-3
_FASTEST_GROWTH, _FASTEST_SHRINKING = 1.5, 0.3


def mean_training_losses(
    products: Tensor, labels: Tensor, targets: Tensor, *, steps: int, stride: int = LONGEST_STRIDE
) -> Tensor:
    """Train a linear classifier on all images of each episode and average each image's loss over the training.

    The training is gradient descent with momentum, v <- momentum v + slope(w), w <- w - rate v, on all images at once.
    It follows the path of the logits, for which inner products suffice. Once slopes change slowly, the slopes of the
    next h steps are extrapolated along a line from the last two, and h steps of momentum along a line have a closed
    form. Each episode sets its own h by the error of its last extrapolation, so that the logits stay within about a
    thousandth of those of single steps. A thousand steps then take about sixty slopes.

    Args:
        products: inner products of the images, which have norm one, [E, B, B].
        labels: the images whose class means, normalised, are the first weights, 0 or 1, [E, N, B].
        targets: what the classifier is trained to say, one class for each image, 0 or 1, [E, N, B].
        steps: of gradient descent on the mean cross-entropy; a bias is trained too, from zero.
        stride: largest h, 1 to 128; 1 computes the slope of every step.

    Returns:
        The mean over the steps of the loss before each step, [E, B].
    """
    means = labels / labels.sum(2, keepdim=True)
    logits = means @ products
    squares = (logits * means).sum(2, keepdim=True)
    logits = logits * torch.where(squares > 0, squares.clamp_min(1e-30).rsqrt(), 0)
    # A step moves weights by products and the bias by ones; weight decay shrinks both, and so the logits.
    kernel = (products + 1) / products.shape[1]
    table = torch.tensor(_closed_forms(), dtype=logits.dtype, device=logits.device)
    velocity, trend = torch.zeros_like(logits), torch.zeros_like(logits)
    length = logits.new_ones(len(logits))
    left = torch.full_like(length, steps, dtype=torch.int64)
    ahead = torch.minimum(length.long(), left)
    slope, losses = _slope(logits, kernel, targets)
    # Losses between two evaluations lie on a line: those of the steps 0 to h - 1 from here sum to this.
    total = losses * _shape(ahead + 1, losses) / 2
    often = steps_per_check(logits.device)
    for evaluation in count(1):
        weights = table[ahead].T.unsqueeze(-1).unsqueeze(-1)
        kept, by_slope, by_trend, moved_by_velocity, moved_by_slope, moved_by_trend = weights
        change = moved_by_velocity * velocity + moved_by_slope * slope + moved_by_trend * trend
        logits = logits - _LEARNING_RATE * change
        velocity = kept * velocity + by_slope * slope + by_trend * trend
        expected, previous, taken = slope + _shape(ahead, slope) * trend, slope, ahead
        left = left - ahead
        slope, losses = _slope(logits, kernel, targets)
        total = total + losses * _shape((taken - 1).clamp_min(0), losses) / 2
        if evaluation % often == 0 and not bool((left > 0).any()):
            break
        error = (slope - expected).abs().amax((1, 2)) * taken
        growth = (_ALLOWED_ERROR / error.clamp_min(1e-20)).pow(1 / 3).clamp(_FASTEST_SHRINKING, _FASTEST_GROWTH)
        length = (length * growth).clamp(1, stride)
        trend = (slope - previous) / _shape(taken.clamp_min(1), slope)
        ahead = torch.minimum(length.long(), left)
        total = total + losses * _shape(torch.where(ahead > 0, ahead + 1, 0), losses) / 2
    return total / steps


def _slope(logits: Tensor, kernel: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """What a step moves logits along, [E, N, B], and the loss of each image, [E, B]."""
    largest = logits.amax(1, keepdim=True)
    probabilities = (logits - largest).exp_()
    sums = probabilities.sum(1, keepdim=True)
    losses = (sums.log() + largest).squeeze(1) - (logits * targets).sum(1)
    residuals = probabilities.div_(sums).sub_(targets)
    return torch.baddbmm(logits, residuals, kernel, beta=_WEIGHT_DECAY), losses


def _shape(counts: Tensor, like: Tensor) -> Tensor:
    """Counts of episodes [E] as numbers beside [E, ...]."""
    return counts.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


@cache
def _closed_forms() -> tuple[tuple[float, ...], ...]:
    """What h steps along slopes g, g + t, ..., g + (h - 1) t make of a velocity v, and how far they go; by h from 0.

    Each row holds the factors of v, g and t in the velocity after h steps, and those in the sum of its h velocities.
    """
    velocity = [1.0, 0.0, 0.0]
    moved = [0.0, 0.0, 0.0]
    rows = [(*velocity, *moved)]
    for step in range(LONGEST_STRIDE):
        velocity = [_MOMENTUM * factor + added for factor, added in zip(velocity, (0.0, 1.0, step), strict=True)]
        moved = [so_far + factor for so_far, factor in zip(moved, velocity, strict=True)]
        rows.append((*velocity, *moved))
    return tuple(rows)


_EPISODES_AT_ONCE = 64
_SIMILARITY_POWER = 3

# Cosines and losses closer than this are equal: float32 products tell no more.
_SAME_COSINE = 1e-6
_SAME_LOSS = 1e-6
_SAME_LOGARITHM = 1e-6
_LEAST_PROBABILITY = 1e-30
_TOLERANCE = 1e-9


@ADAPTATIONS.register(
    "ilpc",
    "labels spread over a nearest-neighbour graph, balanced, and added to the support set cleanest first",
    paper="Lazarou et al., 2021, Iterative Label Cleaning for Transductive and Semi-Supervised Few-Shot Learning",
    family="graph",
)
@checked_names
@dataclass(frozen=True, kw_only=True)
class ILPC(EmbeddingAdaptation):
    """Iterative label propagation and cleaning.

    Attributes:
        features: "power" is the power transform of the paper; "signed-power" where embeddings can be negative.
        neighbours: k of the graph; 20 is the authors' choice for wide residual networks, 15 for ResNet-12.
        alpha: share of an image's label that comes from its neighbours, below 1.
        power: exponent of the propagated probabilities before balancing; larger is sharper.
        selected: queries of each class that join the support set in one round.
        cleaning_steps: training steps of the classifier that finds clean labels, in every round.
        stride: training steps taken together at most, 1 to 128, where slopes change slowly; 1 takes each alone.
        centering: mean subtracted from each episode's images, "joint" (support and queries together), "separate" or
            "none".
        balanced: whether every class receives the same number of queries; without it, propagation alone decides.

    >>> import fewshot_bench as fb
    >>> method = fb.ILPC(features="signed-power")
    >>> method.is_transductive, method.assumes_balanced_queries
    (True, True)
    >>> fb.ILPC(balanced=False).assumes_balanced_queries
    False
    """

    name: ClassVar[str] = "ilpc"
    is_transductive = True
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {"neighbours": (20, 10, 15, 30), "alpha": (0.8, 0.5, 0.9)}
    features: Features = "power"
    neighbours: int = 20
    alpha: float = 0.8
    power: float = 3.0
    selected: int = 3
    cleaning_steps: int = 1000
    stride: int = LONGEST_STRIDE
    centering: Centering = "joint"
    balanced: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._expect_whole(1, "neighbours", "selected", "cleaning_steps")
        is_stride = type(self.stride) is int and 1 <= self.stride <= LONGEST_STRIDE
        self._expect(is_stride, "stride", f"a whole number from 1 to {LONGEST_STRIDE}")
        self._expect(0 < self.alpha < 1, "alpha", "between 0 and 1")
        self._expect_positive("power")

    @property
    def assumes_balanced_queries(self) -> bool:
        """Every class receives the same number of queries, unless `balanced` is off."""
        return self.balanced

    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """The balanced probabilities of each query in the round that it joined; see `EmbeddingAdaptation.scores`."""
        way, shot = support.shape[1:]
        grams = centered_grams(split, support, query, self.centering, _EPISODES_AT_ONCE)
        found = [_Rounds(self, products, way, shot).probabilities() for products in grams]
        return torch.cat(found).transpose(1, 2)

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """Inner products, the graph and a handful of probabilities; embeddings are gathered for a few episodes."""
        images = way * shot + queries
        return 2 * images * embedding_size // 8 + 12 * images**2 + 24 * way * images


class _Rounds:
    """The rounds of some episodes: labels of all images [E, N, n + M] grow until every query has one."""

    def __init__(self, settings: ILPC, products: Tensor, way: int, shot: int) -> None:
        self.settings, self.way, self.labelled = settings, way, way * shot
        cosines = _cosines(products)
        self.spreading = propagation(cosines, neighbours=settings.neighbours, alpha=settings.alpha)
        self.cosines = cosines.float()
        self.labels = cosines.new_zeros(len(cosines), way, cosines.shape[1])
        self.labels[:, :, : self.labelled] = torch.eye(way).repeat_interleave(shot, dim=1)
        self.queries = cosines.shape[1] - self.labelled

    def probabilities(self) -> Tensor:
        """Balanced probabilities of each query in the round that decided it, [E, N, M]."""
        found = self.labels.new_zeros(len(self.labels), self.way, self.queries)
        active = torch.arange(len(self.labels), device=found.device)
        # Each round decides at least as many queries as there are classes, or all that are left.
        while len(active):
            labels = self.labels[active]
            undecided = labels[:, :, self.labelled :].sum(1) == 0
            plan = self._balanced(self.spreading[active], labels, undecided)
            pseudo = torch.nn.functional.one_hot(plan.argmax(1), self.way).transpose(1, 2).to(plan.dtype)
            pseudo = pseudo * undecided.unsqueeze(1)
            targets = torch.cat([labels[:, :, : self.labelled], labels[:, :, self.labelled :] + pseudo], dim=2)
            # Classifiers train in float32: their losses are only compared.
            losses = mean_training_losses(
                self.cosines[active],
                labels.float(),
                targets.float(),
                steps=self.settings.cleaning_steps,
                stride=self.settings.stride,
            )
            chosen = cleanest(losses[:, self.labelled :], pseudo > 0, self.settings.selected)
            chosen |= undecided & (chosen.sum(1) < self.way).unsqueeze(1)
            of_chosen = chosen.unsqueeze(1)
            found[active] = torch.where(of_chosen, plan, found[active])
            labels[:, :, self.labelled :] += pseudo * of_chosen
            self.labels[active] = labels
            active = active[(undecided & ~chosen).any(1)]
        return found

    def _balanced(self, spreading: Tensor, labels: Tensor, undecided: Tensor) -> Tensor:
        """Probabilities of the queries with equal totals, where decided queries count for their class, [E, N, M]."""
        spread = (labels @ spreading)[:, :, self.labelled :].clamp_min(0)
        sums = spread.sum(1, keepdim=True)
        spread = torch.where(sums > 0, spread / sums.clamp_min(1e-300), 1 / self.way)
        logarithms = spread.clamp_min(_LEAST_PROBABILITY).log()
        # What is the same up to rounding is the same, or the places of a query and of a class would decide.
        logarithms = (logarithms / _SAME_LOGARITHM).round() * _SAME_LOGARITHM
        affinities = self.settings.power * logarithms
        if not self.settings.balanced:
            return torch.softmax(affinities, dim=1)
        left = (self.queries / self.way - labels[:, :, self.labelled :].sum(2)).clamp_min(0)
        left = left * (undecided.sum(1) / left.sum(1).clamp_min(1e-300)).unsqueeze(1)
        plan, _ = transport_plan(affinities, left, counts=undecided, tolerance=_TOLERANCE)
        return decide_ties(plan, affinities, left)


def _cosines(products: Tensor) -> Tensor:
    """Products divided by the norms; an image that is nothing has 0 with all."""
    squares = products.diagonal(dim1=1, dim2=2)
    inverse = torch.where(squares > 0, squares.clamp_min(1e-300).rsqrt(), 0)
    return products * inverse.unsqueeze(1) * inverse.unsqueeze(2)


def propagation(cosines: Tensor, *, neighbours: int, alpha: float) -> Tensor:
    """(1 - alpha W)^-1 for the normalised graph W of nearest neighbours.

    Args:
        cosines: between all images of an episode, [E, B, B].
        neighbours: k; images as near as the k-th are neighbours too.
        alpha: share of a label that comes from the neighbours.

    Returns:
        What spreads labels [E, N, B] when they are multiplied by it, [E, B, B].
    """
    images = cosines.shape[1]
    others = cosines.clone()
    others.diagonal(dim1=1, dim2=2).fill_(-math.inf)
    last = others.topk(min(neighbours, images - 1), dim=2).values[:, :, -1:]
    weights = torch.where(others >= last - _SAME_COSINE, others.clamp_min(0) ** _SIMILARITY_POWER, 0)
    weights = weights + weights.transpose(1, 2)
    degrees = weights.sum(2)
    inverse = torch.where(degrees > 0, degrees.clamp_min(1e-300).rsqrt(), 0)
    system = -alpha * weights * inverse.unsqueeze(1) * inverse.unsqueeze(2)
    system.diagonal(dim1=1, dim2=2).add_(1)
    return torch.cholesky_inverse(torch.linalg.cholesky(system))


def cleanest(losses: Tensor, pseudo: Tensor, selected: int) -> Tensor:
    """Whether a query is among the `selected` queries of smallest loss of its class, or ties with the last one, [E, M].

    Args:
        losses: [E, M].
        pseudo: whether a query is undecided and has the class as its pseudo-label, [E, N, M].
        selected: how many of each class.
    """
    own = losses.unsqueeze(1).masked_fill(~pseudo, math.inf)
    last = own.topk(min(selected, own.shape[2]), dim=2, largest=False).values[:, :, -1:]
    return (pseudo & (own <= last * (1 + _SAME_LOSS))).any(1)
