from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from toy_cells import CELL, EPISODES, PREDICTIONS, PROTOCOL, everything, filled, parts

from fewshot_bench._io import storage
from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.maintenance import MergedCell, compact, merge

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


def contradiction(folder):
    store = OutcomeStore(folder / "outcomes")
    store.append(CELL, 0, np.arange(4), (PREDICTIONS[0][:4] + 1) % 3, 0.1)


def damage(folder):
    (path, *_) = parts(filled(OutcomeStore(folder / "outcomes")))
    path.write_bytes(path.read_bytes()[:-1])


def newer(folder):
    filled(OutcomeStore(folder / "outcomes"))
    path = folder / "outcomes" / CELL.key / "cell.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 4}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (contradiction, "run 0, episode 0 is stored twice and differently"),
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


def test_a_method_that_was_stored_under_two_names_is_merged_under_the_first(tmp_path):
    renamed = replace(CELL, method=replace(CELL.method, name="other"))
    one, two = half(tmp_path / "one", 0), tmp_path / "two"
    OutcomeStore(two / "outcomes").append(renamed, 1, np.arange(2), PREDICTIONS[1][:2], 0.1)
    merge([one, two], tmp_path / "all")
    (cell,) = OutcomeStore(tmp_path / "all").cells()
    assert cell.method.name == CELL.method.name
    assert set(OutcomeStore(tmp_path / "all").done(CELL)) == {0, 1}


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


def undescribed(folder):
    filled(OutcomeStore(folder / "outcomes"))
    (folder / "outcomes" / CELL.key / "cell.json").unlink()


def spoiled_description(folder):
    filled(OutcomeStore(folder / "outcomes"))
    (folder / "outcomes" / CELL.key / "cell.json").write_text("{")


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [contradiction, damage, newer, undescribed, spoiled_description])
def test_one_damaged_cell_hides_no_other(tmp_path, spoil):
    one, two = half(tmp_path / "one", 0), tmp_path / "two"
    spoil(two)
    filled(OutcomeStore(two / "outcomes"), replace(CELL, protocol=replace(PROTOCOL, shot=7)))
    filled(OutcomeStore(one / "outcomes"), OTHER)
    (other,) = parts(OutcomeStore(one / "outcomes"), OTHER)[:1]
    other.write_bytes(other.read_bytes()[:-1])
    before = everything(tmp_path)
    with pytest.raises(OutcomeError, match="nothing was merged: ") as told:
        merge([one, two], tmp_path / "all")
    assert other.name in str(told.value)
    assert CELL.key in str(told.value)
    assert everything(tmp_path) == before


def reads_before(monkeypatch, count, folder, do):
    """Do something once, just before the reading of so many files of a folder; whether that many were read."""
    read, left = storage._read_once, [count]

    def counted(path, largest):
        if path.is_relative_to(folder) and path.name != "cell.json":
            left[0] -= 1
            if left[0] == -1:
                do()
        return read(path, largest)

    monkeypatch.setattr(storage, "_read_once", counted)
    return lambda: left[0] < 0


@pytest.mark.slow
@pytest.mark.parametrize("is_target", [False, True])
@pytest.mark.parametrize("adds", [False, True])
def test_a_compaction_at_any_moment_is_gone_along_with(tmp_path, monkeypatch, is_target, adds):
    whole = filled(OutcomeStore(tmp_path / "whole")).read(CELL)
    for moment in range(30):
        one, target = OutcomeStore(tmp_path / f"one {moment}"), OutcomeStore(tmp_path / f"all {moment}")
        filled(one, chunk=5)
        one.append(CELL, 0, np.arange(3), PREDICTIONS[0][:3], 9.0)
        one.record_failure(CELL, 0, np.arange(3), "void")
        for start in (0, 2):
            target.append(CELL, 1, np.arange(start, start + 2), PREDICTIONS[1][start : start + 2], 0.25)
        changed = target if is_target else one

        def change(store=changed):
            if adds:
                store.append(CELL, 1, np.arange(EPISODES), PREDICTIONS[1], 0.25)
            compact(store.folder / CELL.key)

        with monkeypatch.context() as patch:
            was_met = reads_before(patch, moment, changed.folder, change)
            merge([one.folder], target.folder)
        pd.testing.assert_frame_equal(target.read(CELL).drop(columns="seconds"), whole.drop(columns="seconds"))
        before = everything(target.folder)
        assert merge([one.folder], target.folder)[0].copied == 0
        assert everything(target.folder) == before
        if not was_met():
            break
    assert moment >= (4 if is_target else 8)
    assert not was_met(), "every moment was tried"


