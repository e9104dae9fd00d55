from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toy_cells import CELL, EPISODES, PREDICTIONS, PROTOCOL, everything, filled, old_layout, parts

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.compaction import compact
from fewshot_bench.outcomes.merging import merge

OTHER = replace(CELL, protocol=replace(PROTOCOL, shot=5))


def half(folder, run, *, seconds=0.25, **fields):
    store = OutcomeStore(folder / "outcomes")
    store.append(replace(CELL, **fields), run, np.arange(EPISODES), PREDICTIONS[run], seconds)
    return folder


def test_the_union_of_several_machines_is_what_one_would_have_stored(tmp_path):
    one = half(tmp_path / "one", 0, provenance={"commands": ["first"]})
    two = filled(
        OutcomeStore(half(tmp_path / "two", 1, provenance={"commands": ["second"]}) / "outcomes"), OTHER
    ).folder
    before = everything(tmp_path)
    target = OutcomeStore(tmp_path / "all" / "outcomes")
    merged = merge([one, two], target.folder)
    assert {found.cell.key: (found.copied, found.known) for found in merged} == {CELL.key: (2, 0), OTHER.key: (2, 0)}
    pd.testing.assert_frame_equal(target.read(CELL), filled(OutcomeStore(tmp_path / "whole")).read(CELL))
    stored = next(cell for cell in target.cells() if cell.key == CELL.key)
    assert stored.provenance["commands"] == ["first", "second"]
    assert before.items() <= everything(tmp_path).items(), "the sources are as they were"


def test_merging_again_copies_nothing_not_even_after_a_compaction(tmp_path):
    one, target = half(tmp_path / "one", 0), tmp_path / "all"
    half(tmp_path / "two", 0, seconds=9.0)
    merge([one], target)
    for _ in range(2):
        before = everything(target)
        assert [(found.copied, found.known) for found in merge([one, tmp_path / "two"], target)] == [(0, 2)]
        assert everything(target) == before
        compact(target / CELL.key)


def test_the_old_layout_is_merged_in_the_present_one(tmp_path):
    old_layout(tmp_path / "old" / "outcomes")
    merge([tmp_path / "old"], tmp_path / "new")
    assert all(path.parent.name.startswith("run=") for path in parts(OutcomeStore(tmp_path / "new")))
    whole = filled(OutcomeStore(tmp_path / "whole")).read(CELL)
    pd.testing.assert_frame_equal(OutcomeStore(tmp_path / "new").read(CELL), whole)


def contradiction(folder):
    store = OutcomeStore(folder / "outcomes")
    store.append(CELL, 0, np.arange(4), (PREDICTIONS[0][:4] + 1) % 3, 0.1)


def another_name(folder):
    filled(OutcomeStore(folder / "outcomes"), replace(CELL, method=replace(CELL.method, name="other")))


def damage(folder):
    (path, *_) = parts(filled(OutcomeStore(folder / "outcomes")))
    path.write_bytes(path.read_bytes()[:-1])


def newer(folder):
    filled(OutcomeStore(folder / "outcomes"))
    path = folder / "outcomes" / CELL.key / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (contradiction, "run 0, episode 0 is stored twice and differently"),
        (another_name, "under the name"),
        (damage, "are damaged"),
        (newer, "newer fewshot-bench"),
    ],
)
@pytest.mark.parametrize("is_target", [False, True])
def test_a_conflict_is_named_and_nothing_is_half_merged(tmp_path, spoil, told, is_target):
    one = half(tmp_path / "one", 0)
    filled(OutcomeStore(one / "outcomes"), OTHER)
    spoil(tmp_path / "two")
    sources = [one] if is_target else [one, tmp_path / "two"]
    target = (tmp_path / "two" if is_target else tmp_path / "all") / "outcomes"
    before = everything(tmp_path)
    with pytest.raises(OutcomeError, match=told):
        merge(sources, target)
    assert everything(tmp_path) == before


def test_failures_are_merged_unless_another_machine_has_the_outcomes(tmp_path):
    one, two = OutcomeStore(tmp_path / "one"), OutcomeStore(tmp_path / "two")
    for store in (one, two):
        store.append(CELL, 0, np.arange(2), PREDICTIONS[0][:2], 0.1)
    one.record_failure(CELL, 0, np.arange(2, 6), "the loss is NaN")
    two.append(CELL, 0, np.arange(2, 4), PREDICTIONS[0][2:4], 0.1)
    merge([one.folder, two.folder], tmp_path / "all")
    (failure,) = OutcomeStore(tmp_path / "all").failures(CELL)
    assert failure.episodes.tolist() == [4, 5]


def test_nothing_to_merge_is_said(tmp_path):
    with pytest.raises(OutcomeError, match=r"no outcomes in .*nowhere"):
        merge([tmp_path / "nowhere"], tmp_path / "all")
    one = half(tmp_path / "one", 0)
    with pytest.raises(OutcomeError, match="cannot be merged into itself"):
        merge([one], one / "outcomes")
