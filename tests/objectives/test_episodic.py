"""Training on tasks: which tasks they are, what a step computes, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bars import SIZE, are_equal, bars, conv4, normalise, weights
from torch import Tensor, nn

from fewshot_bench.adaptation import Centroid, EmbeddingAdaptation, Matching, Ridge, SupportVectorMachine
from fewshot_bench.adaptation.centroid import nearest_centroid
from fewshot_bench.backbones import BackboneRequest
from fewshot_bench.datasets import open_dataset
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.episodes import Protocol, sample_episodes
from fewshot_bench.errors import EpisodeError, StudyError
from fewshot_bench.losses import cross_entropy
from fewshot_bench.objectives import Episodic
from fewshot_bench.progress import SILENT
from fewshot_bench.study.base_stage import MicroBatches, initialised_backbone
from fewshot_bench.study.measurements import _SHARE_OF_FREE_MEMORY, Measurements
from fewshot_bench.study.validation import validation, validation_protocols
from fewshot_bench.training import Computing, History, Recipe, StateFile, TrainingResult, train_on_base
from fewshot_bench.training.learner import Learner
from fewshot_bench.training.optimisation import StepMemory, fitting_micro_batch

CPU = torch.device("cpu")
HEADS = ("centroid", "matching", "ridge", "svm")


def recipe(**changes: Any) -> Recipe:
    """Three steps of two 3-way 2-shot tasks."""
    small: dict[str, Any] = {"way": 3, "shot": 2, "query": 3, "tasks": 2, "steps_per_epoch": 3, "epochs": 2}
    settings: dict[str, Any] = {"objective": "episodic", "views": 1, "learning_rate": 1e-3, "schedule": "constant"}
    return Recipe(**{**settings, **small, "augmentation": "affine", "threads": 1, **changes})


def train(split: ImageSplit | None = None, network: nn.Module | None = None, **changes: Any) -> TrainingResult:
    of_training = ("computing", "state", "after_epoch")
    given = {name: changes.pop(name) for name in of_training if name in changes}
    network = network or conv4()
    return train_on_base(network, split or bars(), recipe(**changes), normalise=normalise, objective=Episodic, **given)


def learner_of(network: nn.Module, computing: Computing | None = None, **changes: Any) -> Learner:
    return Learner(network, bars(), recipe(**changes), normalise, CPU, computing or Computing(), Episodic)


class PlainNetwork(nn.Module):
    """A network without batch normalisation, in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 16), nn.Tanh()).double()

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.layers(images.double())
        return embeddings


class TestTasks:
    def test_the_tasks_are_those_of_the_sampler_by_dataset_split_seed_and_number(self) -> None:
        learner = learner_of(conv4(), seed=5)
        batches = [samples.rows.view(2, 3, 5) for epoch in (0, 1) for samples in learner.objective.batches(epoch)]
        protocol = Protocol("toy", "base", 3, 2, 3, episodes=12, runs=1, seed=5)
        expected = sample_episodes(bars(), protocol).images
        assert np.array_equal(torch.cat(batches).numpy(), expected)

    def test_an_epoch_is_drawn_alone(self) -> None:
        learner = learner_of(conv4())
        alone = [samples.rows for samples in learner.objective.batches(1)]
        _ = list(learner.objective.batches(0))
        assert all(a.equal(b.rows) for a, b in zip(alone, learner.objective.batches(1), strict=True))

    def test_drawing_a_few_tasks_at_a_time_changes_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        learner = learner_of(conv4(), steps_per_epoch=5)
        at_once = [samples.rows for samples in learner.objective.batches(1)]
        monkeypatch.setattr("fewshot_bench.objectives.episodic._TASKS_DRAWN_AT_ONCE", 4)
        in_parts = [samples.rows for samples in learner.objective.batches(1)]
        assert torch.stack(at_once).equal(torch.stack(in_parts))

    def test_augmentation_and_dropout_do_not_change_the_tasks(self) -> None:
        rows = [
            [samples.rows for samples in learner_of(conv4(), augmentation=name).objective.batches(0)]
            for name in ("none", "affine")
        ]
        assert torch.stack(rows[0]).equal(torch.stack(rows[1]))


