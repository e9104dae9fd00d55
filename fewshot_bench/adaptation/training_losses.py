"""The loss of each image, averaged over the training of a linear classifier: what is learnt first is likely clean.

Huang et al. (2019), "O2U-Net", and Lazarou et al. (2021), "Iterative label cleaning", rank noisy labels by it. The
training is plain gradient descent with momentum on all images of an episode at once,

    v <- momentum v + slope(w),    w <- w - rate v,

a thousand steps of it. Here it is the path of the logits that is followed, for which inner products suffice, and most
slopes are never computed: once they change slowly, the slopes of the next h steps are extrapolated along a line from
the last two, and h steps of momentum along a line have a closed form. Every episode has an h of its own. It starts at
one step and is set by how far the last extrapolation was off, so that the logits stay within about a thousandth of
those of the descent step by step. A thousand steps then take about sixty slopes.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

LONGEST_STRIDE = 128
"""The most steps that are ever taken together."""

_LEARNING_RATE, _MOMENTUM, _WEIGHT_DECAY = 0.1, 0.9, 5e-4
_ALLOWED_ERROR = 1e-3
_FASTEST_GROWTH, _FASTEST_SHRINKING = 1.5, 0.3


def mean_training_losses(
    products: Tensor, labels: Tensor, targets: Tensor, *, steps: int, stride: int = LONGEST_STRIDE
) -> Tensor:
    """Train a linear classifier on all images of each episode and average each image's loss over the training.

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
    while True:
        weights = table[ahead].T.unsqueeze(-1).unsqueeze(-1)
        kept, by_slope, by_trend, moved_by_velocity, moved_by_slope, moved_by_trend = weights
        change = moved_by_velocity * velocity + moved_by_slope * slope + moved_by_trend * trend
        logits = logits - _LEARNING_RATE * change
        velocity = kept * velocity + by_slope * slope + by_trend * trend
        expected, previous, taken = slope + _shape(ahead, slope) * trend, slope, ahead
        left = left - ahead
        slope, losses = _slope(logits, kernel, targets)
        total = total + losses * _shape((taken - 1).clamp_min(0), losses) / 2
        if not bool((left > 0).any()):
            return total / steps
        error = (slope - expected).abs().amax((1, 2)) * taken
        growth = (_ALLOWED_ERROR / error.clamp_min(1e-20)).pow(1 / 3).clamp(_FASTEST_SHRINKING, _FASTEST_GROWTH)
        length = (length * growth).clamp(1, stride)
        trend = (slope - previous) / _shape(taken.clamp_min(1), slope)
        ahead = torch.minimum(length.long(), left)
        total = total + losses * _shape(torch.where(ahead > 0, ahead + 1, 0), losses) / 2


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
