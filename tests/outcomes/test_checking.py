from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from toy_cells import CELL, PREDICTIONS, PROTOCOL, everything, filled, parts

from fewshot_bench.errors import OutcomeError
from fewshot_bench.limits import LARGEST_EPISODE
from fewshot_bench.outcomes import OutcomeStore, episode_frame
from fewshot_bench.outcomes.checking import check_cell, check_store
from fewshot_bench.outcomes.part import Identity, new_part


def test_what_is_whole_passes_and_is_only_read(tmp_path):
    filled(filled(OutcomeStore(tmp_path), chunk=5), replace(CELL, protocol=replace(PROTOCOL, shot=5)))
    before = everything(tmp_path)
    found = check_store(tmp_path)
    assert [(one.damage, one.notes, one.episodes) for one in found] == [([], [], {0: 12, 1: 12})] * 2
    assert sorted(one.parts for one in found) == [2, 6]
    assert everything(tmp_path) == before


def test_every_kind_of_damage_is_one_sentence_of_its_own(tmp_path):
    store = filled(OutcomeStore(tmp_path), chunk=4)
    flipped, shortened, renamed, *_ = parts(store)
    content = bytearray(flipped.read_bytes())
    content[50] ^= 4
    flipped.write_bytes(content)
    shortened.write_bytes(shortened.read_bytes()[:-1])
    renamed.rename(renamed.with_name("a copy.parquet"))
    store.append(CELL, 1, np.arange(1), (PREDICTIONS[1][:1] + 1) % 3, 0.1)
    found = check_cell(tmp_path / CELL.key)
    assert [sum(name in told for told in found.damage) for name in (flipped.name, shortened.name, "a copy")] == [
        1,
        1,
        1,
    ]
    assert sum("run 1, episode 0 is stored twice and differently" in told for told in found.damage) == 1
    assert len(found.damage) == 4


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cell.json is missing"), ("{", "is damaged"), ('{"format": 99}', "newer fewshot-bench")],
)
def test_a_description_that_is_not_as_it_should_be_is_damage(tmp_path, content, told):
    filled(OutcomeStore(tmp_path))
    path = tmp_path / CELL.key / "cell.json"
    path.unlink() if content is None else path.write_text(content)
    (sentence,) = check_cell(tmp_path / CELL.key).damage
    assert told in sentence


def test_what_is_missing_failed_or_left_over_is_told_and_no_damage(tmp_path):
    store = filled(OutcomeStore(tmp_path), chunk=5)
    folder = tmp_path / CELL.key
    parts(store)[1].unlink()
    store.record_failure(CELL, 0, np.arange(5, 7), "the loss is NaN")
    content = json.loads((folder / "cell.json").read_text())
    (folder / "cell.json").write_text(json.dumps({**content, "versions": {"torch": 5}}))
    (folder / "leases").mkdir()
    (folder / "leases" / "run-000-episodes-00000-00512.0.lease").touch()
    found = check_cell(folder)
    assert found.damage == []
    assert [sentence[:40] for sentence in found.notes] == [
        "ignored, since it is not valid: versions",
        "run 0 lacks 5 of 12 episodes, the first ",
        "2 episodes of run 0, from 5, failed: the",
    ]


def test_a_folder_whose_names_claim_too_much_is_damage_and_the_others_are_checked(tmp_path):
    store = filled(filled(OutcomeStore(tmp_path)), replace(CELL, protocol=replace(PROTOCOL, shot=5)))
    for first in range(0, 50_000_000, 10_000_000):
        name = f"episodes-{first:05d}-{first + 10_000_000:05d}-{first:016x}.parquet"
        parts(store)[0].with_name(name).touch()
    found = {one.key: one.damage for one in check_store(tmp_path)}
    (sentence,) = found.pop(CELL.key)
    assert "the names of its parts claim" in sentence
    assert list(found.values()) == [[]]


@pytest.mark.parametrize("sampler", ["standard", "disjoint"])
@pytest.mark.parametrize("gain", [1, -1])
def test_counts_that_the_predictions_do_not_give_are_damage(tmp_path, sampler, gain):
    """Whoever reads accuracies alone takes what is stored for them."""
    cell = replace(CELL, protocol=replace(PROTOCOL, sampler=sampler))
    frame = episode_frame(0, np.arange(3), np.array([[0, 0, 1, 2, 1, 2]] * 3, dtype=np.uint8), 3, 0.1)
    frame.loc[1, "correct"] += gain
    frame["accuracy"] = frame["correct"] / 6
    filled(OutcomeStore(tmp_path), cell)
    for part in parts(OutcomeStore(tmp_path), cell):
        part.unlink()
    name, content = new_part(frame, Identity.of(cell), 0)
    (tmp_path / cell.key / name).write_bytes(content)
    told = f"1 episodes, first run 0, episode 1: 4 of 6 predictions are correct, and {4 + gain} is stored"
    assert check_cell(tmp_path / cell.key).damage == [f"{told}. Do not believe this cell."]


@pytest.mark.parametrize(
    ("numbers", "gap"),
    [
        ([0, 1, 2], ""),
        ([0, 2], "1 of 3 episodes, the first of them 1"),
        ([1, 2], "1 of 3 episodes, the first of them 0"),
        ([0, LARGEST_EPISODE], f"{LARGEST_EPISODE - 1:,} of {LARGEST_EPISODE + 1:,} episodes, the first of them 1"),
    ],
)
def test_a_gap_costs_no_memory_however_wide_it_is(tmp_path, numbers, gap):
    store = OutcomeStore(tmp_path)
    for number in numbers:
        store.append(CELL, 0, np.array([number]), PREDICTIONS[0][:1], 0.1)
    tracemalloc.start()
    try:
        notes = check_cell(tmp_path / CELL.key).notes
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert notes == ([f"run 0 lacks {gap}. Run that study again."] if gap else [])


def test_an_empty_folder_is_no_store(tmp_path):
    with pytest.raises(OutcomeError, match="no outcomes in"):
        check_store(tmp_path)