class TestAStep:
    @pytest.mark.parametrize("smoothing", [0.0, 0.2])
    def test_the_loss_is_the_cross_entropy_of_the_queries_by_the_centroids_of_their_task(
        self, smoothing: float
    ) -> None:
        learner = learner_of(PlainNetwork(), label_smoothing=smoothing, augmentation="none")
        samples = next(learner.objective.batches(0))
        network = PlainNetwork()
        embeddings = network(normalise(samples.images)).view(2, 3, 5, -1)
        logits = nearest_centroid(embeddings[:, :, :2], embeddings[:, :, 2:].flatten(1, 2), metric="euclidean")
        truth = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
        losses = cross_entropy(logits, truth, label_smoothing=smoothing)
        losses.mean().backward()
        measured = learner.objective.gradients(samples, lambda loss: loss.backward())
        assert measured.loss.item() == pytest.approx(losses.mean().item(), rel=1e-6)
        assert measured.hits == (logits.argmax(-1) == truth).sum()
        assert (measured.classified, measured.images) == (18, 30)
        for ours, theirs in zip(learner.backbone.parameters(), network.parameters(), strict=True):
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-5, atol=1e-8)

    @pytest.mark.slow
    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("micro_batch", [15, 31, 44])
    def test_micro_batches_of_whole_tasks_give_the_gradients_of_the_step(self, head: str, micro_batch: int) -> None:
        found = []
        for computing in (Computing(), Computing(micro_batch=micro_batch)):
            learner = learner_of(PlainNetwork(), computing, episodic_head=head, tasks=3, augmentation="none")
            measured = learner.objective.gradients(next(learner.objective.batches(0)), lambda loss: loss.backward())
            gradients = [p.grad for module in (learner.backbone, learner.head) for p in module.parameters()]
            found.append((measured.loss, measured.hits, *gradients))
        for whole, parts in zip(*found, strict=True):
            assert torch.allclose(whole, parts, rtol=1e-4, atol=1e-7)

    def test_a_micro_batch_embeds_as_many_whole_tasks_as_fit(self) -> None:
        learner = learner_of(conv4(), Computing(micro_batch=31), tasks=3)
        sizes = []
        embed = learner.encoder.embed
        learner.encoder.embed = lambda views: sizes.append(len(views)) or embed(views)  # type: ignore[method-assign, func-returns-value]
        learner.step(next(learner.objective.batches(0)))
        assert sizes == [30, 15]

    @pytest.mark.parametrize("head", HEADS)
    def test_a_scale_changes_the_loss_and_with_most_heads_no_prediction(self, head: str) -> None:
        found = []
        for scale in (1.0, 3.0):
            learner = learner_of(PlainNetwork(), episodic_head=head, augmentation="none", head_scale=scale)
            measured = learner.objective.gradients(next(learner.objective.batches(0)), lambda loss: loss.backward())
            found.append(measured)
        assert found[0].loss != found[1].loss
        if head != "matching":
            assert found[0].hits == found[1].hits

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("changes", "is_learned"),
        [
            ({"episodic_head": "centroid"}, False),
            ({"episodic_head": "matching"}, False),
            ({"episodic_head": "ridge"}, True),
            ({"episodic_head": "svm"}, True),
            ({"episodic_head": "centroid", "learned_scale": True}, True),
            ({"episodic_head": "svm", "learned_scale": False}, False),
        ],
    )
    def test_the_scale_is_trained_where_the_recipe_says_so(self, changes: dict[str, Any], is_learned: bool) -> None:
        result = train(**changes, optimizer="sgd", decays="all")
        scales = [value for name, value in result.head.state_dict().items() if name == "scale"]
        assert len(scales) == is_learned
        assert not is_learned or scales[0] != 1

    @pytest.mark.slow
    def test_the_penalty_is_that_of_the_recipe(self) -> None:
        for head, default in (("ridge", 50.0), ("svm", 0.1)):
            same, other = train(episodic_head=head, head_penalty=default), train(episodic_head=head, head_penalty=0.01)
            plain = train(episodic_head=head)
            assert are_equal(plain, same)
            assert not are_equal(plain, other)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
