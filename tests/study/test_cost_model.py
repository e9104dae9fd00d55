"""A plan is judged for another machine: what fits into its memory, and the operations at a rate that is stated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import toy_sweeps
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fewshot_bench.adaptation import Finetune
from fewshot_bench.backbones import BackboneRequest, known_backbone
from fewshot_bench.datasets.catalogue import BENCHMARKS, is_stand_in, stand_in_dataset
from fewshot_bench.engine.engine import Chunk, LocalEngine
from fewshot_bench.progress import SILENT
from fewshot_bench.study import StudyPlan
from fewshot_bench.study.cost_model import CostModel, NetworkCost, network_cost
from fewshot_bench.study.dry_run import estimate
from fewshot_bench.study.estimates import Estimates, Machine, WorkEstimate
from fewshot_bench.study.networks import Backbones
from fewshot_bench.study.resolved import resolve_study
from fewshot_bench.study.workers import ClassifierBuilder
from fewshot_bench.training.optimisation import activation_bytes

CONV4 = {"base_losses": ("ce",), "base_epochs": 2, "base_batch": 8, "adaptations": ("centroid",)}
VIT = CONV4 | {"backbone": "timm:test_vit.r160_in1k", "image_size": 32}
"""It has no batch normalisation."""
PRECISIONS = ("float32", "bf16")
GPU = Machine(memory=80_000_000_000, flops=1e12)


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    dataset = toy_sweeps.toy_dataset()
    toy_sweeps.use(dataset, monkeypatch)
    return dataset


def estimated(results: Any, machine: Machine | None, **changes: Any) -> Estimates:
    study = toy_sweeps.study(results, **{"hyper_parameters": {}, **changes})
    return estimate(StudyPlan(name="", studies=(study,), places=("",)), machine=machine)


def training_of(estimates: Estimates) -> WorkEstimate:
    return next(work for work in estimates.work if work.kind == "training")


def test_operations_and_bytes_are_those_that_one_counts_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(5 * 8 * 8, 10))
    cost = network_cost(network, torch.rand(4, 3, 8, 8))
    convolution, linear = 2 * 8 * 8 * 5 * 3 * 9, 2 * 5 * 8 * 8 * 10
    assert cost.forward == convolution + linear
    # Backward: gradients of the weights of both, and of the input of the second alone.
    assert cost.training == cost.forward + convolution + 2 * linear
    assert cost.kept == 4 * 8 * 8 * (3 + 5)
    assert cost.embedding == 4 * 8 * 8 * (5 + 5), "input and output of the sigmoid"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["conv4_32", "resnet12", "timm:test_vit.r160_in1k", "timm:test_efficientnet.r160_in1k"]
)
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_network_without_content_keeps_what_it_keeps_with_content(name, precision):
    backbone = known_backbone(BackboneRequest(name, 3, 32, image_size=32), is_stand_in=True)
    four = torch.rand(4, 3, 32, 32)
    before = {key: value.clone() for key, value in backbone.network.state_dict().items()}
    cost = network_cost(backbone.network, four, precision=precision)
    assert cost.kept == activation_bytes(backbone.network, four, precision=precision)
    assert all(torch.equal(value, before[key]) for key, value in backbone.network.state_dict().items())


def test_a_network_that_looks_at_values_is_run():
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 2)

        def forward(self, images: Tensor) -> Tensor:
            assert float(images.sum()) >= 0
            return self.linear(images.flatten(1))

    assert network_cost(Looks(), torch.rand(4, 3, 2, 2)).forward == 2 * 12 * 2


@pytest.mark.slow
def test_a_training_is_epochs_times_images_in_two_views(tmp_path, toy):
    training = training_of(estimated(tmp_path, GPU, **CONV4))
    backbone = known_backbone(BackboneRequest("conv4_32", 3, 16))
    cost = network_cost(backbone.network, torch.rand(4, 3, 16, 16))
    assert training.operations == 2 * len(toy.base) * 2 * cost.training
    assert training.seconds == pytest.approx((training.operations / 1e12,) * 2)
    assert training.micro_batch is None


def cost_of_vit() -> tuple[NetworkCost, Machine]:
    """What an image costs the small transformer, and a machine with room for five images in two views."""
    backbone = known_backbone(BackboneRequest("timm:test_vit.r160_in1k", 3, 32, image_size=32), is_stand_in=True)
    cost = network_cost(backbone.network, torch.rand(4, 3, 32, 32))
    weights = 4 * sum(parameter.nbytes for parameter in backbone.network.parameters())
    return cost, Machine(memory=int(weights + 5 * 2 * cost.kept / 0.9) + 1, flops=1e12)


@pytest.mark.slow
def test_cached_gradients_are_one_more_forward_pass(tmp_path, toy):
    cost, scarce = cost_of_vit()
    for loss, more in (("ce", 0), ("ce+schane", cost.forward)):
        whole = training_of(estimated(tmp_path, GPU, **VIT | {"base_losses": (loss,)}))
        parts = training_of(estimated(tmp_path, scarce, **VIT | {"base_losses": (loss,)}))
        assert (whole.micro_batch, parts.micro_batch) == (None, 4)
        assert parts.operations == pytest.approx(whole.operations + 2 * len(toy.base) * 2 * more)


@pytest.mark.slow
def test_half_the_bits_leave_room_for_more_images(tmp_path):
    _, scarce = cost_of_vit()
    settings = VIT | {"base_batch": 40}
    sizes = [
        training_of(estimated(tmp_path, scarce, **settings, base_precision=name)).micro_batch for name in PRECISIONS
    ]
    assert sizes == [4, 8]


@pytest.mark.slow
def test_what_does_not_fit_is_a_problem_and_the_rest_is_counted(tmp_path):
    small = Machine(memory=1_000_000, flops=1e12)
    ahead = estimated(tmp_path, small, **CONV4)
    assert "training on batches of 8 images in two views needs about" in ahead.missing[0]
    assert "kB are free on that device" in ahead.missing[0]
    assert " 0" not in " ".join(ahead.missing), "sizes have digits that mean something"
    assert len(ahead.cells) == 1
    (problem,) = estimated(tmp_path, small, adaptations=("finetune",), losses=("ce",)).missing
    assert "one 5-way 1-shot episode needs about" in problem


@pytest.mark.slow
def test_without_a_rate_there_is_no_time(tmp_path):
    ahead = estimated(tmp_path, Machine(memory=10**9), **CONV4)
    assert [work.seconds for work in ahead.work] == [None, None]
    assert ahead.cells[0].seconds is None
    assert training_of(ahead).operations > 0
    assert not ahead.is_whole
    assert ahead.free_bytes == 10**9


@pytest.mark.slow
def test_embeddings_are_one_forward_pass_per_image_whatever_the_caches_here_hold(tmp_path, toy):
    backbone = known_backbone(BackboneRequest("conv4_32", 3, 16))
    cost = network_cost(backbone.network, torch.rand(4, 3, 16, 16))
    for _ in range(2):
        (work,) = estimated(tmp_path, GPU, adaptations=("centroid",)).work
        assert (work.kind, work.units) == ("embeddings", len(toy.novel))
        assert work.operations == len(toy.novel) * cost.forward
        estimate(StudyPlan(name="", studies=(toy_sweeps.study(tmp_path),), places=("",)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tune": "last:1"},
        {"tune": "last:1", "views": 0},
        {"tune": "norm"},
        {"query_entropy": 1.0, "batch_size": 4},
    ],
)
def test_fine_tuning_is_counted_as_it_is_done(settings, tmp_path, toy):
    study = toy_sweeps.study(
        tmp_path, adaptations=("finetune",), losses=("ce",), shots=(1, 2), hyper_parameters={"epochs": 3, **settings}
    )
    resolved = resolve_study(study, backbones=Backbones(fetches=False))
    backbone, adaptation = resolved.networks[0].start(), resolved.adaptations[0]
    assert isinstance(adaptation, Finetune)
    _, _, times = CostModel(GPU).method(resolved, backbone, adaptation)
    worker = ClassifierBuilder(resolved, backbone, LocalEngine("cpu"), SILENT).worker_factory(adaptation)()
    for protocol, time in zip(resolved.protocols, times, strict=True):
        worker(Chunk(protocol, 0, np.arange(1), 1))  # which prepares the network, once for all episodes
        with FlopCounterMode(display=False) as counter:
            worker(Chunk(protocol, 0, np.arange(1), 1))
        assert time.per_episode.operations == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.slow
def test_heads_are_counted_on_a_few_episodes(tmp_path):
    ahead = estimated(tmp_path, GPU, adaptations=("logistic", "tim"), episodes=100)
    assert [cell.operations > 0 for cell in ahead.cells] == [True, True]
    assert ahead.is_whole


@pytest.mark.slow
def test_images_that_are_not_here_are_taken_from_the_catalogue(tmp_path, monkeypatch):
    monkeypatch.undo()  # the datasets are the real ones
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(tmp_path))
    ahead = estimated(tmp_path, GPU, **CONV4 | {"dataset": "tiered-imagenet"})
    assert ahead.missing == []
    assert training_of(ahead).units == 2 * -(-448_695 // 8)
    assert [work.units for work in ahead.work if work.kind == "embeddings"] == [206_209]
    assert "779,165 of 84 x 84 pixels" in ahead.notes[0]
    assert ahead.cells[0].why == "once its images are here"
    here = estimated(tmp_path, None, **CONV4 | {"dataset": "tiered-imagenet"})
    assert "tiered-imagenet has not been imported" in here.missing[0]
    assert "no dataset called 'omniglott'" in estimated(tmp_path, GPU, **CONV4 | {"dataset": "omniglott"}).missing[0]


OF_FEW_SHOT = [name for name, benchmark in BENCHMARKS.items() if "base" in benchmark.splits]


@pytest.mark.parametrize("name", [name for name in BENCHMARKS if name not in OF_FEW_SHOT])
def test_stand_ins_for_classification_have_the_images_and_classes_of_the_summary(name):
    dataset, summary = stand_in_dataset(name), BENCHMARKS[name].summary
    sizes = [f"{len(split):,}" for split in dataset.splits.values()]
    total = f"{sum(map(len, dataset.splits.values())):,}"
    assert f"{'/'.join(sizes)} images" in summary or f"{total} images" in summary
    (names,) = {split.class_names for split in dataset.splits.values()}
    assert f"{len(names):,} " in summary or "256 objects and clutter" in summary


@pytest.mark.parametrize("name", OF_FEW_SHOT)
def test_stand_ins_are_as_large_as_the_summary_says(name):
    dataset, summary = stand_in_dataset(name), BENCHMARKS[name].summary
    assert is_stand_in(dataset)
    assert all(sum(split.class_sizes) == len(split) for split in dataset.splits.values())
    if not dataset.is_few_shot:
        sizes = [len(split) for split in dataset.splits.values()]
        assert "/".join(f"{size:,}" for size in sizes) in summary or f"{sum(sizes):,} images" in summary
        assert len({split.class_names for split in dataset.splits.values()}) == 1
        return
    summary = summary.replace(",", "")
    assert "/".join(str(len(split.class_names)) for split in dataset.splits.values()) in summary
    size = dataset.base.images.shape[1]
    assert f"{size} x {size}" in summary
    images = sum(map(len, dataset.splits.values()))
    sizes = {size for split in dataset.splits.values() for size in split.class_sizes}
    assert f"{images} images" in summary or sizes == {600} or f"x {max(sizes)} images" in summary


@pytest.mark.slow
def test_of_this_machine_nothing_new_is_said(tmp_path):
    ahead = estimated(tmp_path, None, **CONV4).as_dict()
    assert "machine" not in ahead
    assert not {"operations", "micro_batch"} & {*ahead["cells"][0], *ahead["work"][0]}
    elsewhere = estimated(tmp_path, GPU, **CONV4).as_dict()
    assert elsewhere["machine"] == {"memory": 80_000_000_000, "flops": 1e12}
    assert elsewhere["work"][0]["operations"] > 0
