"""Methods that learn of their queries what they should not are caught."""

from __future__ import annotations

import pytest
from audited_results import (
    Chance,
    Peek,
    ReadNumbers,
    WantsAll,
    Whisper,
    detail,
    failures,
    rewritten,
    small_result,
    verdicts,
)

from fewshot_bench.adaptation import ADAPTATIONS


@pytest.fixture(autouse=True)
def cheats(monkeypatch):
    monkeypatch.setattr(ADAPTATIONS, "_entries", dict(ADAPTATIONS._entries))
    for method in (Peek, ReadNumbers, Whisper, Chance, WantsAll):
        ADAPTATIONS.register(method.name, "cheats")(method)


def result(tmp_path, name, **settings):
    return small_result(tmp_path, adaptations=(name,), hyper_parameters=settings)


def test_a_method_that_reads_the_order_of_the_queries_is_caught(tmp_path):
    cell = result(tmp_path, "peek")
    assert "100.00%" in detail(cell, "counts"), "it knows everything"
    assert {"query order", "query labels"} <= set(failures(cell))
    assert verdicts(cell)["same predictions"] == "pass"


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
