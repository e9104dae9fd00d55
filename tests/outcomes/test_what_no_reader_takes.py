"""What a reader of stored files refuses is refused before it is written, and the rest comes back as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from toy_cells import CELL, EPISODES, PREDICTIONS, everything, filled

from fewshot_bench.errors import OutcomeError, ShapeError
from fewshot_bench.limits import MOST_CELLS, MOST_CLASSES
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.outcomes.study_log import PlannedCell, StudyRecord, recorded_studies

pytestmark = pytest.mark.slow

PLANNED = PlannedCell("toy", "toy 3-way 1-shot", "conv/centroid", 2, 12)


def method(**fields: Any) -> Cell:
    return replace(CELL, method=replace(CELL.method, **fields))


def protocol(**fields: Any) -> Cell:
    return replace(CELL, protocol=replace(CELL.protocol, **fields))


def nested(levels: int) -> list[Any]:
    return [nested(levels - 1)] if levels else []


REFUSED: dict[str, tuple[Cell, str]] = {
    "half a letter in a name": (method(name="conv\ud800"), "method.name should be text"),
    "half a letter in a backbone": (method(backbone="\udc80"), "method.backbone should be text"),
    "no text": (method(weights=None), "method.weights should be text"),
    "a number for yes": (method(is_transductive=1), "is_transductive should be true or false"),
    "no way": (protocol(way=0), "protocol.way should be greater than or equal to 1"),
    "a way of more than two bytes": (protocol(way=65_536), "protocol.way should be less than or equal to 65535"),
    "a fraction": (protocol(way=3.0), "protocol.way should be a whole number"),
    "no shot": (protocol(shot=0), "protocol.shot should be greater"),
    "a negative shot": (protocol(shot=-1), "protocol.shot should be greater"),
    "no query": (protocol(query=0), "protocol.query should be 1 or more"),
    "too many queries": (protocol(query=1_000_001), "protocol.query should be less"),
    "too many images of an episode": (protocol(way=1000, shot=4000), "at most 2,000,000 images of an episode"),
    "a seed of 60 digits": (protocol(seed=10**60), "protocol.seed should be less"),
    "a negative seed of 60 digits": (protocol(seed=-(10**60)), "protocol.seed should be greater"),
    "a setting that is no number": (protocol(sampler="varied", sampler_settings={"a": [1]}), "sampler_settings should"),
    "too small a least way": (protocol(sampler="varied", sampler_settings={"least_way": 1}), "least_way should be"),
    "a class of no image": (replace(CELL, class_sizes=(4, 0, 5)), "class_sizes.1 should be greater"),
    "a class of too many images": (replace(CELL, class_sizes=(4, 10**7)), "class_sizes.1 should be less"),
    "too many classes": (
        replace(CELL, class_sizes=(5,) * (MOST_CLASSES + 1)),
        "class_sizes should have at",
    ),
    "a class name of half a letter": (
        replace(CELL, class_names=("a", "\ud800")),
        "class_names.1 should be text",
    ),
    "a version that is no text": (replace(CELL, versions={"torch": 2}), "versions.torch should be text"),
    "a recipe that is too deep": (replace(CELL, dataset_recipe={"a": nested(100)}), "dataset_recipe.a should be"),
    "what is not finite": (replace(CELL, provenance={"seconds": float("inf")}), "provenance.seconds should be"),
    "a command that is no text": (
        replace(CELL, provenance={"commands": ["a\udcff"]}),
        "provenance.commands.0 should",
    ),
    "eight megabytes": (replace(CELL, provenance={"a": "x" * 8_000_001}), "it should have at most 8,000,000 bytes"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_description_that_no_reader_takes_is_not_written(tmp_path, what):
    cell, told = REFUSED[what]
    another = replace(CELL, method=MethodCard("another", "conv4", "00ff", "centroid"))
    store = filled(OutcomeStore(tmp_path / "outcomes"), another)
    before = everything(tmp_path)
    for use in (store.open_cell, lambda one: store.record_failure(one, 0, np.arange(3), "why")):
        with pytest.raises(OutcomeError) as caught:
            use(cell)
        assert told in str(caught.value)
        assert "cell.json was not written" in str(caught.value)
    assert everything(tmp_path) == before
    assert len(OutcomeStore(store.folder).cells()) == 1


TAKEN = {
    "an empty name": method(name=""),
    "a name with control characters": method(name="a\tb\nc\x1b[31m\x00"),
    "a long name": method(name="a" * 100_000),
    "letters of everywhere": method(name="ünï 漢字 \U0001f600", backbone="e\u0301"),
    "hyper-parameters of all kinds": method(hyper_parameters={"": None, "a": [1, 1.5, "x", {"b": True}], "c": 10**300}),
    "a seed of 38 digits": protocol(seed=1 << 128),
    "a negative seed": protocol(seed=-5),
    "an empty dataset": protocol(dataset=""),
    "many classes": replace(CELL, class_sizes=(5,) * 65_536, class_names=tuple(map(str, range(65_536)))),
    "a class of a long name": replace(CELL, class_sizes=(5,), class_names=("a" * 5000,)),
}


@pytest.mark.parametrize("what", TAKEN)
def test_whatever_else_is_written_is_read_again(tmp_path, what):
    store = filled(OutcomeStore(tmp_path), TAKEN[what])
    (cell,) = OutcomeStore(tmp_path).cells()
    assert cell == TAKEN[what]
    assert (cell.class_sizes, cell.class_names) == (TAKEN[what].class_sizes, TAKEN[what].class_names)
    assert len(store.read(cell)) == 2 * EPISODES


@pytest.mark.parametrize("run", [-1, 32_768, 100_000])
def test_a_run_that_a_part_cannot_hold_is_refused(tmp_path, run):
    store = OutcomeStore(tmp_path)
    frame = filled(OutcomeStore(tmp_path / "other")).read(CELL).assign(run=run)
    with pytest.raises(ShapeError, match=r"run should be 0 to 32,767"):
        store.append_frame(CELL, frame)


@pytest.mark.parametrize(("column", "value"), [("episode", 999_999_999), ("seconds", -1.0), ("seconds", np.inf)])
def test_a_row_that_no_reader_takes_is_refused(tmp_path, column, value):
    store = OutcomeStore(tmp_path)
    frame = filled(OutcomeStore(tmp_path / "other")).read(CELL)
    frame.loc[3, column] = value
    with pytest.raises(ShapeError, match=f"{column} should be"):
        store.append_frame(CELL, frame)
    assert not (tmp_path / CELL.key).exists()


@pytest.mark.parametrize("episode", [999_999_998, 123_456_789])
def test_the_largest_number_of_an_episode_comes_back(tmp_path, episode):
    store = OutcomeStore(tmp_path)
    store.append(CELL, 32_767, np.array([episode]), PREDICTIONS[0][:1], 0.25)
    again = OutcomeStore(tmp_path)
    assert again.read(CELL)[["run", "episode"]].to_numpy().tolist() == [[32_767, episode]]
    assert {run: found.tolist() for run, found in again.done(CELL).items()} == {32_767: [episode]}
    store.record_failure(CELL, 32_767, np.array([episode - 1]), "why")
    assert [failure.episodes.tolist() for failure in again.failures(CELL)] == [[episode - 1]]


@pytest.mark.parametrize(("run", "episode"), [(100_000, 0), (0, 999_999_999), (0, 10**10)])
def test_a_failure_whose_file_nobody_would_find_is_refused(tmp_path, run, episode):
    store = filled(OutcomeStore(tmp_path))
    with pytest.raises(OutcomeError, match="cannot be recorded"):
        store.record_failure(CELL, run, np.array([episode]), "why")


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        (replace(PLANNED, runs=0), r"cells\.1\.runs should be"),
        (replace(PLANNED, episodes=10**12), r"cells\.1\.episodes should be"),
        (replace(PLANNED, method="\ud800"), r"cells\.1\.method should be text"),
    ],
)
def test_the_record_of_a_study_that_no_reader_takes_is_not_written(tmp_path, cell, told):
    with pytest.raises(OutcomeError, match=told):
        StudyRecord(tmp_path, (PLANNED, cell)).write()
    with pytest.raises(OutcomeError, match="cells should have at most 10000 items"):
        StudyRecord(tmp_path, (PLANNED,) * (MOST_CELLS + 1)).write()
    assert everything(tmp_path) == {}


@pytest.mark.parametrize("command", ["a" * 200_000, "fewshot-bench run \udcff\x1b[31m", ""])
def test_what_a_process_says_of_itself_can_be_read_whatever_was_typed(tmp_path, command):
    with StudyRecord(tmp_path, (PLANNED,)).at_work(command):
        ((study,), problems) = recorded_studies(tmp_path)
        assert problems == []
        assert [process.ended for process in study.processes] == [""]
        assert len(study.processes[0].command) <= 10_000


def test_a_description_grows_no_larger_than_a_reader_takes(tmp_path):
    """A study that goes on adds its command; what would make the file too large is not added."""
    for letter in "abcd":
        one = replace(CELL, provenance={"commands": [letter * 3_000_000]})
        OutcomeStore(tmp_path).open_cell(one)
    (folder,) = tmp_path.iterdir()
    assert len(json.loads((folder / "cell.json").read_text())["provenance"]["commands"]) == 2
    filled(OutcomeStore(tmp_path))
    assert len(OutcomeStore(tmp_path).cells()) == 1


def test_a_card_of_more_classes_is_another_method_of_the_same_store(tmp_path):
    store = filled(OutcomeStore(tmp_path))
    wide = Cell(MethodCard("wide", "b", "w", "a"), ProtocolCard("toy", "ab", "novel", 300, 1, 2, 0, 1))
    predictions = np.random.default_rng(0).integers(0, 300, (9, 600))
    for kind in (np.uint16, np.dtype(">u2")):
        store.append(wide, 0, np.arange(9), predictions.astype(kind), 0.5)
    assert (OutcomeStore(tmp_path).outcomes(wide).predictions == predictions).all()
    small = np.zeros((2, 600), np.uint8)  # names the first 256 alone
    store.append(wide, 1, np.arange(2), small, 0.5)
    assert len(OutcomeStore(tmp_path).cells()) == 2
    with pytest.raises(ShapeError, match="names class 300 of 300-way"):
        store.append(wide, 2, np.arange(9), (predictions + 1).clip(300).astype(np.uint16), 0.5)
