"""A step of training on the base split never waits for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
import torch
from bars import SIZE, bars, conv4, small_recipe
from synchronisation import GPU, fake_gpu
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from fewshot_bench.backbones.backbone import Preprocessing
from fewshot_bench.devices import to_device
from fewshot_bench.losses import LOSSES
from fewshot_bench.training import Computing
from fewshot_bench.training.autoaugment_policies import CIFAR10_POLICY, STEPS, table_of
from fewshot_bench.training.data_parallel import Processes
from fewshot_bench.training.learner import Learner


def places(
    loss: str, channels: int, *, micro_batch: int | None = None, processes: Processes | None = None, **changes: Any
) -> list[str]:
    """Where a step waits."""
    split, recipe = bars(channels=channels), small_recipe(loss, **changes)
    normalise = Preprocessing(SIZE, (0.5,) * channels, (0.2,) * channels)
    for step in range(STEPS):
        table_of(CIFAR10_POLICY, step, SIZE, SIZE)  # kept by the process, so not to be made of tensors without values
    with fake_gpu() as waits:
        computing = Computing(micro_batch=micro_batch, processes=processes)
        learner = Learner(conv4(channels), split, recipe, normalise, GPU, computing)
        waits.places.clear()
        for samples in islice(learner.objective.batches(0), 2):
            learner.step(samples)
    return waits.places


pytestmark = pytest.mark.slow

PRECISIONS = ["float32", "bf16", "fp16"]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("loss", LOSSES.names())
def test_no_loss_waits(loss: str, micro_batch: int | None, precision: str) -> None:
    assert places(loss, 1, micro_batch=micro_batch, precision=precision) == []


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one-cycle"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_schedule_waits(schedule: str, precision: str) -> None:
    assert places("ce", 1, schedule=schedule, precision=precision) == []


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmentation", ["autoaugment", "autoaugment-policy", "jitter", "affine", "none"])
def test_no_augmentation_waits(augmentation: str, channels: int) -> None:
    assert places("ce", channels, augmentation=augmentation) == []


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("loss", ["ce", "ce+schane"])
def test_no_step_of_several_processes_waits(
    loss: str, micro_batch: int | None, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    summed = []
    monkeypatch.setattr("torch.distributed.all_reduce", lambda values: summed.append(values.shape))
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.cuda.default_generators", [torch.Generator()])
    monkeypatch.setattr("fewshot_bench.training.data_parallel._random_number", lambda: 1)  # drawn on the CPU
    monkeypatch.setattr("fewshot_bench.training.data_parallel.random_state", lambda device: {})  # the host keeps it
    assert places(loss, 1, micro_batch=micro_batch, precision=precision, processes=Processes(1, 2)) == []
    assert len(summed) >= 2 * (4 + 1 + 1), "statistics of four batch norms, embeddings and gradients"


def waits_in(action: Callable[[], object]) -> list[str]:
    """Where it waits; it may end in the attempt to read a value that the fake GPU does not have."""
    with fake_gpu() as waits, suppress(DataDependentOutputException, DynamicOutputShapeException):
        action()
    return waits.places


@pytest.mark.parametrize(
    "action",
    [
        lambda values: values.sum().item(),
        lambda values: int(values.sum()),
        lambda values: bool((values > 0).any()),
        lambda values: values.tolist(),
        lambda values: values.cpu(),
        lambda values: values.to("cpu"),
        lambda values: values[values > 0],
        lambda values: values.nonzero(),
        lambda values: values + torch.tensor([1.0, 2.0], device=values.device),
        lambda values: values + torch.tensor([1.0, 2.0]).to(values.device, non_blocking=True),
        lambda values: values.copy_(torch.tensor([1.0, 2.0])),
    ],
)
def test_what_waits_is_found(action: Callable[[Tensor], object]) -> None:
    (place,) = waits_in(lambda: action(torch.zeros(2, device=GPU)))
    assert "lambda values" in place


def test_a_copy_from_pinned_memory_does_not_wait() -> None:
    assert waits_in(lambda: to_device(torch.tensor([1.0, 2.0]), GPU)) == []
