from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, MethodCard, ProtocolCard

METHOD = MethodCard("conv/centroid", "conv4", "00ff", "centroid", {"features": "l2", "mean": (0.5, 0.25)}, False)
PROTOCOL = ProtocolCard("cifar-fs", "ab12", "novel", 5, 1, 15, 0, 1)
CELL = Cell(METHOD, PROTOCOL, {"torch": "2.3.0"})
PUBLISHED = sorted((Path(__file__).parents[2] / "results").glob("*/outcomes/*/cell.json"))


def test_the_name_is_no_part_of_a_methods_identity():
    assert replace(METHOD, name="another").fingerprint == METHOD.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "conv4_64"},
        {"weights": "00fe"},
        {"adaptation": "logistic"},
        {"hyper_parameters": {"features": "raw", "mean": (0.5, 0.25)}},
        {"is_transductive": True},
        {"assumes_balanced_queries": True},
    ],
    ids=lambda change: next(iter(change)),
)
def test_everything_else_is(change):
    changed = replace(METHOD, **change)
    assert changed.fingerprint != METHOD.fingerprint
    assert Cell(changed, PROTOCOL).key != CELL.key


@pytest.mark.parametrize("field", list(ProtocolCard.__dataclass_fields__))
def test_every_field_of_a_protocol_is_part_of_its_identity(field):
    value = getattr(PROTOCOL, field)
    other = {"alpha": 2.0} if isinstance(value, dict) else value + 1 if isinstance(value, int) else value + "x"
    changed = replace(PROTOCOL, **{field: other})
    assert changed.fingerprint != PROTOCOL.fingerprint
    assert Cell(METHOD, changed).key != CELL.key


def test_a_card_that_assumes_nothing_about_the_queries_is_as_it_was_before_any_could():
    assert "assumes_balanced_queries" not in METHOD.as_dict()
    assert "assumes_balanced_queries" not in CELL.as_json()
    told = replace(CELL, method=replace(METHOD, is_transductive=True, assumes_balanced_queries=True))
    assert told.method.as_dict()["assumes_balanced_queries"] is True
    assert Cell.from_json(told.as_json()) == told
    assert Cell.from_json(CELL.as_json()) == CELL


def test_a_transductive_method_has_a_marked_name():
    assert METHOD.marked_name == "conv/centroid"
    assert replace(METHOD, is_transductive=True).marked_name == "conv/centroid (transductive)"


def test_the_key_of_a_published_cell_never_changes():
    assert CELL.key == "0175d78a0a55fcfd"
    assert len(METHOD.fingerprint) == 64


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_a_published_description_is_written_again_byte_for_byte(path):
    content = {"class_names": [], **json.loads(path.read_text())}  # which older releases did not record
    cell = Cell.from_json(path.read_text())
    assert cell.as_json() == json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert cell.key == path.parent.name


def test_a_description_never_changes_its_bytes():
    assert hashlib.sha256(CELL.as_json().encode()).hexdigest()[:16] == "6a57ca387641bc94"


def test_versions_are_recorded_but_do_not_make_another_cell():
    assert Cell(METHOD, PROTOCOL, {"torch": "2.4.0"}).key == CELL.key


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(max_size=5), plain, max_size=4))
def test_a_cell_equals_itself_after_reading_it_back(hyper_parameters):
    cell = Cell(replace(METHOD, hyper_parameters=hyper_parameters), PROTOCOL, {"torch": "2.3.0"})
    again = Cell.from_json(cell.as_json())
    assert again == cell
    assert again.key == cell.key


def test_the_order_of_hyper_parameters_does_not_matter():
    one, other = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert replace(METHOD, hyper_parameters=one).fingerprint == replace(METHOD, hyper_parameters=other).fingerprint


@pytest.mark.parametrize("value", [math.inf, math.nan, object()])
def test_a_hyper_parameter_that_cannot_be_recorded_is_refused(value):
    with pytest.raises(OutcomeError, match=r"hyper-parameters of conv/centroid must be finite numbers"):
        replace(METHOD, hyper_parameters={"C": value})


def test_a_label_tells_methods_of_one_name_apart():
    retrained = replace(METHOD, weights="11")
    assert METHOD.label == f"conv/centroid#{METHOD.fingerprint[:8]}"
    assert retrained.label != METHOD.label


def test_a_task_names_the_split_unless_it_is_the_novel_one():
    assert PROTOCOL.task == "cifar-fs 5-way 1-shot"
    assert replace(PROTOCOL, split="validation").task == "cifar-fs (validation split) 5-way 1-shot"


def test_what_is_recorded_comes_back_and_is_no_part_of_the_identity():
    told = replace(CELL, class_sizes=(600, 598), provenance={"commands": ["fewshot-bench run"], "peak_bytes": 12})
    assert told.key == CELL.key
    assert Cell.from_json(told.as_json()) == told
