"""SupCon: supervised contrastive learning in which all negatives weigh the same."""

from __future__ import annotations

from torch import Tensor

from fewshot_bench.losses.arrays import takes_arrays
from fewshot_bench.losses.contrastive import Anchors, Reading, contrastive_loss
from fewshot_bench.losses.cross_entropy import cross_entropy
from fewshot_bench.losses.registry import LOSSES, mixture


@takes_arrays
def supcon(
    embeddings: Tensor, labels: Tensor, *, tau: float = 0.1, reading: Reading = "out", anchors: Anchors = "mean"
) -> Tensor:
    """Supervised contrastive loss (Khosla et al., 2020, L_out by default).

    Args:
        embeddings: of any norm, [..., B, D].
        labels: [..., B] or anything that broadcasts to it.
        tau: temperature.
        reading: "out" is Khosla's L_out, "in" is L_in.
        anchors: "mean" or "sum" over the anchors; the paper prints the sum and its code takes the mean.

    Returns:
        Mean or sum over the anchors that have a positive and a negative; 0 where there is none, [...].

    >>> import math
    >>> import fewshot_bench as fb
    >>> embeddings, labels = [[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]], [0, 0, 1]  # cosines of 1 and 0
    >>> fb.supcon(embeddings, labels, tau=1.0)
    tensor(0.3133)
    >>> round(-math.log(math.exp(1) / (math.exp(1) + math.exp(0))), 4)
    0.3133
    """
    return contrastive_loss(embeddings, labels, tau=tau, beta="one", reading=reading, anchors=anchors)


@LOSSES.register(
    "ce+supcon",
    "cross-entropy and supervised contrast",
    paper="Khosla et al., 2020, Supervised Contrastive Learning",
    is_contrastive=True,
    readings=("out",),
)
def ce_and_supcon(
    logits: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    lambda_: float,
    tau: float,
    reading: Reading = "out",
    label_smoothing: float = 0.0,
    anchors: Anchors = "mean",
) -> Tensor:
    """(1 - lambda) CE + lambda SupCon, [...]."""
    classification = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return mixture(classification, supcon(embeddings, labels, tau=tau, reading=reading, anchors=anchors), lambda_)
