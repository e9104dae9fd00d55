"""Whatever a stranger writes into cell.json: an error of one line, or a cell whose every value is of its kind."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.cell import read_description
from fewshot_bench.outcomes.part import Identity
from fewshot_bench.outcomes.store import parts_in

RULE = {"rule": "narrow enough", "half_width": 0.5, "episodes_between_looks": 250, "max_episodes": 3000}
TOLD = {
    "commands": ["fewshot-bench run"],
    "study": {"way": 5},
    "git_commit": "ab",
    "hardware": {"device": "cpu"},
    "platform": "Linux",
    "python": "3.11",
    "pretraining": "ImageNet-1k",
    "peak_bytes": 12,
    "stopping": [RULE],
    "from a later release": [1],
}
CELL = Cell(
    MethodCard("conv/centroid", "conv4", "00ff", "centroid", {"base": {"loss": "ce"}}),
    ProtocolCard("toy", "ab", "novel", 3, 1, 2, 0, 1, "varied", {"least_way": 2, "least_shot": 1}),
    {"torch": "2.3.0"},
    {"steps": 1},
    (4, 5, 6),
    TOLD,
)
PREDICTIONS = np.zeros((2, 6), np.uint8)


def changed(*path: str, value: Any) -> str:
    content = json.loads(CELL.as_json())
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return json.dumps(content)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def test_what_run_records_is_left_out_nowhere():
    assert Cell.from_json(CELL.as_json()) == CELL
    assert read_description(CELL.as_json()).ignored == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stopping", 5),
        ("stopping", ["x"]),
        ("stopping", [{"half_width": "x"}]),
        ("stopping", [{**RULE, "half_width": True}]),
        ("stopping", [{**RULE, "half_width": float("nan")}]),
        ("stopping", [{**RULE, "half_width": 10**400}]),
        ("stopping", [{**RULE, "max_episodes": "many"}]),
        ("stopping", [RULE, {}]),
        ("stopping", RULE),
        ("pretraining", ["ImageNet-1k"]),
        ("pretraining", {"a": 1}),
        ("peak_bytes", "lots"),
        ("peak_bytes", [1]),
        ("peak_bytes", -1),
        ("peak_bytes", True),
        ("peak_bytes", 10**400),
        ("commands", 5),
        ("commands", "x"),
        ("commands", [5]),
        ("study", "y"),
        ("hardware", "x"),
        ("git_commit", 5),
        ("python", []),
        ("from a later release", float("nan")),
        ("from a later release", "\ud800"),
        ("from a later release", nested(100)),
    ],
    ids=str,
)
def test_provenance_of_another_kind_counts_as_not_recorded(name, value):
    text = changed("provenance", name, value=value)
    cell = Cell.from_json(text)
    assert cell.provenance == {key: told for key, told in TOLD.items() if key != name}
    assert cell.key == CELL.key
    ((keys, finding),) = read_description(text).ignored.items()
    assert keys == ("provenance", name)
    assert finding.startswith(f"provenance.{name}")
    assert "\n" not in finding


@pytest.mark.parametrize(
    ("path", "value", "attribute", "rest"),
    [
        (("provenance",), "abc", "provenance", {}),
        (("provenance",), [["a", 1]], "provenance", {}),
        (("versions",), "x", "versions", {}),
        (("versions", "timm"), 5, "versions", CELL.versions),
        (("dataset_recipe",), [1], "dataset_recipe", {}),
        (("dataset_recipe", "deep"), nested(100), "dataset_recipe", CELL.dataset_recipe),
        (("class_sizes",), "abc", "class_sizes", ()),
        (("class_sizes",), [4, -5, 6], "class_sizes", ()),
        (("class_sizes",), [4, 5.5, 6], "class_sizes", ()),
        (("class_sizes",), [4, 10**30], "class_sizes", ()),
    ],
    ids=str,
)
def test_so_does_everything_else_that_is_no_part_of_the_identity(path, value, attribute, rest):
    text = changed(*path, value=value)
    cell = Cell.from_json(text)
    assert getattr(cell, attribute) == rest
    assert cell.key == CELL.key
    ((keys, finding),) = read_description(text).ignored.items()
    assert keys == path
    assert finding.startswith(".".join(path))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("method",), [], "method should be a mapping, not []"),
        (("method", "name"), ["x"], "method.name should be text"),
        (("method", "weights"), None, "method.weights should be text"),
        (("method", "backbone"), "\ud800", "method.backbone should be text"),
        (("method", "hyper_parameters"), [1], "method.hyper_parameters should be a mapping, not [1]"),
        (("method", "hyper_parameters"), {"a": nested(100)}, "method.hyper_parameters should be finite numbers"),
        (("method", "is_transductive"), "no", "method.is_transductive should be true or false, not 'no'"),
        (("method", "evil"), 1, "method has 'evil', which this version does not know"),
        (("protocol", "way"), "5", "protocol.way should be a whole number, not '5'"),
        (("protocol", "way"), True, "protocol.way should be a whole number"),
        (("protocol", "way"), 10**9, "protocol.way should be less than or equal to 65535, not 1000000000"),
        (("protocol", "shot"), 0, "protocol.shot should be greater than or equal to 1, not 0"),
        (("protocol", "query"), 1_000_001, "protocol.query should be less than or equal to 1000000"),
        (("protocol", "query"), 1.0, "protocol.query should be a whole number"),
        (("protocol", "seed"), "0", "protocol.seed should be a whole number"),
        (("protocol", "seed"), 10**60, "protocol.seed should be less than or equal to"),
        (("protocol", "sampler"), 1, "protocol.sampler should be text"),
        (("protocol", "sampler_settings"), [], "protocol.sampler_settings should be a mapping"),
        (("protocol", "sampler_settings"), {"alpha": float("nan")}, "a mapping to finite numbers and text"),
        (("protocol", "sampler_settings"), {"alpha": [2]}, "a mapping to finite numbers and text"),
        (("protocol", "sampler_settings"), {"least_way": 1}, "least_way should be a whole number from 2 to 3, not 1"),
        (("protocol", "sampler_settings"), {"least_way": 4}, "least_way should be a whole number from 2 to 3, not 4"),
        (("protocol", "sampler_settings"), {"least_way": -(10**9)}, "least_way should be a whole number from 2 to 3"),
        (("protocol", "sampler_settings"), {"least_way": "2"}, "least_way should be a whole number from 2 to 3"),
    ],
    ids=str,
)
def test_identity_of_another_kind_is_a_damaged_description(tmp_path, path, value, told):
    text = changed(*path, value=value)
    with pytest.raises(OutcomeError) as caught:
        Cell.from_json(text)
    assert told in str(caught.value)
    store = OutcomeStore(tmp_path)
    store.append(CELL, 0, np.arange(2), PREDICTIONS, 0.1, truth=PREDICTIONS)
    (tmp_path / CELL.key / "cell.json").write_text(text)
    with pytest.raises(OutcomeError, match=r"cell\.json is damaged \(.* Delete the folder"):
        store.cells()


@pytest.mark.parametrize("table", ["method", "protocol", "versions", "provenance", "anything"])
def test_a_mapping_of_too_many_entries_is_damaged_before_they_are_looked_at(table):
    content = json.loads(CELL.as_json())
    content[table] = {**content.get(table, {}), **dict.fromkeys(map(str, range(10_001)), 1)}
    with pytest.raises(OutcomeError, match=f"'{table}' should have at most 10,000 entries, not 10,0"):
        Cell.from_json(json.dumps(content))


@pytest.mark.parametrize("missing", ["name", "backbone", "weights", "adaptation"])
def test_a_method_without_one_of_its_fields_is_damaged(missing):
    content = json.loads(CELL.as_json())
    del content["method"][missing]
    with pytest.raises(OutcomeError, match=f"method lacks {missing}"):
        Cell.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "{", "3", "null", "[]", "{}", "[" * 100_000, '{"method":' * 50_000, "9" * 5_000])
def test_what_is_no_description_is_damaged(text):
    with pytest.raises(OutcomeError):
        Cell.from_json(text)


@pytest.mark.parametrize("content", [b" " * 32_000_001, b"\xff{}"])
def test_a_file_that_is_too_large_or_no_text_is_damaged(tmp_path, content):
    OutcomeStore(tmp_path).append(CELL, 0, np.arange(2), PREDICTIONS, 0.1, truth=PREDICTIONS)
    (tmp_path / CELL.key / "cell.json").write_bytes(content)
    with pytest.raises(OutcomeError, match=r"cell\.json is damaged \(it should "):
        OutcomeStore(tmp_path).cells()


def test_a_study_goes_on_in_a_cell_whose_provenance_is_of_another_kind(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append(CELL, 0, np.arange(2), PREDICTIONS, 0.1, truth=PREDICTIONS)
    (tmp_path / CELL.key / "cell.json").write_text(changed("provenance", "stopping", value=5))
    store.open_cell(CELL)
    (again,) = OutcomeStore(tmp_path).cells()
    assert again.provenance == TOLD
    assert json.loads((tmp_path / CELL.key / "cell.json").read_text())["set_aside"] == {"provenance.stopping": 5}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("provenance", "peak_bytes"), "lots"),
        (("provenance", "from nobody knows where"), float("inf")),
        (("versions", "numpy"), 5),
        (("dataset_recipe",), [1]),
        (("provenance", "python"), {"deep": nested(100)}),
    ],
    ids=str,
)
def test_what_could_not_be_read_is_still_there_after_a_study_went_on(tmp_path, path, value):
    """The run that goes on brings nothing of that name."""
    brought = replace(CELL, provenance={"commands": ["again"]}, dataset_recipe={})
    store = OutcomeStore(tmp_path)
    store.append(CELL, 0, np.arange(2), PREDICTIONS, 0.1, truth=PREDICTIONS)
    (tmp_path / CELL.key / "cell.json").write_text(changed(*path, value=value))
    for _ in range(2):
        OutcomeStore(tmp_path).open_cell(brought)
    found = json.loads((tmp_path / CELL.key / "cell.json").read_text())
    assert found["provenance"]["commands"] == ["fewshot-bench run", "again"]
    for name in path:
        found = found[name]
    assert found == value


@pytest.mark.parametrize("format_", ["2", 0, True, None, 1.5, 10**9])
def test_a_format_that_is_no_number_of_one_is_damage(format_):
    with pytest.raises(OutcomeError, match=r"format should be a whole number from 1"):
        Cell.from_json(changed("format", value=format_))


@pytest.mark.parametrize(
    ("versions", "told"),
    [
        ({"fewshot-bench": "0.1.0 and 0.9.2"}, "Install fewshot-bench 0.9.2 or later"),
        ({"fewshot-bench": "x; rm -rf"}, "Install the newest fewshot-bench or later"),
        ("x", "Install the newest fewshot-bench or later"),
    ],
    ids=str,
)
def test_a_manifest_of_a_newer_release_is_never_rewritten_and_says_which_one_to_get(tmp_path, versions, told):
    store = OutcomeStore(tmp_path)
    store.append(CELL, 0, np.arange(2), PREDICTIONS, 0.1, truth=PREDICTIONS)
    path = tmp_path / CELL.key / "cell.json"
    content = {**json.loads(path.read_text()), "format": 4, "versions": versions, "method": "unheard of"}
    path.write_text(json.dumps(content))
    before = sorted((file, file.read_bytes()) for file in tmp_path.rglob("*.*"))
    for use in (store.open_cell, OutcomeStore(tmp_path).open_cell, store.done, lambda _: store.cells()):
        with pytest.raises(OutcomeError, match=r"cell\.json was written by a newer fewshot-bench \(format 4") as caught:
            use(CELL)
        assert told in str(caught.value)
    with pytest.raises(OutcomeError, match="newer fewshot-bench"):
        OutcomeStore(tmp_path).append(CELL, 1, np.arange(2), PREDICTIONS, 0.1, truth=PREDICTIONS)
    assert sorted((file, file.read_bytes()) for file in tmp_path.rglob("*.*")) == before


def test_how_many_queries_there_can_be_is_no_list_in_memory(tmp_path):
    """A card made in Python may say anything; reading its parts takes as much memory as the parts do."""
    store = OutcomeStore(tmp_path)
    store.append(CELL, 0, np.arange(2), PREDICTIONS, 0.1, truth=PREDICTIONS)
    (part,) = parts_in(tmp_path / CELL.key)
    identity, content = replace(Identity.of(CELL), queries=range(-2 * 10**6, 7, 2)), part.location.read_bytes()
    tracemalloc.start()
    rows = part.read(content, identity, with_predictions=True)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows["correct"]) == 2
    assert peak < 5_000_000


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    (top,) if inner is None else (top, inner)
    for top, values in json.loads(CELL.as_json()).items()
    for inner in (None, *(values if isinstance(values, dict) else ()))
]


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PLACES), junk)
def test_anything_anywhere_is_an_error_of_one_line_or_a_cell_that_can_be_used(path, value):
    with suppress(OutcomeError):
        cell = Cell.from_json(changed(*path, value=value))
        assert len(cell.key) == 16
        assert Cell.from_json(cell.as_json()) == cell
        cell.as_json().encode()
        assert len(cell.protocol.queries_per_episode) <= 65_535
        assert all(rule["half_width"] > 0 for rule in cell.provenance.get("stopping", []))
        assert all(isinstance(version, str) for version in cell.versions.values())
