"""Cross-entropy, the loss that every fine-tuning is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot_bench.errors import ShapeError
from fewshot_bench.losses.contrastive import Reading
from fewshot_bench.losses.registry import LOSSES


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels (Eq. 2 of the SCHaNe paper).

    Args:
        logits: [..., B, C].
        labels: int64 [..., B] or anything that broadcasts to it.

    Returns:
        [...].

    Raises:
        ShapeError: logits and labels differ in the number of views.
    """
    if labels.ndim == 0 or labels.shape[-1] != logits.shape[-2]:
        raise ShapeError(f"cross-entropy got logits {list(logits.shape)} and labels {list(labels.shape)}.")
    log_probabilities: Tensor
    log_probabilities, classes = torch.broadcast_tensors(  # type: ignore[no-untyped-call]  # torch has no types here
        logits.log_softmax(-1), labels.unsqueeze(-1)
    )
    return -log_probabilities.gather(-1, classes[..., :1]).squeeze(-1).mean(-1)


@LOSSES.register("ce", "cross-entropy alone", is_contrastive=False)
def ce(
    logits: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    lambda_: float,
    tau: float,
    reading: Reading,
) -> Tensor:
    """Cross-entropy with the arguments of every loss, [...]."""
    return cross_entropy(logits, labels)
