"""As many episodes at once as the memory takes, never another task."""

from __future__ import annotations

import pytest
import torch
from small_task import WAY, conv4, parts, recipe
from torch import Tensor
from torch.autograd.profiler import profile

from fewshot_bench.finetuning import memory
from fewshot_bench.finetuning.frozen_prefix import NetworkParts
from fewshot_bench.finetuning.memory import (
    bytes_per_episode,
    episodes_that_fit,
    fit_by_halving,
)
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.finetuning.trainer import EpisodeTrainer

CPU = torch.device("cpu")


def refused_by_the_allocator() -> RuntimeError:
    """What a CPU says when asked for an exbibyte."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60, dtype=torch.uint8)
    return error.value


class Device:
    """Takes so many episodes at once and refuses more."""

    def __init__(self, most: int, error: BaseException) -> None:
        self.most, self.error = most, error
        self.tried: list[int] = []

    def __call__(self, episodes: int) -> Tensor:
        self.tried.append(episodes)
        if episodes > self.most:
            raise self.error
        return torch.arange(episodes)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), MemoryError(), refused_by_the_allocator()], ids=repr)
def test_half_as_many_are_tried_until_they_fit(error: BaseException) -> None:
    device = Device(3, error)
    episodes, result = fit_by_halving(25, device)
    assert device.tried == [25, 13, 7, 4, 2]
    assert episodes == 2
    assert torch.equal(result, torch.arange(2))


def test_what_fits_is_tried_once() -> None:
    device = Device(8, MemoryError())
    assert fit_by_halving(8, device)[0] == 8
    assert device.tried == [8]


def test_one_episode_that_does_not_fit_is_an_error() -> None:
    device = Device(0, torch.OutOfMemoryError("none left"))
    with pytest.raises(torch.OutOfMemoryError, match="none left"):
        fit_by_halving(3, device)
    assert device.tried == [3, 2, 1]


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_other_errors_are_not_tried_again(error: BaseException) -> None:
    device = Device(0, error)
    with pytest.raises(type(error)):
        fit_by_halving(8, device)
    assert device.tried == [8]


@pytest.mark.parametrize(
    ("free", "per_episode", "largest", "expected"),
    [
        (1000, 100, 1024, 8),
        (1000, 100, 4, 4),
        (1000, 900, 1024, 1),
        (10, 900, 1024, 1),
        (1000, 0, 64, 64),
        (None, 10**15, 64, 64),
    ],
)
def test_a_fifth_of_the_free_memory_is_spared(
    free: int | None, per_episode: int, largest: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    assert episodes_that_fit(per_episode, CPU, largest=largest) == expected


def trainer(chosen: EpisodeRecipe, prepared: NetworkParts, *, episodes: int = 1, shot: int = 2) -> EpisodeTrainer:
    return EpisodeTrainer(prepared, chosen, episodes=episodes, way=WAY, shot=shot)


def estimated(chosen: EpisodeRecipe | None = None, *, width: int = 16, shot: int = 2) -> int:
    chosen = chosen or recipe()
    prepared = parts(chosen, conv4(width=width, side=32), side=32)
    return bytes_per_episode(trainer(chosen, prepared, shot=shot), inputs(prepared, 1, shot))


def inputs(prepared: NetworkParts, episodes: int, shot: int) -> Tensor:
    """Whatever the trained part takes: images, or what the frozen layers make of them."""
    return torch.rand(episodes, 2 * WAY * shot, *prepared.sample.shape[1:])


def measured(chosen: EpisodeRecipe, prepared: NetworkParts, *, episodes: int, shot: int) -> int:
    """The most bytes that were held at once while a trainer was made and made two steps."""
    given = inputs(prepared, episodes, shot)
    with profile(profile_memory=True) as record:
        held = given.clone()
        made = trainer(chosen, prepared, episodes=episodes, shot=shot)
        for _ in range(2):
            made.try_step(held)
    events = [event for event in record.kineto_results.events() if event.name() == "[memory]"]
    assert events
    most = now = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


@pytest.mark.slow
@pytest.mark.parametrize("shot", [1, 4])
@pytest.mark.parametrize("changes", [{}, {"tune": "last:1"}, {"tune": "norm"}], ids=str)
def test_the_estimate_is_within_a_factor_of_two_of_what_two_more_episodes_take(
    shot: int, changes: dict[str, str]
) -> None:
    chosen = recipe(**changes)
    prepared = parts(chosen, conv4(width=16, side=32), side=32)
    one, three = (measured(chosen, prepared, episodes=episodes, shot=shot) for episodes in (1, 3))
    growth = (three - one) / 2
    estimate = bytes_per_episode(trainer(chosen, prepared, shot=shot), inputs(prepared, 1, shot))
    assert growth / 2 < estimate < 2 * growth


def test_more_shots_and_wider_networks_take_more() -> None:
    assert estimated(shot=1) < estimated(shot=2) < estimated(shot=4)
    assert estimated(width=8) < estimated(width=16) < estimated(width=32)


def test_weights_that_are_kept_for_an_early_stop_count() -> None:
    weights = sum(
        weight.nbytes for weight in trainer(recipe(), parts(recipe(), conv4(side=32), side=32)).weights.values()
    )
    assert estimated(recipe(patience=2), width=8) - estimated(width=8) == weights


def test_steps_on_the_queries_need_memory_of_their_own_where_they_are_graphs() -> None:
    chosen = recipe(query_entropy=1.0)
    prepared = parts(chosen, conv4(side=32), side=32)
    made = trainer(chosen, prepared)
    support, queries = inputs(prepared, 1, 2), inputs(prepared, 1, 2)
    on_cpu = bytes_per_episode(made, support, queries)
    made.device = torch.device("cuda")
    made.try_step = made.try_query_step = lambda inputs: None  # type: ignore[method-assign]
    nothing = bytes_per_episode(made, support, queries)
    counted = iter([1000, 600])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "kept_bytes", lambda run: next(counted))
        assert bytes_per_episode(made, support, queries) == nothing + 2 * 1600
    assert on_cpu > nothing


def test_the_last_blocks_alone_take_less() -> None:
    assert estimated(recipe(tune="last:1")) < estimated(recipe(tune="last:2")) < estimated()
