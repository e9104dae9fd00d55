"""Classify every image of a whole split among all classes, with the probability of the predicted class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.episodes.sampler import Episodes
from fewshot_bench.errors import EmbeddingError
from fewshot_bench.outcomes.packing import Positions, position_type

STORED_TOGETHER = 10_000
"""Images whose outcomes are stored as one part."""
_AT_ONCE = 1024

Logits = Callable[[NDArray[np.int64]], Tensor]
"""From the numbers of images of the split, [B], to their logits, or logarithms of probabilities, [B, C]."""


class WholeClassifier:
    """A method that gives logits of all classes of a split; see `Classifier`.

    Args:
        logits: gives those of images, for all classes in canonical order.
        name: of the method, for error messages.
    """

    def __init__(self, logits: Logits, name: str) -> None:
        self._logits, self._name = logits, name

    def chunk(self, protocol: Protocol) -> int:
        """See `Classifier`."""
        return STORED_TOGETHER

    def __call__(self, episodes: Episodes, chunk: int) -> Positions:
        """See `Classifier`."""
        return self.with_confidence(episodes, chunk)[0]

    @torch.no_grad()
    def with_confidence(self, episodes: Episodes, chunk: int) -> tuple[Positions, NDArray[np.float64]]:
        """Predict the class of every image.

        Args:
            episodes: of the whole sampler.
            chunk: images at once, at most; never changes a prediction.

        Returns:
            The most probable class, of `position_type`, [E, 1], and its softmax probability, [E].

        Raises:
            EmbeddingError: a logit is not finite.
        """
        images = episodes.queries[:, 0].astype(np.int64)
        predictions = np.empty(len(images), dtype=position_type(episodes.way))
        confidence = np.empty(len(images))
        at_once = min(chunk, _AT_ONCE)
        for start in range(0, len(images), at_once):
            logits = self._logits(images[start : start + at_once])
            if not torch.isfinite(logits).all():
                raise EmbeddingError(f"{self._name} gave logits that are NaN or infinite.")
            # On the CPU in float64, so that all devices round the same logits alike.
            best, classes = torch.softmax(logits.cpu().double(), dim=1).max(dim=1)
            predictions[start : start + at_once] = classes.numpy()
            confidence[start : start + at_once] = best.numpy()
        return predictions[:, None], confidence
