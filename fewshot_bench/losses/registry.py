"""What every loss of a fine-tuning is to the rest of the project, and the names they go by."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fewshot_bench.losses.contrastive import Reading
from fewshot_bench.registry import Registry


class Loss(Protocol):
    """Logits and embeddings of the same views to one number per batch, for any leading dimensions.

    A loss without a contrastive term pays no attention to `embeddings`, `images`, `lambda_`, `tau` and `reading`.
    """

    def __call__(
        self,
        logits: Tensor,
        embeddings: Tensor,
        labels: Tensor,
        images: Tensor,
        *,
        lambda_: float,
        tau: float,
        reading: Reading,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The loss of every batch.

        Args:
            logits: outputs of the classification head, [..., B, C].
            embeddings: outputs of the encoder, of any norm, [..., B, D].
            labels: class of each view, [..., B] or anything that broadcasts to it.
            images: id of the image that each view comes from, [..., B] or anything that broadcasts to it.
            lambda_: share of the contrastive term, 0 to 1.
            tau: temperature of the contrastive term.
            reading: how the mean over positives is taken, see `contrastive_loss`.
            label_smoothing: of the cross-entropy, see `cross_entropy`.

        Returns:
            [...].
        """


LOSSES: Registry[Loss] = Registry("loss")


def mixture(cross_entropy: Tensor, contrastive: Tensor, lambda_: float) -> Tensor:
    """(1 - lambda) CE + lambda * contrastive: Eq. 1 of the SCHaNe paper."""
    return (1 - lambda_) * cross_entropy + lambda_ * contrastive
