"""Several processes do together what one does alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from several_processes import run_in_processes
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from fewshot_bench.training.data_parallel import Processes
from fewshot_bench.training.randomness import seeded_randomness

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
IMAGES = 7


def network(kind: str) -> nn.Module:
    """In float64, with a batch norm of some kind."""
    norms: dict[str, Any] = {
        "plain": lambda: nn.BatchNorm2d(6),
        "without weights": lambda: nn.BatchNorm2d(6, affine=False),
        "cumulative": lambda: nn.BatchNorm2d(6, momentum=None),
        "untracked": lambda: nn.BatchNorm2d(6, track_running_stats=False),
        "with activation": lambda: BatchNormAct2d(6),
        "frozen": lambda: nn.BatchNorm2d(6).eval(),
        "none": nn.Identity,
        "dropout": lambda: nn.Dropout(0.5),
    }
    with seeded_randomness(1):
        layers = nn.Sequential(nn.Conv2d(2, 6, 3), norms[kind](), nn.Flatten(), nn.Linear(6 * 9, 5), nn.BatchNorm1d(5))
    if kind in ("none", "dropout"):
        layers[4] = nn.Tanh()
    return layers.double()


def views() -> Tensor:
    with seeded_randomness(2):
        return torch.randn(2, IMAGES, 2, 5, 5, dtype=torch.float64)


def learnt(processes: Processes | None, kind: str, micro_batches: int = 1) -> dict[str, Tensor]:
    """Embeddings, gradients and buffers after a loss that compares all views."""
    module, whole = network(kind), views()
    with seeded_randomness(3):
        if processes is None:
            embeddings = module(whole.flatten(0, 1))
        else:
            own = whole[:, processes.share(IMAGES, 1)].flatten(0, 1)
            embeddings = processes.embed(module, own, IMAGES, CPU)
        drawn = torch.rand(3)
    (embeddings @ embeddings.T).sigmoid().square().sum().backward()
    if processes is not None:
        processes.add_gradients(module.parameters(), [])
    gradients = {f"gradient {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"embeddings": embeddings.detach(), "drawn": drawn, **gradients, **module.state_dict()}


KINDS = ("plain", "without weights", "cumulative", "untracked", "with activation", "frozen", "none")
CASES = {kind: partial(learnt, kind=kind) for kind in (*KINDS, "dropout")}


@pytest.fixture(scope="module", params=[2, 3])
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_in_processes(request.param, CASES, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_running_statistics_are_those_of_one_process(results: list[dict[str, Any]], kind: str) -> None:
    expected = learnt(None, kind)
    for result in results:
        assert result[kind].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(result[kind][name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_every_process_has_the_same_bits(results: list[dict[str, Any]]) -> None:
    for kind in CASES:
        for name, value in results[0][kind].items():
            assert all(torch.equal(value, result[kind][name]) for result in results[1:]), (kind, name)


def test_processes_drop_different_units_and_then_draw_the_same(results: list[dict[str, Any]]) -> None:
    alike = partial(learnt, None, "none")()
    assert torch.equal(results[0]["none"]["drawn"], alike["drawn"]), "a network that draws nothing changes nothing"
    assert not torch.equal(results[0]["dropout"]["drawn"], alike["drawn"])
