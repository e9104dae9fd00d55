"""Outcomes that the first releases stored stay readable, go on, and can be put into the present layout."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from toy_cells import CELL, EPISODES, PREDICTIONS, filled, old_layout, parts

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.compaction import compact


@pytest.fixture
def old(tmp_path):
    old_layout(tmp_path / "old")
    return OutcomeStore(tmp_path / "old")


@pytest.fixture
def frame(tmp_path):
    return filled(OutcomeStore(tmp_path / "new")).read(CELL)


def test_it_reads_like_the_present_one(old, frame):
    assert old.cells() == [CELL]
    pd.testing.assert_frame_equal(old.read(CELL), frame)
    pd.testing.assert_frame_equal(old.read(CELL, with_predictions=False), frame.drop(columns="predictions"))
    assert {run: numbers.tolist() for run, numbers in old.done(CELL).items()} == {
        run: [*range(EPISODES)] for run in (0, 1)
    }


def test_a_cell_goes_on_in_the_present_layout_and_says_so(old):
    old.append(CELL, 2, np.arange(4), PREDICTIONS[0][:4], 0.1)
    assert old.read(CELL)["run"].value_counts().to_dict() == {0: 12, 1: 12, 2: 4}
    assert json.loads((old.folder / CELL.key / "cell.json").read_text())["format"] == 2


def test_compaction_rewrites_it(old, frame):
    assert compact(old.folder / CELL.key).parts == 6
    assert [path.name.partition("-")[0] for path in parts(old)] == ["together"]
    assert sorted(path.name for path in (old.folder / CELL.key).iterdir()) == sorted(["cell.json", parts(old)[0].name])
    pd.testing.assert_frame_equal(old.read(CELL), frame)


@pytest.mark.parametrize("length", [0, 3, 1000, -1])
def test_a_truncated_part_is_named(old, length):
    part = parts(old)[2]
    part.write_bytes(part.read_bytes()[:length])
    for use in (old.done, old.read):
        with pytest.raises(
            OutcomeError, match=rf"{part.name} are damaged .*Delete that file and run again: only its 2"
        ):
            use(CELL)


def test_a_part_under_the_name_of_other_episodes_is_refused(old):
    part = parts(old)[2]
    part.rename(part.with_name("run-000-episodes-00020-00022.parquet"))
    with pytest.raises(OutcomeError, match="not those that its name says"):
        old.read(CELL)
