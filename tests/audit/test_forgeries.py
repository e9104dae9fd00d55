"""A forger knows how many episodes are run again by default, and not which; and ties are no cover for him."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from audited_results import (
    better_predictions,
    detail,
    elsewhere,
    failures,
    forge,
    nearest_ties,
    small_result,
    with_part,
)

from fewshot_bench.audit import AuditOptions, CellAudit, Finding, ReproductionOptions, audit_cells, reproduce_cell
from fewshot_bench.audit.finding import Audit, pooled_findings
from fewshot_bench.audit.ties import LEVEL, ChangedPredictions, Sample, chosen_episodes, direction, explanation

SAME = "same predictions"
KEY = "0123456789abcdef"


def stored_frame(runs, episodes):
    names = pd.MultiIndex.from_product([range(runs), range(episodes)], names=["run", "episode"])
    return names.to_frame(index=False)


def names_of(frame):
    return set(zip(frame["run"], frame["episode"], strict=True))


def test_nobody_can_foresee_the_default_seed():
    seeds = {options().seed for options in (AuditOptions, ReproductionOptions) for _ in range(20)}
    assert len(seeds) == 40
    assert 0 not in seeds


def test_a_seed_chooses_the_same_episodes_again_and_others_in_every_cell():
    frame = stored_frame(3, 300)
    chosen = chosen_episodes(frame, 100, 7, KEY)
    assert chosen.equals(chosen_episodes(frame.sample(frac=1, random_state=1).sort_index(), 100, 7, KEY))
    assert len(chosen) == 100
    assert list(chosen.index) == sorted(chosen.index)
    others = [names_of(chosen_episodes(frame, 100, 8, KEY)), names_of(chosen_episodes(frame, 100, 7, KEY[::-1]))]
    for other in others:
        assert 0 < len(other & names_of(chosen)) < 40
    assert chosen_episodes(frame, 1000, 7, KEY).equals(frame)
    assert chosen_episodes(stored_frame(1, 4), 2, 1, KEY)["episode"].tolist() == GOLDEN


GOLDEN = [1, 3]


def test_every_episode_is_chosen_as_often_as_another():
    frame, counts = stored_frame(1, 40), np.zeros(40)
    for seed in range(2000):
        counts[chosen_episodes(frame, 10, seed, KEY).index] += 1
    assert np.abs(counts - 500).max() < 5 * math.sqrt(500 * 0.75)


@pytest.mark.slow
@pytest.mark.parametrize("checked", [1, 8, 20])
def test_a_forger_passes_as_often_as_the_formula_says(checked):
    frame, forged = stored_frame(1, 100), 10
    honest = [
        chosen_episodes(frame, checked, seed, KEY)["episode"].min() >= forged for seed in range(1000)
    ]  # the first ten episodes are forged
    chance = 1 - Sample(100, checked).chance_of_finding(forged)
    assert chance == pytest.approx(math.comb(90, checked) / math.comb(100, checked))
    assert abs(np.mean(honest) - chance) < 4 * math.sqrt(chance * (1 - chance) / 1000)


@pytest.mark.parametrize(
    ("stored", "checked", "chance", "share"),
    [(9000, 100, 0.95, 0.0295), (9000, 100, 0.99, 0.0448), (9000, 300, 0.95, 0.0098), (100, 100, 0.95, 0.01)],
)
def test_the_share_that_is_found_surely_is_the_smallest(stored, checked, chance, share):
    sample = Sample(stored, checked)
    found = sample.found_with(chance)
    assert found == pytest.approx(share, abs=2e-4)
    forged = round(found * stored)
    assert sample.chance_of_finding(forged) >= chance > sample.chance_of_finding(forged - 1)


def test_an_empty_sample_finds_nothing():
    assert Sample(100, 0).chance_of_finding(100) == 0
    assert Sample(100, 0).found_with(0.5) > 1
    assert Sample(100, 10).chance_of_finding(0) == 0


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """Of a hundred episodes all but eight are forged: those that the seed 0 of a generator would choose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_BENCH_HOME", str(tmp_path_factory.mktemp("home")))
        folder = small_result(tmp_path_factory.mktemp("forged"), episodes=100, runs=1)
        foreseen = set(np.random.default_rng(0).permutation(100)[:8])
        right = [tie for tie in nearest_ties(folder) if tie.gain == 1 and tie.episode not in foreseen]
        forge(folder, list({tie.episode: tie for tie in right}.values()))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("episodes", [8, 100])
def test_who_forges_all_episodes_but_those_of_a_known_seed_is_found(hundred, episodes):
    assert failures(hundred, episodes=episodes) == [SAME]


def turned(gains, *, queries=75, differ=None, **fields):
    gained = np.array(gains)
    differs = np.abs(gained) if differ is None else np.array(differ)
    return ChangedPredictions(np.full(len(gained), queries), differs, gained, **fields)


ZEROS = [0] * 80


