"""The part that SCHaNe, SupCon and SimCLR share: anchors, positives, negatives, in log space."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.losses.arrays import takes_arrays


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 or more, which a loss at a small temperature needs."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


Reading = Literal["in", "out"]
Beta = Literal["hard", "one"]
StopGradient = Literal["none", "beta"]
Anchors = Literal["mean", "sum"]


@takes_arrays
def contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    tau: float,
    beta: Beta,
    reading: Reading,
    stop_gradient: StopGradient = "none",
    anchors: Anchors = "mean",
) -> Tensor:
    """Pull views of one label together and push the others away, each view being the anchor once.

    Args:
        embeddings: of any norm, they are L2-normalised here, [..., B, D].
        labels: what makes two views a positive pair, [..., B] or anything that broadcasts to it.
        tau: temperature, positive.
        beta: weights of the negatives: "hard" is Eq. 3 of SCHaNe; "one" is SupCon.
        reading: "out" takes the mean over positives of the logarithms, "in" the logarithm of the mean.
        stop_gradient: "beta" takes the weights of the negatives as constants, "none" differentiates them too.
        anchors: "mean" or "sum" over the anchors.

    Returns:
        Mean or sum over the anchors that have a positive and a negative; 0 where there is none, [...].

    Raises:
        ShapeError: embeddings and labels differ in the number of views.
        StudyError: tau is not positive, or one of the words is another.

    >>> import math
    >>> import fewshot_bench as fb
    >>> embeddings, labels = [[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]], [0, 0, 1]  # cosines of 1 and 0
    >>> fb.contrastive_loss(embeddings, labels, tau=1.0, beta="one", reading="out")
    tensor(0.3133)
    >>> round(math.log(1 + math.exp(-1)), 4)
    0.3133
    """
    if reading not in ("in", "out"):
        raise StudyError(f"a contrastive loss reads the mean over positives 'in' or 'out', not '{reading}'.")
    if stop_gradient not in ("none", "beta") or anchors not in ("mean", "sum"):
        raise StudyError(
            "a contrastive loss takes the stop_gradient 'none' or 'beta' and the 'mean' or 'sum' over anchors, not "
            f"'{stop_gradient}' and '{anchors}'."
        )
    similarity = similarities(embeddings, tau)
    positive, negative = pair_masks(labels, views=embeddings.shape[-2])
    log_positives = masked_logsumexp(similarity, positive)
    log_negatives = _log_sum_of_negatives(similarity, negative, beta, stop_gradient)
    log_denominator = torch.logaddexp(log_positives, log_negatives)
    positives = positive.sum(-1)
    if reading == "in":
        log_numerator = log_positives - positives.clamp(min=1).to(similarity.dtype).log()
    else:
        log_numerator = similarity.masked_fill(~positive, 0).sum(-1) / positives.clamp(min=1)
    is_counted = (positives > 0) & (negative.sum(-1) > 0)
    return _over_counted(log_denominator - log_numerator, is_counted, anchors)


def similarities(embeddings: Tensor, tau: float) -> Tensor:
    """Cosine similarity of every two views, divided by the temperature.

    Computed in float32 or more, under autocast too: at tau = 0.1 rounding a cosine to bf16 changes its exponential by
    up to 4%, and fp16 cannot square the norm of an embedding above 256.

    Args:
        embeddings: [..., B, D].
        tau: temperature, positive.

    Returns:
        [..., B, B], in float64 for float64 and in float32 otherwise.
    """
    if not tau > 0:
        raise StudyError(f"tau is {tau}; a temperature is positive, 0.5 in the SCHaNe paper.")
    with torch.autocast(embeddings.device.type, enabled=False):
        unit = normalize(at_least_float32(embeddings), dim=-1)
        return unit @ unit.transpose(-1, -2) / tau


def pair_masks(labels: Tensor, *, views: int) -> tuple[Tensor, Tensor]:
    """Which views are positives and which are negatives of each anchor.

    Args:
        labels: [..., B].
        views: B, as the embeddings have it.

    Returns:
        Two boolean masks [..., B, B]; an anchor is neither to itself.
    """
    if labels.ndim == 0 or labels.shape[-1] != views:
        raise ShapeError(f"a contrastive loss got {views} views and labels of shape {list(labels.shape)}.")
    same = labels.unsqueeze(-1) == labels.unsqueeze(-2)
    itself = torch.eye(views, dtype=torch.bool, device=labels.device)
    return same & ~itself, ~same


def masked_logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials over the last axis where the mask holds.

    Where it holds nowhere, the result is a very low finite number, since minus infinity would turn the gradients of
    anchors that do not count into NaN.

    Args:
        values: [..., B, B].
        mask: boolean, broadcasts to the values.

    Returns:
        [..., B].
    """
    # Half of the lowest number, so that adding or doubling cannot reach infinity.
    lowest = torch.finfo(values.dtype).min / 2
    return values.masked_fill(~mask, lowest).logsumexp(-1)


def _log_sum_of_negatives(similarity: Tensor, negative: Tensor, beta: Beta, stop_gradient: StopGradient) -> Tensor:
    log_sum = masked_logsumexp(similarity, negative)
    if beta == "one":
        return log_sum
    # log sum beta exp(s) in closed form. Forming beta first costs another pass over all pairs, forward and backward; it
    # would win only if a caller needed beta as well.
    log_count = negative.sum(-1).clamp(min=1).to(similarity.dtype).log()
    if stop_gradient == "beta":
        return log_count + masked_logsumexp(similarity + similarity.detach(), negative) - log_sum.detach()
    return log_count + masked_logsumexp(2 * similarity, negative) - log_sum


def _over_counted(values: Tensor, is_counted: Tensor, anchors: Anchors) -> Tensor:
    is_counted = is_counted.expand_as(values)
    total = torch.where(is_counted, values, 0).sum(-1)
    return total if anchors == "sum" else total / is_counted.sum(-1).clamp(min=1)
