"""A recorded step does what a direct one does, with whatever it is given next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from small_task import EPISODES, SHOT, WAY, parts, recipe, task
from torch import Tensor

from fewshot_bench.cache import trials
from fewshot_bench.finetuning.trainer import Adapted, EpisodeTrainer, ReplayedStep


def again(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A CPU's stand-in for a CUDA graph: the same work on the same tensors."""
    return run


def overwriting(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """As a CUDA graph, it runs a few times when it is recorded, and gives its result in one place."""
    place = run()
    run()

    def replay() -> Tensor:
        return place.copy_(run())

    return replay


class Descent:
    """A step on one weight per episode that uses everything it is given."""

    def __init__(self) -> None:
        self.weights = torch.zeros(2)

    def __call__(self, inputs: Tensor, chosen: Tensor | None, keys: Tensor, number: int | Tensor) -> Tensor:
        picked = inputs if chosen is None else inputs.gather(1, chosen)
        losses = (picked.sum(1) + keys - self.weights).square() + number
        self.weights += 0.1 * (picked.sum(1) + keys - self.weights)
        return losses


@pytest.mark.parametrize("is_chosen", [True, False])
@pytest.mark.parametrize("capture", [again, overwriting])
def test_a_replay_gives_the_losses_and_weights_of_direct_calls(capture: Any, is_chosen: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [
        (
            torch.randn(2, 4, generator=generator),
            torch.randint(4, (2, 3), generator=generator) if is_chosen else None,
            torch.randint(9, (2,), generator=generator),
            step,
        )
        for step in range(5)
    ]
    direct, recorded = Descent(), Descent()
    replayed = ReplayedStep(recorded, *given[3][:3], capture)
    recorded.weights.zero_()
    expected = [direct(*some) for some in given]
    found = [replayed(*some) for some in given]
    assert torch.equal(torch.stack(found), torch.stack(expected))
    assert torch.equal(recorded.weights, direct.weights)


def test_what_was_given_to_record_is_not_written_over() -> None:
    inputs, chosen, keys = torch.ones(2, 4), torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    replayed = ReplayedStep(Descent(), inputs, chosen, keys, again)
    replayed(torch.full((2, 4), 7.0), chosen + 2, keys + 5, 3)
    assert torch.equal(inputs, torch.ones(2, 4))
    assert not chosen.any()
    assert torch.equal(keys, torch.ones(2, dtype=torch.int64))


def test_only_inputs_of_the_recorded_shape_fit() -> None:
    replayed = ReplayedStep(Descent(), torch.ones(2, 4), None, torch.ones(2, dtype=torch.int64), again)
    assert replayed.fits(torch.zeros(2, 4))
    assert not replayed.fits(torch.zeros(2, 5))
    assert not replayed.fits(torch.zeros(1, 4))


RECIPES: list[dict[str, Any]] = [
    {},
    {"dropout": 0.3},
    {"loss": "ce+schane", "dropout": 0.1},
    {"schedule": "cosine", "warmup_epochs": 1},
    {"batch_size": 4},
    {"batch_size": 4, "dropout": 0.3, "schedule": "cosine", "warmup_epochs": 2, "loss": "ce+schane"},
    {"batch_size": 5, "loss": "ce+supcon", "optimizer": "adam"},
    {"tune": "last:1", "views": 3},
    {"tune": "norm"},
    {"tune": "bias"},
    {"tune": "lora:2"},
    {"tune": "head", "views": 0},
    {"bn": "support", "patience": 1},
    {"bn": "transductive"},
    {"precision": "bf16"},
    {"query_entropy": 1.0},
    {"query_entropy": 1.0, "batch_size": 2, "bn": "support", "patience": 1},
]


def trainer(prepared: Any, chosen: Any, capture: Any) -> EpisodeTrainer:
    made = EpisodeTrainer(prepared, chosen, episodes=EPISODES, way=WAY, shot=SHOT)
    made._capture = capture
    return made


def copied(adapted: Adapted) -> dict[str, Tensor]:
    return {
        "logits": adapted.logits,
        "losses": adapted.losses,
        **{name: weight.detach().clone() for name, weight in adapted.weights.items()},
    }


@pytest.fixture(autouse=True)
def _without_chance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the clock, which would choose how to convolve, nor the order in which threads sum has a say."""
    monkeypatch.setattr(trials, "_clock", lambda device: lambda run: 1.0 if run() else 2.0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize("changes", RECIPES, ids=str)
@pytest.mark.parametrize("capture", [again, overwriting])
def test_training_with_recorded_steps_is_training_to_the_bit(changes: dict[str, Any], capture: Any) -> None:
    if "lora" in changes.get("tune", ""):
        pytest.importorskip("peft")
    chosen = recipe(**changes)
    prepared = parts(chosen)
    direct, recorded = trainer(prepared, chosen, None), trainer(prepared, chosen, capture)
    for first in (0, EPISODES, 0):
        expected = copied(direct.adapt(task(prepared, chosen, first=first)))
        found = copied(recorded.adapt(task(prepared, chosen, first=first)))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), (name, first)
    assert recorded._replayed is not None
    assert (expected["losses"][0] != expected["losses"][-1]).all(), "something was learned"


def test_a_step_is_recorded_once_for_all_tasks_of_a_size() -> None:
    chosen = recipe()
    prepared = parts(chosen)
    recordings = []

    def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        recordings.append(run)
        return run

    made = trainer(prepared, chosen, capture)
    for first in (0, EPISODES):
        made.adapt(task(prepared, chosen, first=first))
    assert len(recordings) == 1


def test_without_steps_nothing_is_recorded() -> None:
    chosen = recipe(epochs=0)
    prepared = parts(chosen)
    recorded = trainer(prepared, chosen, again)
    adapted = recorded.adapt(task(prepared, chosen))
    assert recorded._replayed is None
    assert adapted.losses.shape == (0, EPISODES)
