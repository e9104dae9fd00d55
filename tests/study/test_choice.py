"""What a study says of choosing hyper-parameters reaches every head that has values to try, and its records."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import toy_sweeps

from fewshot_bench import run_study
from fewshot_bench.adaptation import ADAPTATIONS, Centroid, Finetune, FinetuneHead, Logistic
from fewshot_bench.audit.rebuild import recorded_study
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes.cell import MethodCard
from fewshot_bench.study import Axis, Grid, Study, plan_of_file
from fewshot_bench.study.known_names import OWN_NAMES
from fewshot_bench.study.methods import method_name, planned_adaptations
from fewshot_bench.study.provenance import study_record
from fewshot_bench.study.study_parser import Override


def planned(*adaptations, **fields):
    return planned_adaptations(Study(adaptations=adaptations, **{"shots": (5,), **fields}))


def names(*adaptations, **fields):
    return [method_name("net", {}, "", one) for one in planned(*adaptations, **fields)]


@pytest.fixture(autouse=True)
def dataset(monkeypatch):
    toy_sweeps.use(toy_sweeps.toy_dataset(), monkeypatch)


@pytest.mark.parametrize("choose", ["support-cv", "ensemble"])
def test_a_choice_reaches_every_head_with_values_to_try(choose):
    found = planned("centroid", "logistic", "finetune-head", "finetune", choose=choose)
    assert found == [Centroid(choose=choose), Logistic(choose=choose), FinetuneHead(choose=choose), Finetune()]
    assert names("logistic", choose=choose) == [f"net/logistic@choose={choose}"]


def test_what_is_set_is_fixed_and_several_values_are_tried():
    (fixed, head) = planned("logistic", "finetune-head", choose="ensemble", hyper_parameters={"C": 10})
    assert fixed == Logistic(C=10)
    assert head == FinetuneHead(choose="ensemble")
    for text in ("0.1,1,30", [0.1, 1, 30]):
        (own,) = planned("logistic", choose="ensemble", hyper_parameters={"C": text})
        assert own.tried == {"C": (0.1, 1, 30)}
        assert own.hyper_parameters()["grid"] == {"C": [0.1, 1, 30]}
    assert names("logistic", choose="ensemble", hyper_parameters={"C": "0.1,1,30"}) == [
        "net/logistic@C=0.1;1;30,choose=ensemble"
    ]
    both = {"learning_rate": 0.01, "steps": "10,20"}
    assert names("finetune-head", choose="ensemble", hyper_parameters=both) == [
        "net/episode-ce/finetune-head@choose=ensemble,learning_rate=0.01,steps=10;20"
    ]


def test_different_choices_are_different_methods():
    settings = [
        {}, {"choose": "support-cv"}, {"choose": "ensemble"},
        {"choose": "ensemble", "hyper_parameters": {"C": "0.1,1"}},
        {"choose": "ensemble", "hyper_parameters": {"C": "1,0.1"}},
    ]  # fmt: skip
    cards = [
        MethodCard("same", "net", "w", "logistic", planned("logistic", **fields)[0].hyper_parameters())
        for fields in settings
    ]
    assert len({card.fingerprint for card in cards}) == len(settings)
    assert len({names("logistic", **fields)[0] for fields in settings}) == len(settings)


@pytest.mark.parametrize(
    ("adaptations", "fields", "sentence"),
    [
        (("logistic",), {"shots": (1, 5)}, "at 1 shot none would be left"),
        (("logistic",), {"shots": (5,), "sampler": "varied"}, "at 1 shot none would be left"),
        (("logistic",), {"hyper_parameters": {"C": 10}}, "nothing of logistic is left to choose: C is set"),
        (("finetune",), {}, "finetune does not work on frozen embeddings"),
        (("logistic",), {"hyper_parameters": {"C": "1,big"}}, "C of logistic should be a number, not 'big'"),
        (("logistic",), {"hyper_parameters": {"C": "1,-1"}}, "C of logistic should be positive"),
        (("logistic",), {"hyper_parameters": {"views": "0,5"}}, "other augmented views"),
        (("ilpc",), {"hyper_parameters": {"balanced": "true,perhaps"}}, "balanced of ilpc should be true or false"),
        (("pt-map",), {"hyper_parameters": {"alpha": "0.2,most"}}, "alpha of pt-map should be a number, not 'most'"),
        (("logistic",), {"hyper_parameters": {"choose": "ensemble"}}, "use --choose instead"),
        (("logistic",), {"hyper_parameters": {"candidates": "1,2"}}, "has a hyper-parameter 'candidates'"),
    ],
)
def test_a_choice_that_cannot_be_is_refused_before_anything_is_computed(adaptations, fields, sentence):
    with pytest.raises(StudyError, match=sentence):
        planned(*adaptations, choose="support-cv", **fields)


def test_several_values_without_a_choice_are_told_what_they_need():
    with pytest.raises(StudyError, match=r"not '0.1,1'\. Several values are tried with --choose"):
        planned("logistic", hyper_parameters={"C": "0.1,1"})
    assert planned("logistic", choose="support-cv", sampler="varied", least_shot=2) == [Logistic(choose="support-cv")]


def test_records_without_a_choice_are_what_they_were():
    assert "choose" not in study_record(Study())
    assert study_record(Study(choose="ensemble"))["choose"] == "ensemble"


@pytest.mark.parametrize("values", ["0.1,1", 10])
def test_the_recorded_study_of_a_cell_gives_its_method_again(tmp_path, values):
    study = toy_sweeps.study(
        tmp_path, adaptations=("logistic", "centroid"), choose="support-cv", shots=(2,), hyper_parameters={"C": values}
    )
    for cell in run_study(study).cells:
        again = recorded_study(cell)
        (adaptation,) = planned_adaptations(again)
        assert adaptation.hyper_parameters() == cell.method.hyper_parameters["adaptation"]


def test_a_study_file_says_how_hyper_parameters_are_chosen(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text('shots = [5]\nchoose = "ensemble"\n[[methods]]\nadaptations = ["logistic", "centroid"]\n')
    (study,) = plan_of_file(str(path)).studies
    assert planned_adaptations(study) == [Logistic(choose="ensemble"), Centroid(choose="ensemble")]
    (changed,) = plan_of_file(str(path), [Override.from_text("choose", "support-cv")]).studies
    assert changed.choose == "support-cv"
    with pytest.raises(StudyError, match="choose should be 'none', 'support-cv' or 'ensemble', not 'oracle'"):
        plan_of_file(str(path), [Override.from_text("choose", "oracle")])


def test_nothing_is_both_swept_and_chosen(tmp_path):
    grid = Grid((Axis("C", (0.1, 1.0)),))
    logistic = {"adaptations": ("logistic",), "losses": ("ce",), "hyper_parameters": {}, "shots": (2,)}
    with pytest.raises(StudyError, match="C is both in the grid and chosen in each episode"):
        toy_sweeps.planned(tmp_path, grid, **logistic, choose="ensemble")
    assert len(toy_sweeps.planned(tmp_path, grid, **logistic).points) == 2
    other = toy_sweeps.planned(tmp_path, Grid((Axis("features", ("l2", "raw")),)), **logistic, choose="ensemble")
    assert [planned_adaptations(point.study)[0].choose for point in other.points] == ["ensemble"] * 2
    ways = toy_sweeps.planned(tmp_path, Grid((Axis("choose", ("none", "support-cv")),)), **logistic)
    assert [point.study.choose for point in ways.points] == ["none", "support-cv"]


def test_a_sweep_takes_no_group(tmp_path):
    with pytest.raises(StudyError, match="a sweep varies the settings of one method, and all means several"):
        toy_sweeps.planned(tmp_path, adaptations=("all",), hyper_parameters={})


@pytest.mark.parametrize("name", OWN_NAMES["adaptation"])
def test_no_hyper_parameter_takes_what_is_not_of_its_kind(name):
    adaptation = ADAPTATIONS[name].factory
    own = {"loss", "lambda_", "tau", "reading", "stop_gradient", "anchors", "choose", "candidates"}
    wrong = {"bool": ["False", "None", 0, math.nan], "float": ["much", True, [1.0], math.nan, math.inf, -math.inf]}
    wrong |= {"int": ["many", True, 1.5, [1], math.nan, math.inf]}
    tried = 0
    for field in fields(adaptation):
        for value in wrong.get(str(field.type).removesuffix(" | None"), []) if field.name not in own else []:
            with pytest.raises(StudyError, match=rf"{field.name.rstrip('_')}\b"):
                planned(name, hyper_parameters={field.name: value})
            tried += 1
    assert tried or name in ("centroid", "simpleshot", "classifier")
