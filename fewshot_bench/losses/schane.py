"""SCHaNe: supervised contrastive learning that weights each negative by how hard it is."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot_bench.losses.arrays import takes_arrays
from fewshot_bench.losses.contrastive import (
    Anchors,
    Reading,
    StopGradient,
    contrastive_loss,
    masked_logsumexp,
    pair_masks,
    similarities,
)
from fewshot_bench.losses.cross_entropy import cross_entropy
from fewshot_bench.losses.registry import LOSSES, mixture


@takes_arrays
def schane(
    embeddings: Tensor,
    labels: Tensor,
    *,
    tau: float = 0.5,
    reading: Reading = "in",
    stop_gradient: StopGradient = "none",
    anchors: Anchors = "mean",
) -> Tensor:
    """Supervised contrastive loss with hard negative sampling (Long et al., 2023, Eq. 3 and 4).

    A negative k of anchor i counts beta_ik times, where beta_ik grows with their similarity and has mean one
    over the negatives of i.

    Args:
        embeddings: of any norm, [..., B, D].
        labels: [..., B] or anything that broadcasts to it.
        tau: temperature.
        reading: "in" keeps the mean over positives inside the logarithm, where the paper prints it; "out" takes
            it outside, as SupCon does. Equation 4 itself has no real value as printed.
        stop_gradient: "none" lets gradients flow through beta, as the formula is written; "beta" takes it as a
            constant weight.
        anchors: "mean" or "sum" over the anchors. Equation 4 prints a sum, which grows with the batch.

    Returns:
        Mean or sum over the anchors that have a positive and a negative; 0 where there is none, [...].

    >>> import fewshot_bench as fb
    >>> embeddings, labels = [[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]], [0, 0, 1, 2]
    >>> fb.schane(embeddings, labels, tau=1.0)  # the orthogonal negative weighs more than the opposite one
    tensor(0.4767)
    >>> fb.supcon(embeddings, labels, tau=1.0)  # both weigh the same
    tensor(0.4076)
    """
    return contrastive_loss(
        embeddings, labels, tau=tau, beta="hard", reading=reading, stop_gradient=stop_gradient, anchors=anchors
    )


@takes_arrays
def hard_negative_weights(embeddings: Tensor, labels: Tensor, *, tau: float = 0.5) -> Tensor:
    """The weights beta of Eq. 3: how often each negative counts for each anchor, to look at what is hard.

    Args:
        embeddings: of any norm, [..., B, D].
        labels: [..., B] or anything that broadcasts to it.
        tau: temperature.

    Returns:
        Mean one over the negatives of each anchor, 0 for all other pairs, [..., B, B].

    >>> import fewshot_bench as fb
    >>> embeddings, labels = [[1.0, 0.0], [3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]], [0, 0, 1, 2]
    >>> fb.hard_negative_weights(embeddings, labels, tau=1.0)[0]  # the orthogonal negative: 2 / (1 + exp(-1))
    tensor([0.0000, 0.0000, 1.4621, 0.5379])
    """
    similarity = similarities(embeddings, tau)
    _, negative = pair_masks(labels, views=embeddings.shape[-2])
    log_shares = similarity - masked_logsumexp(similarity, negative).unsqueeze(-1)
    return negative.sum(-1, keepdim=True) * log_shares.masked_fill(~negative, -torch.inf).exp()


@LOSSES.register(
    "ce+schane",
    "cross-entropy and supervised contrast with weighted hard negatives",
    paper="Long et al., 2023, When hard negative sampling meets supervised contrastive learning",
    is_contrastive=True,
    readings=("in", "out"),
)
def ce_and_schane(
    logits: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    lambda_: float,
    tau: float,
    reading: Reading = "in",
    label_smoothing: float = 0.0,
    stop_gradient: StopGradient = "none",
    anchors: Anchors = "mean",
) -> Tensor:
    """(1 - lambda) CE + lambda SCHaNe, [...]."""
    classification = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    contrast = schane(embeddings, labels, tau=tau, reading=reading, stop_gradient=stop_gradient, anchors=anchors)
    return mixture(classification, contrast, lambda_)
