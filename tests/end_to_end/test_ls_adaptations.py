"""`ls adaptations` says of each what it is, and what can be set of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import ClassVar

import pytest
from typer.testing import CliRunner

from fewshot_bench.adaptation import ADAPTATIONS, Centroid, EmbeddingAdaptation
from fewshot_bench.adaptation.base import described
from fewshot_bench.cli.main import app, exit_code


def listed(*arguments):
    return CliRunner().invoke(app, ["ls", "adaptations", *arguments], env={"COLUMNS": "100"}).output


def own_entries():
    return [entry for entry in ADAPTATIONS if entry.factory.__module__.startswith("fewshot_bench.")]


@pytest.mark.parametrize("entry", own_entries(), ids=lambda entry: entry.name)
def test_every_hyper_parameter_has_its_default_and_a_meaning(entry):
    (row,) = [row for row in json.loads(listed("--json")) if row["name"] == entry.name]
    expected = {field.name for field in fields(entry.factory)} - {"choose", "candidates"}
    assert {one["name"] for one in row["hyper_parameters"]} == expected
    for one in row["hyper_parameters"]:
        assert one["meaning"], f"{one['name']} of {entry.name} has no line in Attributes"
        tried = () if one["name"] in entry.preset else getattr(entry.factory, "grid", {}).get(one["name"], ())
        assert one["tried"] == list(tried)
    defaults = {one["name"]: one["default"] for one in row["hyper_parameters"]}
    assert defaults == {name: value for name, value in vars(entry.factory(**entry.preset)).items() if name in expected}
    assert row["is_transductive"] == entry.factory().is_transductive
    assert row["assumes_balanced_queries"] == entry.factory().assumes_balanced_queries
    assert row["family"]
    assert row["paper"]


@pytest.mark.parametrize("entry", own_entries(), ids=lambda entry: entry.name)
def test_the_first_value_that_is_tried_is_the_default(entry):
    for name, values in getattr(entry.factory, "grid", {}).items():
        assert values[0] == getattr(entry.factory(), name)
        assert len(values) > 1
        for value in values:
            assert entry.factory(**{name: value})


def test_an_alias_shows_what_it_fixes():
    alone = " ".join(listed("simpleshot").split())
    assert "metric=euclidean" in alone
    assert "features=cl2" in alone
    assert "--choose" not in alone


def test_the_list_has_one_line_for_each_hyper_parameter_and_a_head_alone_has_all_of_it():
    lines = listed().splitlines()
    start = lines.index("logistic  (linear, inductive)")
    assert lines[start + 3].split()[:2] == ["*", "C=1.0"]
    assert all(len(line) <= 100 for line in lines)
    alone = " ".join(listed("logistic").split())
    assert "[--choose: 1.0, 0.1, 10.0, 100.0]" in alone
    assert "features=l2" in alone
    assert "centroid" not in alone


def test_what_a_head_assumes_is_beside_its_name(monkeypatch):
    @dataclass(frozen=True, kw_only=True)
    class Even(Centroid):
        name: ClassVar[str] = "even"
        strength: float = 2.0
        is_transductive: ClassVar[bool] = True
        assumes_balanced_queries: ClassVar[bool] = True

    monkeypatch.setattr(ADAPTATIONS, "_entries", dict(ADAPTATIONS._entries))
    ADAPTATIONS.register("even", "as many of each", family="clustering")(Even)
    assert "even  (clustering, transductive, assumes balanced queries)" in listed()
    (strength,) = [line for line in listed("even").splitlines() if "strength" in line]
    assert strength.split() == ["strength=2.0", "-"], "without a docstring, the name and the default"


def test_a_class_that_cannot_be_made_is_described_all_the_same():
    @dataclass(frozen=True, kw_only=True)
    class Needs(EmbeddingAdaptation):
        """Needs a value.

        Attributes:
            value: what it is,
                over two lines.

        Note:
            nothing: of this.
        """

        name: ClassVar[str] = "needs"
        value: int

    first = described(Needs).hyper_parameters[0]
    assert (first.name, first.default, first.meaning) == ("value", None, "what it is, over two lines.")
    assert described(None) is None


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("ls", "adaptations", "protonet"), "ProtoNet is a training recipe"),
        (("ls", "adaptations", "logisti"), "Did you mean logistic?"),
        (("ls", "losses", "cee"), "there is no loss called 'cee'"),
    ],
)
def test_a_name_that_is_not_there_is_one_line(capsys, typed, told):
    assert exit_code(list(typed)) == 2
    assert told in capsys.readouterr().err
