"""Methods that learn of their queries what they should not are caught."""

from __future__ import annotations

import pytest
import torch
from audited_results import (
    Chance,
    Peek,
    PeekIfAsked,
    ReadNumbers,
    WantsAll,
    Whisper,
    detail,
    failures,
    rewritten,
    small_result,
    verdicts,
)

from fewshot_bench.adaptation import ADAPTATIONS, hyper_parameter_choice

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def cheats(monkeypatch):
    monkeypatch.setattr(ADAPTATIONS, "_entries", dict(ADAPTATIONS._entries))
    for method in (Peek, PeekIfAsked, ReadNumbers, Whisper, Chance, WantsAll):
        ADAPTATIONS.register(method.name, "cheats")(method)


def result(tmp_path, name, **settings):
    return small_result(tmp_path, adaptations=(name,), hyper_parameters=settings)


def test_a_method_that_reads_the_order_of_the_queries_is_caught(tmp_path):
    cell = result(tmp_path, "peek")
    assert "100.00%" in detail(cell, "counts"), "it knows everything"
    assert {"query order", "query labels"} <= set(failures(cell))
    assert verdicts(cell)["same predictions"] == "pass"


def test_an_ensemble_with_a_member_that_reads_the_order_of_the_queries_is_caught(tmp_path):
    cell = small_result(tmp_path, adaptations=("peek-if-asked",), choose="ensemble")
    assert {"query order", "query labels"} <= set(failures(cell))


def test_cross_validation_does_not_hide_a_head_that_reads_the_order_of_the_queries(tmp_path):
    cell = small_result(tmp_path, adaptations=("peek-if-asked",), choose="support-cv", way=2, shots=(2,), episodes=40)
    assert {"query order", "query labels"} <= set(failures(cell)), "chosen by luck in some episodes"


@pytest.mark.parametrize(("choose", "told"), [("support-cv", "C chosen anew"), ("ensemble", "averaged over C anew")])
def test_an_honest_choice_passes_and_the_audit_says_that_it_was_made_anew(tmp_path, choose, told):
    cell = small_result(tmp_path, adaptations=("logistic",), choose=choose, shots=(2,))
    assert failures(cell) == []
    assert detail(cell, "query labels").startswith(f"queries in the places of another class, {told}: the same")
    assert detail(cell, "query order").startswith(f"queries in another order, classes mixed, {told}: the same")
    assert detail(cell, "query batching").startswith(f"queries in halves and alone, {told}: the same")


def by_the_labels_of_the_queries(members, split, support, query):
    """The member that is right about most queries, whose classes it reads off their places."""
    truth = torch.arange(query.shape[1]) * support.shape[1] // query.shape[1]
    right = [(member.scores(split, support, query).argmax(-1) == truth).sum(dim=1) for member in members]
    return torch.stack(right).argmax(dim=0)


def test_a_choice_by_the_labels_of_the_queries_is_caught(tmp_path, monkeypatch):
    monkeypatch.setattr(hyper_parameter_choice, "_best", by_the_labels_of_the_queries)
    options = {"adaptations": ("logistic",), "choose": "support-cv", "shots": (2,)}
    cell = small_result(tmp_path, **options, hyper_parameters={"C": "1,0.001,1000", "features": "raw"})
    found = set(failures(cell))
    assert "query labels" in found
    assert "query batching" in found, "an inductive method whose choice looks at the queries is no longer inductive"


def test_a_method_that_reads_the_numbers_of_the_images_is_caught(tmp_path):
    cell = result(tmp_path, "read-numbers")
    assert failures(cell) == ["image numbers"]


def test_a_method_whose_queries_inform_each_other_must_say_so(tmp_path):
    assert failures(result(tmp_path / "silent", "whisper")) == ["query batching"]
    honest = result(tmp_path / "honest", "whisper", admits_it=True)
    assert failures(honest) == []
    assert detail(honest, "query batching").startswith("marked transductive; ")


def test_a_card_that_hides_it_is_another_method(tmp_path):
    honest = result(tmp_path, "whisper", admits_it=True)
    forged = rewritten(honest, lambda content: content["method"].update(is_transductive=False))
    assert failures(forged) == ["same predictions"]
    assert "is_transductive is True here and False in the outcomes" in detail(forged, "same predictions")


def test_a_card_that_hides_what_a_method_assumes_about_the_queries_is_another_method(tmp_path):
    honest = result(tmp_path, "whisper", admits_it=True, is_balanced=True)
    assert failures(honest) == []
    forged = rewritten(honest, lambda content: content["method"].update(assumes_balanced_queries=False))
    assert failures(forged) == ["same predictions"]
    assert "assumes_balanced_queries is True here and False in the outcomes" in detail(forged, "same predictions")


def test_a_card_that_boasts_of_an_assumption_is_another_method(tmp_path):
    honest = result(tmp_path, "whisper", admits_it=True)
    forged = rewritten(honest, lambda content: content["method"].update(assumes_balanced_queries=True))
    assert "assumes_balanced_queries is False here and True in the outcomes" in detail(forged, "same predictions")


def test_a_method_that_says_something_else_each_time_is_caught(tmp_path):
    assert "same predictions" in failures(result(tmp_path, "chance"))


def test_a_method_that_breaks_on_fewer_queries_fails_and_the_audit_goes_on(tmp_path):
    cell = result(tmp_path, "wants-all")
    assert failures(cell) == ["query batching"]
    assert "the method failed: PluginError: " in detail(cell, "query batching")
    assert "in scores: RuntimeError: " in detail(cell, "query batching")
    assert verdicts(cell)["pretraining"] == "pass"
