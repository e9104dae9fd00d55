"""Training on whole datasets: images held out, part of the images, last blocks, averaged weights, layer-wise decay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from bars import are_equal, bars, conv4, normalise, small_recipe, train
from hypothesis import given
from hypothesis import strategies as st

from fewshot_bench.errors import StudyError
from fewshot_bench.training import Computing, Recipe, Selection
from fewshot_bench.training.division import divided
from fewshot_bench.training.learner import Learner
from fewshot_bench.training.optimisation import build_optimizer


def learner(**changes: Any) -> Learner:
    return Learner(conv4(), bars(), small_recipe(**changes), normalise, torch.device("cpu"), Computing())


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12),
    validation=st.sampled_from([0.0, 0.1, 0.5]),
    share=st.sampled_from([0.05, 0.2, 1.0]),
)
def test_every_class_is_divided_by_its_shares(sizes: list[int], validation: float, share: float) -> None:
    recipe = Recipe(validation_share=validation, train_share=share)
    division = divided(sizes, recipe)
    assert not set(division.learned.tolist()) & set(division.held_out.tolist())
    labels = np.repeat(np.arange(len(sizes)), sizes)
    learned, held_out = (
        np.bincount(labels[rows], minlength=len(sizes)) for rows in (division.learned, division.held_out)
    )
    for size, of_class, kept in zip(sizes, learned, held_out, strict=True):
        assert of_class >= 1, "a class that is not learned cannot be told apart"
        assert abs(kept - validation * size) <= 1
        assert abs(of_class - share * (size - kept)) <= 1


GOLDEN_HELD_OUT = [0, 16, 30, 31, 50]
"""Made when images were first held out. They must never change: stored results name them by their digest."""


def test_the_division_is_the_same_on_every_machine_and_for_every_seed() -> None:
    division = divided((9, 30, 12), Recipe(validation_share=0.1, train_share=0.5))
    assert division.digest == divided((9, 30, 12), Recipe(validation_share=0.1, train_share=0.5, seed=8)).digest
    assert division.held_out.tolist() == GOLDEN_HELD_OUT


def test_images_that_are_held_out_are_never_learned_from() -> None:
    trained = learner(validation_share=0.25, train_share=0.5, batch_size=8)
    division = divided(bars().class_sizes, trained.recipe)
    seen = [samples.rows for samples in trained.objective.batches(0)]
    assert sorted(torch.cat(seen).tolist()) == division.learned.tolist()
    assert len(seen) == trained.steps_per_epoch


def test_without_shares_the_weights_are_those_of_before() -> None:
    assert are_equal(train(), train(train_share=1.0, validation_share=0.0, ema=0.0, layer_decay=1.0, tune="all"))
    assert Recipe().hyper_parameters() == Recipe(kept_epoch="last", tune="all").hyper_parameters()
    assert not {"train_share", "ema", "tune"} & set(Recipe().hyper_parameters())


def test_the_last_blocks_alone_are_trained_and_frozen_statistics_stay() -> None:
    start = conv4()
    trained = train(network=start, tune="last:1", epochs=1)
    before, after = start.state_dict(), trained.backbone.state_dict()
    changed = {name.split(".")[1] for name in before if not before[name].equal(after[name])}
    assert changed == {"3"}, "the fourth block with its normalisation"


def test_more_blocks_than_there_are_are_refused() -> None:
    with pytest.raises(StudyError, match="has 4 blocks; last:5 asks for 5"):
        train(tune="last:5")


def test_averaged_weights_are_the_mean_that_the_decay_says() -> None:
    trained = learner(ema=0.75)
    assert trained.average is not None
    name = next(iter(trained.average.weights))
    weight = name.removeprefix("backbone.")
    expected = trained.backbone.state_dict()[weight].clone()
    for number, samples in enumerate(trained.objective.batches(0)):
        trained.step(samples)
        expected = 0.75 * expected + 0.25 * trained.backbone.state_dict()[weight]
        if number == 1:
            break
    torch.testing.assert_close(trained.average.weights[name], expected)


def test_averaged_weights_are_validated_and_are_the_result_and_learning_goes_on_without_them() -> None:
    seen: list[float] = []

    def measure(network: torch.nn.Module, head: torch.nn.Module) -> dict[str, float]:
        seen.append(float(next(network.parameters()).double().sum()))
        return {"validation_accuracy": 0.5}

    selection = Selection(validate=measure, chooses=False)
    averaged = train(ema=0.9, selection=selection)
    assert seen[-1] == float(next(averaged.backbone.parameters()).double().sum())
    assert averaged.history[-1]["loss"] == train().history[-1]["loss"], "the average changes no step"
    assert not are_equal(averaged, train())


def test_a_curve_is_recorded_without_choosing_the_best_epoch() -> None:
    accuracies = iter([0.9, 0.1])
    selection = Selection(validate=lambda network, head: {"validation_accuracy": next(accuracies)}, chooses=False)
    result = train(selection=selection)
    assert [row["validation_accuracy"] for row in result.history] == [0.9, 0.1]
    assert result.epoch == 2
    assert are_equal(result, train())


def test_rates_fall_by_the_decay_from_the_head_to_the_first_block() -> None:
    trained = learner()
    recipe = small_recipe(layer_decay=0.5, learning_rate=0.8, decays="all")
    optimizer = build_optimizer(recipe, [trained.backbone, trained.head])
    rate_of = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    assert {rate_of[id(weight)] for weight in trained.head.parameters()} == {0.8}
    blocks = [rate_of[id(weight)] for weight in trained.backbone.parameters()]
    assert blocks == sorted(blocks)
    assert sorted(set(blocks)) == pytest.approx([0.05, 0.1, 0.2, 0.4])
    learned = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert len(learned) == len(set(learned)) == len(rate_of)


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("train_share", {"train_share": 0}),
    ("train_share", {"train_share": 1.5}),
    ("validation_share", {"validation_share": 0.6}),
    ("validation_share", {"validation_share": 0.1, "objective": "episodic"}),
    ("ema", {"ema": 1}),
    ("layer_decay", {"layer_decay": 0}),
    ("layer_decay", {"layer_decay": 0.9, "precision": "fp16"}),
    ("tune", {"tune": "first:1"}),
    ("tune", {"tune": "last:0"}),
    ("kept_epoch", {"kept_epoch": "middle"}),
]


@pytest.mark.parametrize(("name", "settings"), REFUSED)
def test_values_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=f"^{name} "):
        Recipe(**settings)
