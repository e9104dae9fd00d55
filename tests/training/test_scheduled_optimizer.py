"""The learning rate in fp16 follows the steps that counted, on a GPU as on a CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bars import small_recipe
from torch import nn

from fewshot_bench.training import scheduled_optimizer as module
from fewshot_bench.training import seeded_randomness
from fewshot_bench.training.scheduled_optimizer import ScheduledOptimizer

CPU = torch.device("cpu")
STEPS = 12
SKIPPED = (0, 1, 5)


def network() -> nn.Module:
    with seeded_randomness(0):
        return nn.Linear(3, 2)


def optimizer_of(layer: nn.Module, **changes: Any) -> ScheduledOptimizer:
    recipe = small_recipe(precision="fp16", learning_rate=0.1, **changes)
    return ScheduledOptimizer(recipe, [layer], STEPS, CPU)


def take_steps(optimizer: ScheduledOptimizer, layer: nn.Module, numbers: range) -> list[float]:
    """The learning rate before each step; the loss of some is too large for fp16."""
    rates = []
    for number in numbers:
        rates.append(float(optimizer.optimizer.param_groups[0]["lr"]))
        optimizer.zero_grad()
        inputs = torch.full((4, 3), float("inf") if number in SKIPPED else 1.0 + number)
        optimizer.backward(layer(inputs).square().mean())
        optimizer.step()
    return rates


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's way, on the CPU."""
    monkeypatch.setattr(module, "_is_asynchronous", lambda device: True)


@pytest.mark.parametrize(
    "changes", [{"schedule": "one-cycle"}, {"schedule": "cosine"}, {"schedule": "constant", "warmup_epochs": 1.0}]
)
def test_a_gpu_follows_the_schedule_of_a_cpu(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for is_asynchronous in (False, True):
        monkeypatch.setattr(module, "_is_asynchronous", lambda device, answer=is_asynchronous: answer)
        layer = network()
        optimizer = optimizer_of(layer, **changes)
        rates = take_steps(optimizer, layer, range(STEPS))
        seen.append((rates, optimizer.position(), layer.weight.detach()))
    (rates, position, weight), (theirs, their_position, their_weight) = seen
    assert theirs == pytest.approx(rates, rel=1e-6)
    assert len(set(rates)) > 2
    assert their_position == position
    assert position["schedule"]["last_epoch"] == STEPS - len(SKIPPED)
    torch.testing.assert_close(their_weight, weight)


@pytest.mark.usefixtures("on_gpu")
def test_on_a_gpu_it_resumes_in_the_middle() -> None:
    whole, stopped, resumed = network(), network(), network()
    optimizer = optimizer_of(whole)
    rates = take_steps(optimizer, whole, range(STEPS))
    first = optimizer_of(stopped)
    before = take_steps(first, stopped, range(6))
    resumed.load_state_dict(stopped.state_dict())
    second = optimizer_of(resumed)
    second.restore(first.tensors(), first.position())
    assert before + take_steps(second, resumed, range(6, STEPS)) == rates
    assert second.position() == optimizer.position()
    assert torch.equal(resumed.weight, whole.weight)
    assert second.learning_rate == optimizer.learning_rate
