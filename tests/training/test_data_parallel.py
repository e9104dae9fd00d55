"""Several processes do together what one does alone."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from bars import SIZE, bars, conv4, normalise, small_recipe
from several_processes import run_in_processes
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from fewshot_bench._io.ranks import own_rank
from fewshot_bench.errors import StudyError
from fewshot_bench.training.data_parallel import Processes
from fewshot_bench.training.learner import Learner, weights_of
from fewshot_bench.training.objective import Computing
from fewshot_bench.training.randomness import seeded_randomness
from fewshot_bench.training.recipe import PrecisionName

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
IMAGES = 7


class Unused(nn.Module):
    """Has a weight without a gradient, and one with a gradient in process 1 alone."""

    def __init__(self) -> None:
        super().__init__()
        self.never, self.sometimes = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))

    def forward(self, values: Tensor) -> Tensor:
        rank = own_rank()
        return values * self.sometimes if rank is not None and rank.number == 1 else values


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
        "unused": lambda: Unused(),
    }
    with seeded_randomness(1):
        layers = nn.Sequential(nn.Conv2d(2, 6, 3), norms[kind](), nn.Flatten(), nn.Linear(6 * 9, 5), nn.BatchNorm1d(5))
    if kind in ("none", "dropout", "unused"):
        layers[4] = nn.Tanh()
    return layers.double()


def views() -> Tensor:
    with seeded_randomness(2):
        return torch.randn(2, IMAGES, 2, 5, 5, dtype=torch.float64)


def learnt(processes: Processes | None, kind: str, is_compiled: bool = False) -> dict[str, Tensor]:
    """Embeddings, gradients and buffers after a loss that compares all views, and random numbers drawn after them."""
    module, whole = network(kind), views()
    encode = torch.compile(module, backend="eager") if is_compiled else module
    with seeded_randomness(3):
        if processes is None:
            embeddings = module(whole.flatten(0, 1))
        else:
            own = whole[:, processes.share(IMAGES, 1)].flatten(0, 1)
            embeddings = processes.embed(encode, own, IMAGES, CPU)
        drawn = torch.rand(3)
    (embeddings @ embeddings.T).sigmoid().square().sum().backward()
    if processes is not None:
        processes.reduce_gradients(module.parameters(), [])
    gradients = {f"gradient {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"embeddings": embeddings.detach(), "drawn": drawn, **gradients, **module.state_dict()}


def trained(
    processes: Processes | None, loss: str, has_batch_norm: bool = False, micro_batch: int | None = None
) -> dict[str, Tensor]:
    """Weights and losses after two epochs of five steps in float64; batches of 10 and 9 images."""
    split, recipe = bars(), small_recipe(loss, batch_size=11, learning_rate=1e-3, schedule="cosine")
    computing = Computing(micro_batch=micro_batch, processes=processes)
    with seeded_randomness(5):
        smooth = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 24), nn.Tanh())
        backbone = (conv4() if has_batch_norm else smooth).double()
        learner = Learner(backbone, split, recipe, lambda views: normalise(views).double(), CPU, computing)
        learner.head.double()
        steps = [learner.step(samples).loss for _ in range(2) for samples in learner.objective.batches(0)]
    return weights_of(learner.backbone, learner.head) | {"losses": torch.stack(steps)}


def in_precision(processes: Processes | None, precision: PrecisionName) -> Tensor:
    """Losses of three steps of a network with batch norm."""
    recipe = small_recipe("ce+schane", precision=precision, learning_rate=1e-3, schedule="constant")
    with seeded_randomness(5):
        learner = Learner(conv4(), bars(), recipe, normalise, CPU, Computing(processes=processes))
        return torch.stack([learner.step(samples).loss for samples in learner.objective.batches(0)])


def of_equal_images(processes: Processes) -> Tensor:
    """What the processes make of one image each, [W, V]."""
    with seeded_randomness(6):
        own = torch.ones(2, 30, dtype=torch.float64)
        return processes.embed(nn.Dropout(0.5), own, processes.count, CPU)[: processes.count]


def overflowing(processes: Processes) -> dict[str, Tensor]:
    """A weight and the scale of fp16 after a step in which the gradient of process 1 overflows."""
    weight, scaler = nn.Parameter(torch.ones(3)), torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler.scale((weight * (torch.inf if processes.rank == 1 else 1.0)).sum()).backward()
    processes.reduce_gradients([weight], [])
    scaler.step(optimizer)
    scaler.update()
    return {"weight": weight.detach(), "scale": torch.tensor(scaler.get_scale())}


LOSSES = ("ce", "ce+schane", "ce+supcon", "ce+simclr")
TRAININGS = {
    f"{loss}, {'batch norm' if has_batch_norm else 'smooth'}, {micro_batch or 'whole'}": partial(
        trained, loss=loss, has_batch_norm=has_batch_norm, micro_batch=micro_batch
    )
    for loss in LOSSES
    for has_batch_norm in (False, True)
    for micro_batch in (None, 5)
}
PRECISIONS: tuple[PrecisionName, ...] = ("float32", "bf16", "fp16")
KINDS = ("plain", "without weights", "cumulative", "untracked", "with activation", "frozen", "none")
CASES = {kind: partial(learnt, kind=kind) for kind in (*KINDS, "dropout", "unused")}
CASES |= {
    "different": of_equal_images,
    "overflow": overflowing,
    **{precision: partial(in_precision, precision=precision) for precision in PRECISIONS},
    "compiled": partial(learnt, kind="with activation", is_compiled=True),
    **TRAININGS,
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What three processes return for every case, by rank."""
    return run_in_processes(3, CASES, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("kind", [*KINDS, "compiled"])
def test_gradients_and_running_statistics_are_those_of_one_process(results: list[dict[str, Any]], kind: str) -> None:
    expected = learnt(None, "with activation" if kind == "compiled" else kind)
    for result in results:
        assert result[kind].keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(result[kind][name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_every_process_has_the_same_bits(results: list[dict[str, Any]]) -> None:
    for kind in CASES.keys() - {"different", *PRECISIONS}:
        for name, value in results[0][kind].items():
            assert all(torch.equal(value, result[kind][name]) for result in results[1:]), (kind, name)


def test_a_network_that_draws_nothing_leaves_the_random_numbers_of_one_process(results: list[dict[str, Any]]) -> None:
    assert torch.equal(results[0]["none"]["drawn"], learnt(None, "none")["drawn"])
    assert not torch.equal(results[0]["dropout"]["drawn"], results[0]["none"]["drawn"]), "or its next step drops alike"


def test_processes_drop_different_units(results: list[dict[str, Any]]) -> None:
    first, second, _ = results[0]["different"]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_trains(results: list[dict[str, Any]], precision: PrecisionName) -> None:
    expected = in_precision(None, precision)
    tolerance = 1e-4 if precision == "float32" else 2e-2
    for result in results:
        torch.testing.assert_close(result[precision], expected, rtol=tolerance, atol=0)


def test_an_overflow_of_one_process_skips_the_step_of_all(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["overflow"]["weight"].tolist() == [1.0, 1.0, 1.0]
        assert result["overflow"]["scale"] == 2.0


def test_a_weight_is_learnt_if_it_has_a_gradient_anywhere(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert "gradient 1.never" not in result["unused"]
        assert result["unused"]["gradient 1.sometimes"].abs() > 0


@pytest.mark.parametrize("images", [16, 17, 23, 60])
@pytest.mark.parametrize("parts", [1, 3, 5])
@pytest.mark.parametrize("count", [2, 3])
def test_shares_are_those_of_every_part_in_its_order(images: int, parts: int, count: int) -> None:
    shares = [Processes(rank, count).share(images, parts) for rank in range(count)]
    assert torch.equal(torch.cat(shares).sort().values, torch.arange(images))
    of_parts = [share.tensor_split(parts) for share in shares]
    for number, part in enumerate(torch.arange(images).tensor_split(parts)):
        assert torch.equal(torch.cat([share[number] for share in of_parts]), part)


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(StudyError, match="4 processes share every batch or micro-batch, and one has 3 images"):
        Processes(0, 4).share(7, 2)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_that_of_one_process(results: list[dict[str, Any]], name: str) -> None:
    expected = TRAININGS[name](None)
    for part, value in expected.items():
        torch.testing.assert_close(results[-1][name][part], value, rtol=1e-7, atol=1e-9, msg=part)