class TestTrainings:
    def test_the_same_recipe_gives_the_same_weights_bit_for_bit(self, head: str) -> None:
        assert are_equal(train(episodic_head=head), train(episodic_head=head))
        assert not are_equal(train(episodic_head=head), train(episodic_head=head, seed=1))

    @pytest.mark.parametrize("precision", ["float32", "fp16"])
    def test_a_training_that_was_stopped_ends_with_the_same_bits(
        self, head: str, precision: str, tmp_path: Path
    ) -> None:
        settings: dict[str, Any] = {"episodic_head": head, "precision": precision, "epochs": 3, "optimizer": "sgd"}
        settings |= {
            "augmentation": "affine",
            "learning_rate": 0.05,
            "nesterov": True,
            "computing": Computing(micro_batch=15),
        }
        without = train(**settings)
        state = StateFile(path=tmp_path / "state.safetensors")

        def stop(history: History) -> None:
            if len(history) == 1:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            train(**settings, state=state, after_epoch=stop)
        torch.rand(5)
        assert are_equal(train(**settings, state=state), without)

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_heads_compute_in_float32_on_networks_in_half_the_bits(self, head: str, precision: str) -> None:
        types = []
        network = conv4()
        network.register_forward_hook(lambda _, __, out: types.append(out.dtype))
        result = train(episodic_head=head, precision=precision, network=network)
        assert {torch.bfloat16, torch.float16} & set(types)
        assert all(value.isfinite().all() for value in weights(result))
        assert {value.dtype for value in weights(result) if value.is_floating_point()} == {torch.float32}

    def test_embeddings_that_diverge_are_one_clear_line(self, head: str) -> None:
        with pytest.raises(StudyError, match="Use a learning rate below"):
            train(episodic_head=head, optimizer="sgd", learning_rate=1e25, steps_per_epoch=6)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_a_network_learns_to_classify_new_classes(head: str) -> None:
    glyphs = open_dataset("glyphs")
    backbone = initialised_backbone(BackboneRequest("conv4_32", channels=1, native_size=28), seed=0)
    adaptation: EmbeddingAdaptation = {
        "centroid": Centroid(metric="euclidean", features="raw"),
        "matching": Matching(scale=10.0, features="raw"),
        "ridge": Ridge(penalty=50.0, features="raw"),
        "svm": SupportVectorMachine(C=0.1, features="raw"),
    }[head]
    validate = validation(
        backbone, glyphs.validation, validation_protocols(glyphs.validation, 50), "cpu", head=adaptation
    )
    trained = train_on_base(
        backbone.network,
        glyphs.base,
        recipe(episodic_head=head, way=5, query=5, steps_per_epoch=25, epochs=4, optimizer="adam", weight_decay=0.0,
               learning_rate=3e-3, head_scale=10.0 if head == "matching" else 1.0),
        normalise=backbone.preprocessing,
        objective=Episodic,
    )  # fmt: skip
    before, after = validate(backbone.network, nn.Identity()), validate(trained.backbone, trained.head)
    assert after["validation_1shot"] > before["validation_1shot"] + 0.1
    assert after["validation_5shot"] > before["validation_5shot"] + 0.15


