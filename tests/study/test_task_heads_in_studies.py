"""The head of gradient-based meta-learning goes from the training to the method that starts from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from audited_results import detail, verdicts

from fewshot_bench.audit import ReproductionOptions, reproduce_cell
from fewshot_bench.audit.finding import ORDER, SAME
from fewshot_bench.cache.trials import no_trials
from fewshot_bench.datasets import DATASETS, Dataset
from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell
from fewshot_bench.registry import Entry
from fewshot_bench.study import Study, TrainingPlan, read_checkpoint, run_study, train_backbone
from fewshot_bench.study.dry_run import estimate
from fewshot_bench.study.estimates import Machine
from fewshot_bench.study.plan import StudyPlan

RECIPE = {
    "objective": "maml", "epochs": 1, "steps_per_epoch": 2, "tasks": 2, "way": 3, "shot": 1, "query": 2,
    "inner_steps": 1, "optimizer": "adam", "learning_rate": 1e-3, "weight_decay": 0.0, "schedule": "constant",
    "views": 1, "augmentation": "none", "dropout": 0.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def toy_is_known(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DATASETS._entries, "toy", Entry("toy", lambda: toy, "three small splits"))


def train(name: str = "mine", recipe: dict[str, Any] = RECIPE, **settings: Any) -> None:
    settings = {"dataset": "toy", "backbone": "conv4_32", "validation_episodes": 2, **settings}
    train_backbone(TrainingPlan(name=name, recipe=recipe, **settings))


def run(folder: Path, **settings: Any) -> list[Cell]:
    study = {"adaptations": ("maml",), "shots": (1,), "way": 3, "query": 3, "episodes": 4, "runs": 1, "device": "cpu"}
    study |= {"checkpoints": ("mine",), "hyper_parameters": {"steps": 2}}
    with no_trials():
        return run_study(Study(**{"dataset": "toy", **study, **settings}, results=folder)).cells


@pytest.mark.slow
def test_a_training_is_validated_kept_evaluated_audited_and_reproduced(tmp_path: Path) -> None:
    train(validate_every=1, dataset="glyphs")
    checkpoint = read_checkpoint("mine")
    head = checkpoint.backbone().task_head
    assert head is not None
    assert head.way == 3
    assert checkpoint.accuracies.keys() == {"validation_1shot", "validation_5shot"}
    assert checkpoint.card.selection["head"]["name"] == "maml"
    assert checkpoint.card.selection["way"] == 3
    (cell,) = run(tmp_path, dataset="glyphs")
    assert cell.method.is_transductive
    assert cell.method.hyper_parameters["task_head"] == head.digest
    assert cell.method.name.endswith("/maml@steps=2")
    folder = tmp_path / "outcomes" / cell.key
    with no_trials():
        assert verdicts(folder)[SAME] == "pass", detail(folder, SAME)
        assert verdicts(folder)[ORDER] == "pass", detail(folder, ORDER)
        assert reproduce_cell(folder, ReproductionOptions(device="cpu")).is_equal


@pytest.mark.slow
def test_an_evaluation_takes_the_statistics_of_its_training_unless_a_study_names_others(tmp_path: Path) -> None:
    train(recipe=RECIPE | {"inner_statistics": "support"}, validate_every=1, dataset="glyphs")
    assert read_checkpoint("mine").card.selection["head"]["statistics"] == "support"
    (cell,) = run(tmp_path, dataset="glyphs")
    assert cell.method.name.endswith("/maml@statistics=support,steps=2")
    assert not cell.method.is_transductive
    (same,) = run(tmp_path, dataset="glyphs", hyper_parameters={"steps": 2, "statistics": "support"})
    assert same.key == cell.key
    (other,) = run(tmp_path, dataset="glyphs", hyper_parameters={"steps": 2, "statistics": "batch"})
    assert other.method.name.endswith("/maml@statistics=batch,steps=2")
    assert other.method.is_transductive
    with no_trials():
        for stored in (cell, other):
            assert reproduce_cell(tmp_path / "outcomes" / stored.key, ReproductionOptions(device="cpu")).is_equal


@pytest.mark.slow
def test_meta_sgd_takes_as_many_steps_as_its_rates_were_trained_for(tmp_path: Path) -> None:
    train(recipe=RECIPE | {"objective": "meta-sgd"}, validate_every=1)
    assert read_checkpoint("mine").card.selection["head"]["steps"] == 1
    (cell,) = run(tmp_path, hyper_parameters={})
    assert cell.method.name.endswith("/maml@steps=1")
    (other,) = run(tmp_path, hyper_parameters={"steps": 10})  # the default of maml, named
    assert other.method.name.endswith("/maml@steps=10")


@pytest.mark.slow
def test_a_dry_run_counts_a_method_of_support_statistics_under_its_name(tmp_path: Path) -> None:
    train(recipe=RECIPE | {"inner_statistics": "support"}, validate_every=0)
    study = Study(
        dataset="toy", checkpoints=("mine",), adaptations=("maml",), shots=(1,), way=3, query=3, episodes=2, runs=1,
        device="cpu", results=tmp_path,
    )  # fmt: skip
    (cell,) = estimate(StudyPlan.of_options([study]), machine=Machine(flops=1e12)).cells
    assert cell.method.endswith("/maml@statistics=support")
    assert not cell.is_transductive


@pytest.mark.slow
def test_what_does_not_fit_the_training_is_one_clear_line(tmp_path: Path) -> None:
    train(validate_every=0)
    train("classifier", {"epochs": 1, "batch_size": 48}, validate_every=0)
    refused = {
        "--way 3": {"way": 5},
        "Leave out --sampler varied": {"sampler": "varied"},
        "maml has no head": {"checkpoints": ("classifier",)},
        "the recipe maml-conv4 is": {"checkpoints": None, "recipe": "maml-conv4"},
        "the recipe rfs-conv4 is": {"checkpoints": None, "recipe": "rfs-conv4"},
        "--checkpoint NAME": {"checkpoints": None, "backbone": "conv4_32", "base_losses": ("ce",)},
        "has no classifier": {"adaptations": ("finetune",), "hyper_parameters": {"on": "logits"}},
    }
    for words, settings in refused.items():
        with pytest.raises(FewshotBenchError) as caught:
            run(tmp_path, **settings)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_validation_split_with_too_few_classes_is_refused_before_the_training() -> None:
    with pytest.raises(FewshotBenchError, match="--validate-every 0"):
        train(recipe=RECIPE | {"way": 6}, validate_every=1)


@pytest.mark.slow
def test_what_was_trained_on_tasks_is_not_said_to_be_old_where_a_classifier_is_wanted() -> None:
    train(validate_every=0)
    with pytest.raises(FewshotBenchError, match="mine was trained on tasks, so it has no classifier"):
        train("student", {"objective": "distillation", "teacher": "mine", "epochs": 1})
