"""A step of training on the base split never waits for a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bars import bars, conv4, normalise, small_recipe
from synchronisation import GPU, pretended_gpu

from fewshot_bench.losses import LOSSES
from fewshot_bench.training import Computing
from fewshot_bench.training.learner import Learner


def places(loss: str, channels: int, *, micro_batch: int | None = None, **changes: Any) -> list[str]:
    """Where a step waits."""
    split, recipe = bars(channels=channels), small_recipe(loss, **changes)
    with pretended_gpu() as waits:
        learner = Learner(conv4(channels), split, recipe, normalise, GPU, Computing(micro_batch=micro_batch))
        waits.places.clear()
        for _ in range(2):
            learner.step(learner.loader.load(torch.randperm(len(split))[:16]))
    return waits.places


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("loss", LOSSES.names())
def test_no_loss_waits(loss: str, precision: str) -> None:
    assert places(loss, 1, precision=precision) == []
