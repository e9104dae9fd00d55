"""Cross-entropy, the loss that every fine-tuning is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from fewshot_bench.errors import ShapeError, StudyError
from fewshot_bench.losses.arrays import takes_arrays
from fewshot_bench.losses.contrastive import Reading, at_least_float32
from fewshot_bench.losses.registry import LOSSES


@takes_arrays
def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean negative log-likelihood of the labels (Eq. 2 of the SCHaNe paper).

    Args:
        logits: [..., B, C].
        labels: int64 [..., B] or anything that broadcasts to it.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al., 2016,
            "Rethinking the Inception architecture"), at least 0 and less than 1.

    Returns:
        [...], in float64 for float64 and in float32 otherwise.

    Raises:
        ShapeError: logits and labels differ in the number of views.
        StudyError: label_smoothing is out of its range.

    >>> import math
    >>> import fewshot_bench as fb
    >>> fb.cross_entropy([[0.0, 0.0], [math.log(3), 0.0]], [1, 0])  # probabilities of 1/2 and 3/4
    tensor(0.4904)
    >>> round((math.log(2) + math.log(4 / 3)) / 2, 4)
    0.4904
    """
    if not 0 <= label_smoothing < 1:
        raise StudyError(f"label_smoothing should be at least 0 and less than 1, not {label_smoothing}.")
    if labels.ndim == 0 or labels.shape[-1] != logits.shape[-2]:
        raise ShapeError(f"cross-entropy got logits {list(logits.shape)} and labels {list(labels.shape)}.")
    log_probabilities: Tensor
    log_probabilities, classes = torch.broadcast_tensors(  # type: ignore[no-untyped-call]  # torch has no types here
        at_least_float32(logits).log_softmax(-1), labels.unsqueeze(-1)
    )
    likelihood = log_probabilities.gather(-1, classes[..., :1]).squeeze(-1)
    if label_smoothing:
        likelihood = (1 - label_smoothing) * likelihood + label_smoothing * log_probabilities.mean(-1)
    return -likelihood.mean(-1)


@LOSSES.register("ce", "cross-entropy alone", is_contrastive=False, readings=())
def ce(
    logits: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    images: Tensor,
    *,
    lambda_: float,
    tau: float,
    reading: Reading = "out",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy with the arguments of every loss, [...]."""
    return cross_entropy(logits, labels, label_smoothing=label_smoothing)
