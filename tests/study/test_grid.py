"""A grid is every combination of known hyper-parameters, in the order in which they were given."""

from __future__ import annotations

import pytest

from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.study import PAPER_GRID, Axis, Grid, Study
from fewshot_bench.study.sweep import check_names, text_of, with_values


def test_the_default_grid_is_that_of_the_paper():
    assert len(PAPER_GRID) == 28
    assert {axis.name: axis.values for axis in PAPER_GRID.axes} == {
        "lambda": (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1),
        "tau": (0.1, 0.3, 0.5, 0.7),
    }


def test_points_come_with_the_last_axis_fastest():
    grid = Grid((Axis("steps", (1, 2)), Axis("head", ("linear", "cosine"))))
    assert [tuple(point.values()) for point in grid.points()] == [
        (1, "linear"), (1, "cosine"), (2, "linear"), (2, "cosine"),
    ]  # fmt: skip
    assert text_of(grid.points()[1]) == "steps 1, head cosine"


@pytest.mark.parametrize("values", [(), (0.1, 0.1), (0, 0.0)])
def test_an_axis_has_different_values(values):
    with pytest.raises(StudyError, match=r"--grid tau takes different values"):
        Axis("tau", values)


def test_a_name_stands_once_in_a_grid_however_it_is_spelled():
    with pytest.raises(StudyError, match="weight_decay is in the grid twice"):
        Grid((Axis("weight-decay", (0,)), Axis("weight_decay", (1,))))


@pytest.mark.parametrize(
    ("name", "nearest"), [("lamda", "lambda"), ("learning_rte", "learning_rate"), ("base_epoch", "base_epochs")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(UnknownNameError, match=f"Did you mean .*{nearest}"):
        check_names([name], "finetune-head")


@pytest.mark.parametrize("name", ["split", "episodes", "seed", "dataset", "results", "device", "loss", "training_seed"])
def test_what_is_no_hyper_parameter_cannot_be_swept(name):
    with pytest.raises(UnknownNameError):
        check_names([name], "finetune-head")


def test_values_go_to_the_study_or_to_the_adaptation():
    study = Study(adaptations=("finetune-head",), hyper_parameters={"steps": 3, "head": "cosine"})
    changed = with_values(study, {"lambda": 0.25, "image_size": 32, "steps": 7})
    assert (changed.lambda_, changed.image_size) == (0.25, 32)
    assert changed.hyper_parameters == {"steps": 7, "head": "cosine"}
    assert study.hyper_parameters["steps"] == 3


def test_a_refused_value_is_named():
    with pytest.raises(StudyError, match=r"lambda of the grid: .* not 2"):
        with_values(Study(), {"lambda": 2})
