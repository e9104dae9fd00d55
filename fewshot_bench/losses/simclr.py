"""SimCLR: contrast that knows which views show the same image, but no labels."""

from __future__ import annotations

from torch import Tensor

from fewshot_bench.losses.arrays import takes_arrays
from fewshot_bench.losses.contrastive import Anchors, Reading, contrastive_loss
from fewshot_bench.losses.cross_entropy import cross_entropy
from fewshot_bench.losses.registry import LOSSES, mixture


@takes_arrays
def simclr(embeddings: Tensor, images: Tensor, *, tau: float = 0.5, anchors: Anchors = "mean") -> Tensor:
    """NT-Xent, the normalised temperature-scaled cross-entropy (Chen et al., 2020).

    With two views of every image an anchor has one positive, and SupCon on image ids is NT-Xent whatever the
    reading. With more views than two, their logarithms are averaged.

    Args:
        embeddings: of any norm, [..., B, D].
        images: id of the image that each view comes from, [..., B] or anything that broadcasts to it.
        tau: temperature.
        anchors: "mean", as the paper prints it, or "sum" over the anchors.

    Returns:
        Mean or sum over the anchors that have a positive and a negative; 0 where there is none, [...].

    >>> import math
    >>> import fewshot_bench as fb
    >>> embeddings, images = [[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]], [7, 7, 8]  # cosines of 1 and 0
    >>> fb.simclr(embeddings, images, tau=0.5)
    tensor(0.1269)
    >>> round(-math.log(math.exp(2) / (math.exp(2) + math.exp(0))), 4)
    0.1269
    """
    return contrastive_loss(embeddings, images, tau=tau, beta="one", reading="out", anchors=anchors)


@LOSSES.register(
    "ce+simclr",
    "cross-entropy and contrast between images, without labels",
    paper="Chen et al., 2020, A Simple Framework for Contrastive Learning of Visual Representations",
    is_contrastive=True,
    readings=("out",),
)
def ce_and_simclr(
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
    """(1 - lambda) CE + lambda NT-Xent, [...]; with one positive both readings are the same."""
    classification = cross_entropy(logits, labels, label_smoothing=label_smoothing)
    return mixture(classification, simclr(embeddings, images, tau=tau, anchors=anchors), lambda_)