@pytest.mark.parametrize(
    ("found", "are_ties", "told"),
    [
        (turned([1, *ZEROS]), True, "ties"),
        (turned([1, -1] * 20 + ZEROS), True, "ties"),
        (turned([0, *ZEROS], differ=[1, *ZEROS]), True, "ties"),
        (turned([1] * 9 + ZEROS), True, "ties"),
        (turned([1] * 20 + ZEROS), False, "20 make the stored accuracy higher and 0 lower"),
        (turned([-1] * 20 + ZEROS), False, "0 make the stored accuracy higher and 20 lower"),
        (turned([1] * 25 + [-1] * 2 + ZEROS), False, "25 make the stored accuracy higher and 2 lower"),
        (turned([2] * 12 + ZEROS), False, "24 make the stored accuracy higher"),
        (turned([30, *ZEROS]), False, "30 of them in one episode, where ties explain 10% at most"),
        (turned([0, *ZEROS], differ=[30, *ZEROS]), False, "30 of them in one episode"),
        (turned([3, -3] * 20), False, "other versions or machines explain 2% at most"),
        (turned([1, -1, *ZEROS], far=1), False, "1 of them are not ties"),
        (turned([1, *ZEROS], repeats_every_bit=True), False, "by the same versions"),
        (turned([1, -1, 0, 0], queries=5), False, "2% at most"),
        (turned([1, 0, 0, 0], queries=5), True, "ties"),
    ],
)
def test_what_ties_explain(found, are_ties, told):
    is_explained, why = explanation(found)
    assert is_explained == are_ties
    assert told in why


def test_the_test_of_the_direction_is_exact_and_its_level_is_divided():
    assert 2 * 0.5**11 < LEVEL < 2 * 0.5**10
    assert direction([turned([1] * 11)])
    assert not direction([turned([1] * 10)])
    assert not direction([turned([1] * 11)], tests=2)
    assert not direction([])


@pytest.fixture
def cell(tmp_path):
    return elsewhere(small_result(tmp_path, episodes=20))


def one_each(ties, count):
    return list({(tie.run, tie.episode): tie for tie in ties}.values())[:count]


@pytest.mark.slow
@pytest.mark.parametrize("gain", [1, -1])
def test_near_ties_that_all_favour_one_side_are_found(cell, gain):
    near = [tie for tie in nearest_ties(cell) if tie.behind < 4]
    favourable = one_each([tie for tie in near if tie.gain == gain], 14)
    assert len(favourable) == 14
    forge(cell, favourable)
    assert failures(cell) == [SAME]
    assert "ties favour no method" in detail(cell, SAME)
    assert reproduced(cell).startswith("ties favour no method")


@pytest.mark.slow
def test_near_ties_that_favour_nobody_are_ties(cell):
    near = [tie for tie in nearest_ties(cell) if tie.behind < 4]
    forge(cell, [tie for gain in (1, -1) for tie in one_each([tie for tie in near if tie.gain == gain], 6)])
    assert failures(cell) == []
    assert detail(cell, SAME).endswith("ties, by other versions, on another kind of machine or in other batches")
    assert reproduced(cell).startswith("ties, by other versions")


def reproduced(cell):
    return reproduce_cell(cell, ReproductionOptions(device="cpu")).explanation


@pytest.mark.slow
@pytest.mark.parametrize("gain", [1, 0, -1])
def test_one_prediction_that_is_no_near_tie_is_found_whomever_it_favours(cell, gain):
    forge(cell, [tie for tie in reversed(nearest_ties(cell)) if tie.gain == gain][:1])
    assert "1 of them are not ties" in detail(cell, SAME)


@pytest.mark.slow
def test_one_episode_made_all_correct_is_found_elsewhere_too(cell):
    with_part(cell, 0, better_predictions)
    assert failures(cell) == [SAME]


def audited(method, gains, key=KEY, verdict="pass"):
    return CellAudit(key, "task", method, (Finding(SAME, verdict, ""),), Sample(100, 24), turned(gains))


def test_small_amounts_that_favour_one_method_add_up_over_its_cells():
    cells = [audited("mine", [1, 1, 1, 0]) for _ in range(6)]
    (found,) = pooled_findings(cells)
    assert found.verdict == "fail"
    assert found.detail.startswith("the 6 cells of mine: 18 predictions differ")
    assert Audit(0, tuple(cells), (found,)).outcome == "failed"


def test_and_over_all_cells_where_every_method_has_one():
    found = pooled_findings([audited(f"method {number}", [1, 1, 1, 0]) for number in range(6)])
    assert [(one.verdict, one.detail[:9]) for one in found] == [("fail", "all cells")]


def test_a_baseline_that_is_lowered_does_not_hide_a_method_that_is_raised():
    cells = [audited("mine", [1, 1, 0, 1]) for _ in range(5)] + [audited("theirs", [-1, -1, 0, -1]) for _ in range(5)]
    found = {one.detail.split(":")[0]: one.verdict for one in pooled_findings(cells)}
    assert found == {"the 5 cells of mine": "fail", "the 5 cells of theirs": "fail", "all cells": "pass"}


def test_honest_noise_passes_together():
    generator = np.random.default_rng(0)
    cells = [audited(f"method {number % 3}", generator.choice([-1, 0, 0, 1], size=50)) for number in range(12)]
    assert {one.verdict for one in pooled_findings(cells)} == {"pass"}


def test_cells_of_the_same_machine_are_not_pooled():
    same = CellAudit(KEY, "task", "mine", (), Sample(9, 9), turned([1] * 9, repeats_every_bit=True))
    assert pooled_findings([same, same]) == ()


@pytest.mark.slow
def test_two_cells_of_one_method_are_pooled_in_a_real_audit(tmp_path):
    cells = [elsewhere(small_result(tmp_path, shots=(shot,))) for shot in (1, 5)]
    for cell in cells:
        near = [tie for tie in nearest_ties(cell) if tie.behind < 4 and tie.gain == 1]
        forge(cell, one_each(near, 8))
    done = audit_cells(cells, AuditOptions(device="cpu", seed=5))
    assert [one.failures for one in done.cells] == [[], []]
    assert done.outcome == "failed"
    assert done.failures[0].startswith("the 2 cells of conv4_32/centroid: 16 predictions differ")
