"""Names that papers use are answered with what to type, and what is answered can be typed."""

from __future__ import annotations

import re

import pytest

from fewshot_bench.adaptation import ADAPTATIONS
from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import UnknownNameError
from fewshot_bench.registry import answered_names, what_to_type
from fewshot_bench.study import Study
from fewshot_bench.study.known_names import OWN_NAMES
from fewshot_bench.study.methods import planned_adaptations

COMMAND = re.compile(r"--adapt (\S+)((?: --set \S+)*)")


def commands(answer):
    """The adaptations that an answer names, with their settings."""
    for adaptation, settings in COMMAND.findall(answer):
        pairs = [setting.partition("=") for setting in settings.replace("--set", "").split()]
        yield adaptation.rstrip(".,"), {name: _value(text) for name, _, text in pairs}


def _value(text):
    return int(text) if text.isdecimal() else text


@pytest.mark.parametrize("name", answered_names())
def test_what_is_answered_can_be_typed(name):
    found = list(commands(what_to_type(name)))
    assert found, "an answer says what to type"
    for adaptation, settings in found:
        assert planned_adaptations(Study(adaptations=(adaptation,), hyper_parameters=settings))


def test_names_of_this_package_are_known_though_a_paper_spells_them_otherwise():
    assert [ADAPTATIONS[name].name for name in OWN_NAMES["adaptation"]] == list(OWN_NAMES["adaptation"])
    with pytest.raises(UnknownNameError, match="It is called finetune"):
        _ = ADAPTATIONS["Fine_Tune"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("protonet", "ProtoNet is a training recipe; its classifier is: --adapt centroid --set metric=euclidean"),
        ("Prototypical_Networks", "--adapt centroid --set metric=euclidean --set features=raw"),
        ("nearest-centroid", "It is called centroid: --adapt centroid"),
        ("NCM", "It is called centroid: --adapt centroid"),
        ("linear_probe", "It is called logistic: --adapt logistic"),
        ("anil", "--adapt maml"),
    ],
)
def test_a_name_of_the_field_is_one_line_that_says_what_to_type(tmp_path, capsys, name, told):
    assert exit_code(["run", "--adapt", name, "--results", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: there is no adaptation called '{name}'. ")
    assert told in line


def test_python_answers_the_same():
    with pytest.raises(UnknownNameError, match="its classifier is: --adapt centroid"):
        _ = ADAPTATIONS["protonet"]
    with pytest.raises(UnknownNameError, match="Did you mean centroid"):
        _ = ADAPTATIONS["centroit"]


def test_an_adaptation_of_that_name_is_not_answered(monkeypatch):
    monkeypatch.setattr(ADAPTATIONS, "_entries", {**ADAPTATIONS._entries, "protonet": ADAPTATIONS["centroid"]})
    assert ADAPTATIONS["protonet"].name == "centroid"