@pytest.mark.slow
def test_what_is_added_meanwhile_and_contradicts_is_not_copied_and_the_other_cells_are(tmp_path, monkeypatch):
    first, second = sorted((CELL, OTHER), key=lambda cell: cell.key)
    right = filled(OutcomeStore(tmp_path / "whole")).read(CELL)["correct"].tolist()[:4]
    for moment in range(30):
        one, target = tmp_path / f"one {moment}", OutcomeStore(tmp_path / f"all {moment}")
        for cell in (first, second):
            OutcomeStore(one).append(cell, 0, np.arange(4), PREDICTIONS[0][:4], 0.25)
        OutcomeStore(tmp_path / "two").append(first, 0, np.arange(4), PREDICTIONS[0][:4], 0.25)

        def contradict(store=one):
            OutcomeStore(store).append(first, 0, np.arange(5), (PREDICTIONS[0][:5] + 1) % 3, 0.25)
            compacted = [path for path in parts(OutcomeStore(store), first) if "00000-00004" in path.name]
            compacted[0].unlink()

        with monkeypatch.context() as patch:
            was_met = reads_before(patch, moment, one, contradict)
            with pytest.raises(OutcomeError, match="twice and differently") if moment < 3 else nullcontext():
                merge([one, tmp_path / "two"], target.folder)
        found = [cell.key for cell in target.cells()]
        assert found == {0: [], 1: [second.key], 2: [second.key]}.get(moment, [first.key, second.key])
        for key in found:
            assert target.read(key)["correct"].tolist() == right
        if not was_met():
            break
    assert moment == 4


def test_what_the_target_gets_meanwhile_and_contradicts_keeps_a_part_from_being_copied(tmp_path, monkeypatch):
    one, target = OutcomeStore(tmp_path / "one"), OutcomeStore(tmp_path / "all")
    one.append(CELL, 0, np.arange(8), PREDICTIONS[0][:8], 0.25)
    copy_from = MergedCell.copy_from

    def with_another_at_work(merged, source, store):
        OutcomeStore(target.folder).append(CELL, 0, np.arange(4), (PREDICTIONS[0][:4] + 1) % 3, 0.25)
        copy_from(merged, source, store)

    monkeypatch.setattr(MergedCell, "copy_from", with_another_at_work)
    with pytest.raises(OutcomeError, match=r"1 of 1 cells changed meanwhile.* twice and differently"):
        merge([one.folder], target.folder)
    assert len(target.read(CELL)) == 4


def test_nothing_is_compared_again_where_nothing_but_the_merge_changes_the_target(tmp_path, monkeypatch):
    folders = [half(tmp_path / str(run), run) for run in (0, 1)]
    compare, compared = MergedCell.compare, []
    monkeypatch.setattr(MergedCell, "compare", lambda cell, target: compared.append(cell) or compare(cell, target))
    (merged,) = merge(folders, tmp_path / "all")
    assert merged.copied == 2
    assert len(compared) == 1


def test_a_cell_that_keeps_changing_is_said_in_one_sentence(tmp_path, monkeypatch):
    one = half(tmp_path / "one", 0)
    monkeypatch.setattr("fewshot_bench.outcomes.store._WAITS", (0.0, 0.0))
    monkeypatch.setattr(
        "fewshot_bench.outcomes.maintenance.read_bytes", lambda place, _: (place.parent / "gone").read_bytes()
    )
    with pytest.raises(OutcomeError, match=r"1 of 1 cells changed meanwhile.* keep vanishing .*gone.* Merge again"):
        merge([one], tmp_path / "all")