class TestRefusals:
    def test_a_base_split_with_too_few_classes(self) -> None:
        with pytest.raises(EpisodeError, match=r"base split of toy has 4 classes; 5-way .* --way 4 or fewer"):
            learner_of(conv4(), way=5)

    def test_a_base_split_with_too_few_images(self) -> None:
        with pytest.raises(EpisodeError, match=r"12 images"):
            learner_of(conv4(), shot=10, query=3)

    def test_two_views(self) -> None:
        with pytest.raises(StudyError, match="one view of each image, not 2"):
            learner_of(conv4(), views=2)

    def test_a_contrastive_loss(self) -> None:
        with pytest.raises(StudyError, match=r"not ce\+schane"):
            learner_of(conv4(), loss="ce+schane")

    def test_mixed_images(self) -> None:
        with pytest.raises(StudyError, match="Leave out --mixup"):
            learner_of(conv4(), mixup=0.2)

    def test_several_processes(self) -> None:
        with pytest.raises(StudyError, match="Leave out torchrun"):
            learner_of(conv4(), Computing(processes=object()))  # type: ignore[arg-type]

    def test_a_micro_batch_smaller_than_a_task(self) -> None:
        with pytest.raises(StudyError, match=r"a task of 15 images .* a micro-batch has 14"):
            learner_of(conv4(), Computing(micro_batch=14))

    @pytest.mark.parametrize(
        ("changes", "name"),
        [
            ({"episodic_head": "centroid", "head_penalty": 1.0}, "head_penalty"),
            ({"episodic_head": "ridge", "head_penalty": 0.0}, "head_penalty"),
            ({"head_scale": 0.0}, "head_scale"),
            ({"episodic_head": "matching", "learned_scale": True}, "learned_scale"),
            ({"episodic_head": "nearest"}, "episodic_head"),
        ],
    )
    def test_settings_that_a_head_has_not(self, changes: dict[str, Any], name: str) -> None:
        with pytest.raises(StudyError, match=name):
            recipe(**changes)


class TestMemory:
    def memory(self, images: float) -> StepMemory:
        return StepMemory(per_image=1000.0, weights=500, free=round(500 + 1000 * images / 0.9), device="cuda", views=1)

    def test_a_step_takes_the_images_of_all_its_tasks_in_one_view(self) -> None:
        large = recipe(way=20, shot=5, query=15, tasks=8)
        assert large.images_per_step(split_images=100) == 8 * 20 * 20
        assert large.images_per_epoch(split_images=100) == 3 * 8 * 20 * 20
        assert replace(large, objective="classification").images_per_step(split_images=100) == 100

    def test_a_task_fits_where_its_images_do(self) -> None:
        assert fitting_micro_batch(self.memory(150), 840, 105) == 128
        assert fitting_micro_batch(self.memory(120), 840, 105) == 105
        assert fitting_micro_batch(self.memory(900), 840, 105) == 840

    def test_where_memory_runs_out_micro_batches_are_halved_down_to_one_task(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_memory(*_: Any, **__: Any) -> None:
            raise MemoryError

        monkeypatch.setattr("fewshot_bench.study.base_stage.train_on_base", no_memory)
        backbone = initialised_backbone(BackboneRequest("conv4_32", channels=1, native_size=SIZE), seed=0)
        training = MicroBatches([60], False, "Use --micro-batch {half}.")
        with pytest.raises(StudyError, match=r"15 images does not fit .* smaller --way, --shot or --query"):
            training.train(backbone, bars(), recipe(tasks=4), device="cpu", progress=SILENT)
        assert training.sizes == [60, 30, 15]

    def test_a_task_that_does_not_fit_is_one_clear_line(self) -> None:
        with pytest.raises(StudyError, match=r"a task of 105 images; .* smaller --way, --shot or --query"):
            fitting_micro_batch(self.memory(100), 840, 105)

    @pytest.mark.slow
    @pytest.mark.parametrize(("fitting", "expected"), [(1e6, 2), (20, 1)])
    def test_a_dry_run_times_whole_tasks_in_one_view(
        self, fitting: float, expected: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backbone = initialised_backbone(BackboneRequest("conv4_32", channels=1, native_size=SIZE), seed=0)
        four = normalise(torch.from_numpy(bars().images[:4]).permute(0, 3, 1, 2))
        needed = StepMemory.measured(backbone.network, four, views=1)
        free = int(needed.per_image * fitting / _SHARE_OF_FREE_MEMORY)
        monkeypatch.setattr("fewshot_bench.training.optimisation.free_bytes", lambda device: free)
        at_once, whole_tasks = [], Episodic._logits
        monkeypatch.setattr(
            Episodic, "_logits", lambda self, views: at_once.append(len(views)) or whole_tasks(self, views)
        )
        needs = Measurements("cpu").training(bars(), backbone, recipe())
        assert needs.timed == 30
        assert needs.memory == pytest.approx(30 * needed.per_image + needed.weights, rel=0.01)
        assert set(at_once) == {expected}
