"""Adam on stacked weights takes each episode where it would go alone, at the learning rate of torch's schedules."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from fewshot_bench.finetuning.recipe import (
    EpisodeRecipe,
    learning_rate,
    reset_optimizer,
    set_learning_rate,
    stacked_optimizer,
)

CPU = torch.device("cpu")
SHAPES = {"filter": (3, 2), "bias": (3,)}


def recipe(**changes: Any) -> EpisodeRecipe:
    return EpisodeRecipe(**{"learning_rate": 0.1, "weight_decay": 0.3, **changes})


def scheduled(warmup: int, steps: int, schedule: str) -> list[float]:
    """The learning rates of torch's own schedulers, warm-up in steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    rest = steps - warmup
    if schedule == "cosine":
        after: Any = CosineAnnealingLR(optimizer, T_max=max(1, rest))
    else:
        after = LinearLR(optimizer, start_factor=1.0, total_iters=1)
    if warmup:
        rising = LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1) if warmup > 1 else None
        rising = rising or LinearLR(optimizer, start_factor=1.0, total_iters=1)
        after = SequentialLR(optimizer, [rising, after], milestones=[warmup])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after.step()
    return rates


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize(("warmup", "epochs", "per_epoch"), [(0, 10, 1), (0, 5, 3), (1, 10, 1), (4, 10, 1), (2, 6, 3)])
@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_the_learning_rate_is_that_of_torch_s_schedulers(
    schedule: str, warmup: int, epochs: int, per_epoch: int
) -> None:
    steps = epochs * per_epoch
    chosen = recipe(schedule=schedule, warmup_epochs=warmup)
    found = [learning_rate(chosen, step, steps, per_epoch) for step in range(steps)]
    assert found == pytest.approx(scheduled(warmup * per_epoch, steps, schedule))


def test_the_course_of_a_warm_up_and_a_cosine() -> None:
    chosen = recipe(schedule="cosine", warmup_epochs=4)
    found = [learning_rate(chosen, step, 12, 1) for step in range(12)]
    assert found[:5] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
    assert found[8] == pytest.approx(0.05), "half of it in the middle of the rest"
    assert all(later < earlier for earlier, later in pairwise(found[4:]))
    assert found[-1] > 0, "the last step still learns"


def test_a_warm_up_longer_than_the_training_only_rises() -> None:
    chosen = recipe(schedule="cosine", warmup_epochs=100)
    assert [learning_rate(chosen, step, 3, 1) for step in range(3)] == pytest.approx([0.001, 0.002, 0.003])


def first_weights(episodes: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(episodes, *shape, generator=generator) for name, shape in SHAPES.items()}


def trained(kind: Any, steps: int = 5, episodes: int = 4) -> tuple[dict[str, Tensor], torch.optim.Optimizer]:
    weights = {name: value.clone().requires_grad_() for name, value in first_weights(episodes).items()}
    optimizer = stacked_optimizer(recipe(optimizer=kind), weights, frozenset({"filter"}), CPU)
    walk(weights, optimizer, steps)
    return weights, optimizer


def walk(weights: dict[str, Tensor], optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Steps down a loss that is another one for every number of every episode."""
    for step in range(steps):
        set_learning_rate(optimizer, 0.1 / (step + 1))
        optimizer.zero_grad()
        sum(losses(weights)).sum().backward()
        optimizer.step()


def losses(weights: dict[str, Tensor]) -> list[Tensor]:
    return [((w - torch.arange(w.numel()).view_as(w).sin()) ** 4).flatten(1).sum(1) for w in weights.values()]


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_stacked_weights_go_where_each_would_go_alone(kind: str) -> None:
    together, _ = trained(kind)
    targets = {name: torch.arange(w.numel()).view_as(w).sin() for name, w in together.items()}
    for episode in range(4):
        weights = {name: value[episode].clone().requires_grad_() for name, value in first_weights(4).items()}
        groups = [
            {"params": [weights["filter"]], "weight_decay": 0.3},
            {"params": [weights["bias"]], "weight_decay": 0.0},
        ]
        alone = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind](groups, lr=0.1)
        for step in range(5):
            for group in alone.param_groups:
                group["lr"] = 0.1 / (step + 1)
            alone.zero_grad()
            sum(((w - targets[name][episode]) ** 4).sum() for name, w in weights.items()).backward()  # type: ignore[union-attr]
            alone.step()
        for name, weight in weights.items():
            torch.testing.assert_close(together[name][episode], weight, rtol=1e-5, atol=1e-6)


def test_the_two_decays_differ_on_what_is_decayed_and_nowhere_else() -> None:
    adam, adamw = (trained(kind)[0] for kind in ("adam", "adamw"))
    assert not torch.allclose(adam["filter"], adamw["filter"])
    assert torch.equal(adam["bias"], adamw["bias"])


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_forgetting_makes_the_next_run_the_same_again(kind: str) -> None:
    weights, optimizer = trained(kind)
    expected = {name: weight.detach().clone() for name, weight in weights.items()}
    places = [value.data_ptr() for state in optimizer.state.values() for value in state.values()]

    def again() -> dict[str, Tensor]:
        with torch.no_grad():
            for name, first in first_weights(4).items():
                weights[name].copy_(first)
        walk(weights, optimizer, 5)
        return {name: weight.detach().clone() for name, weight in weights.items()}

    assert not all(torch.equal(value, expected[name]) for name, value in again().items()), "moments are remembered"
    reset_optimizer(optimizer)
    assert all(torch.equal(value, expected[name]) for name, value in again().items())
    assert [value.data_ptr() for state in optimizer.state.values() for value in state.values()] == places
    reset_optimizer(stacked_optimizer(recipe(), weights, frozenset(), CPU))  # an unused optimiser has no state to reset


def test_no_group_is_empty() -> None:
    weights = {name: value.requires_grad_() for name, value in first_weights(2).items()}
    for decayed, groups in ((frozenset({"filter"}), 2), (frozenset(), 1), (frozenset(SHAPES), 1)):
        assert len(stacked_optimizer(recipe(), weights, decayed, CPU).param_groups) == groups


def test_a_learning_rate_in_a_tensor_changes_in_its_place() -> None:
    rate = torch.tensor(0.1)
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=rate)
    held = optimizer.param_groups[0]["lr"]
    set_learning_rate(optimizer, 0.025)
    assert optimizer.param_groups[0]["lr"] is held
    assert held.item() == pytest.approx(0.025)
