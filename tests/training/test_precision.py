"""Half precision computes in fewer bits, and learns all the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bars import are_equal, conv4, train, weights
from torch import Tensor, nn

from fewshot_bench.errors import StudyError
from fewshot_bench.losses import LOSSES, cross_entropy
from fewshot_bench.training import Computing

pytestmark = pytest.mark.slow

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Watched(nn.Module):
    """A network that notes in which type it gives its embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.types = conv4(), set[torch.dtype]()

    def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
        return self

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.network(images)
        if self.training:
            self.types.add(embeddings.dtype)
        return embeddings


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("loss", ["ce", "ce+schane"])
def test_it_learns_in_half_the_bits_and_keeps_weights_in_float32(loss: str, precision: str) -> None:
    network = Watched()
    result = train(loss, network=network, epochs=15, precision=precision)
    assert network.types == {HALF[precision]}
    assert result.history[-1]["loss"] < result.history[0]["loss"] - 0.1
    assert {value.dtype for value in weights(result) if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize("precision", HALF)
def test_micro_batches_work_in_half_the_bits(precision: str) -> None:
    result = train("ce+schane", epochs=15, precision=precision, computing=Computing(micro_batch=5))
    assert result.history[-1]["loss"] < result.history[0]["loss"] - 0.1
    assert not are_equal(result, train("ce+schane", epochs=15, precision=precision))


def test_a_loss_that_knows_no_label_smoothing_is_not_asked_for_it() -> None:
    assert not are_equal(train(), train(label_smoothing=0.1))
    LOSSES.admit("test_precision:plain")
    assert are_equal(train("test_precision:plain"), train("ce"))
    with pytest.raises(StudyError, match="test_precision:plain takes no label_smoothing"):
        train("test_precision:plain", label_smoothing=0.1)


def plain(logits: Tensor, embeddings: Tensor, labels: Tensor, images: Tensor, *, lambda_: float, **rest: Any) -> Tensor:
    """A loss of a user's own, from before there was label smoothing."""
    if set(rest) != {"tau", "reading"}:
        raise TypeError("unexpected argument")
    return cross_entropy(logits, labels)
