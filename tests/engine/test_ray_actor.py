"""A process of Ray's keeps to its part of a GPU, without a cluster and a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("ray")

from fewshot_bench.engine import ray_actor
from fewshot_bench.engine.ray_actor import RayActor


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, torch.device]]]:
    """The shares that were set."""
    found: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ray_actor, "limit_to_share", lambda share, device: found.append((share, device)))
    threads = torch.get_num_threads()
    yield found
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("gpus", "share"), [(0.5, [0.5]), (0.25, [0.25]), (1, []), (0, []), (2, [])])
def test_a_part_of_a_gpu_is_that_part_of_its_memory(
    gpus: float, share: list[float], limits: list[tuple[float, torch.device]]
) -> None:
    RayActor(1, gpus)
    assert limits == [(part, torch.device("cuda")) for part in share]


@pytest.mark.parametrize("fails", [False, True])
def test_memory_of_a_call_is_given_back_to_the_other_processes(
    fails: bool, limits: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    actor, released = RayActor(1, 0.5), []

    def train(value: int) -> int:
        assert not released
        if fails:
            raise ValueError("no")
        return value

    monkeypatch.setattr(ray_actor, "release_unused", lambda: released.append(True))
    answer = actor.call(1, train, [3], {})
    assert (answer.value, isinstance(answer.error, ValueError)) == ((None, True) if fails else (3, False))
    assert released
