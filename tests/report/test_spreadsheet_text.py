from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stored_cells import cell, fill

from fewshot_bench._io.text import guarded, unguarded
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import update_leaderboard

FORMULAS = ["=cmd()", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_gets_an_apostrophe_and_loses_it_again(formula):
    assert guarded(formula) == f"'{formula}"
    assert unguarded(guarded(formula)) == formula


@pytest.mark.parametrize("text", ["conv/ce", "a=b", "", "'quoted'", "<b>"])
def test_other_text_stays_as_it_is(text):
    assert guarded(text) == text


@given(st.text(alphabet="'=+-@\t ab", max_size=6))
@example("'=a")
@example("''")
def test_every_name_comes_back(text):
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t"))


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("name", ["=cmd()", "-1+1", "'=quoted", "@x"])
def test_a_leaderboard_holds_no_formula_and_negative_numbers_keep_their_minus(tmp_path, name):
    store, path = OutcomeStore(tmp_path / "outcomes"), tmp_path / "leaderboard.csv"
    fill(store, cell(name), np.array([[30, 45, 50]]))
    fill(store, cell("worse"), np.array([[28, 44, 47]]))
    update_leaderboard(store, path, name, with_published=False)
    base, worse = rows_of(path)
    assert base["method"] == base["baseline"] == worse["baseline"] == f"'{name}"
    assert worse["difference"] == "-2.6667"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["=cmd()", "'=quoted", "plain"])
def test_the_baseline_of_an_older_leaderboard_stays_in_force_whatever_its_name(tmp_path, name):
    store, path = OutcomeStore(tmp_path / "outcomes"), tmp_path / "leaderboard.csv"
    fill(store, cell(name), np.array([[30, 45, 50]]))
    fill(store, cell("other"), np.array([[28, 44, 47]]))
    named = update_leaderboard(store, path, name, with_published=False)
    before = path.read_bytes()
    again = update_leaderboard(store, path, with_published=False)
    assert named["baseline"].tolist() == again["baseline"].tolist() == [name, name]
    assert path.read_bytes() == before
