"""The simulation of verdicts runs, and counts what it says."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from simulations import script


@pytest.fixture(scope="module")
def verdicts() -> ModuleType:
    return script("verdicts")


def _tests(verdicts, differences, p_split, p_beyond, is_outside=(True, True, True)):
    given = (np.array(values, dtype=float) for values in (differences, p_split, p_beyond, p_beyond))
    return verdicts.Tests(*given, np.array(is_outside), "classes and images")


def test_a_run_prints_a_row_of_every_family(verdicts, capsys):
    verdicts.main(
        ["--only", "luck", "--only", "fixed-0.4", "--replicates", "2", "--episodes", "60", "--processes", "1"]
    )
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| own luck", "| 12 fixed"))]
    assert len(rows) == len(verdicts.FAMILIES) + 3
    assert len(rows[0].split(" | ")) == len(verdicts.FALSE_COLUMNS)
    assert len(rows[-1].split(" | ")) == len(verdicts.FOUND_COLUMNS)


def test_false_and_found_verdicts_are_counted_by_the_truth(verdicts):
    tests = _tests(verdicts, [0.1, 0.1, -0.1, 0.1], [0.001] * 4, [0.001, 0.001, 0.001, 0.9], [True] * 4)
    truth = np.array([0, 1, 1, 1])  # equal and called better; better; better and called worse; on this split
    assert verdicts._counted(verdicts.shipped, tests, truth) == (2, 0, 1, 1, 3)
    assert verdicts._counted(verdicts.shipped, tests, np.zeros(4, dtype=int)) == (3, 1, 0, 0, 0)


def test_the_rule_before_asked_an_interval_that_nothing_corrects(verdicts):
    tests = _tests(verdicts, [0.1] * 3, [1e-9] * 3, [0.03] * 3)
    equal = np.zeros(3, dtype=int)
    assert verdicts._counted(verdicts.before, tests, equal)[0] == 3
    assert verdicts._counted(verdicts.shipped, tests, equal)[0] == 0
    assert verdicts._counted(verdicts.bonferroni, tests, equal)[0] == 0
    inside = replace(tests, is_outside=np.zeros(3, dtype=bool))
    assert verdicts._counted(verdicts.before, inside, equal)[:2] == (0, 3)
    unsure = replace(tests, p_split=np.full(3, 0.03))
    assert verdicts._counted(verdicts.before, unsure, equal)[:2] == (0, 0)


def test_a_family_against_a_baseline_has_fewer_tests_to_correct(verdicts, monkeypatch):
    monkeypatch.setattr(verdicts, "FAMILIES", ((3, False), (3, True)))
    sizes = []

    def spied(tests):
        sizes.append(len(tests.p_split))
        return tests.p_split, tests.p_beyond

    monkeypatch.setattr(verdicts, "RULES", {"spied": spied})
    verdicts.replicate(verdicts.Population("", "noise", (0.5, 0.5, 0.5), images=30), 40, 0)
    assert sizes == [3, 2]


@pytest.mark.slow
@pytest.mark.parametrize("own", ["features", "noise", "gains", "luck"])
def test_equal_methods_have_the_same_mean_over_replicates(verdicts, own):
    population = verdicts.Population("", own, (0.3,) * 3, classes=8, images=40)
    means = np.array([verdicts.outcomes(population, 60, number)[0].mean(axis=1) for number in range(120)])
    for other in (1, 2):
        difference = means[:, 0] - means[:, other]
        assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))
        assert difference.std() > 0


def test_less_noise_is_truly_better_and_found_on_this_split_at_least(verdicts):
    population = verdicts.Population("", "noise", (1.5, 0.0), images=60)
    counts = verdicts.replicate(population, 300, 0)
    assert counts.difference > 0.05
    assert counts.better.tolist() == [1]
    assert (counts.found + counts.found_split == 1).all()
    assert not counts.is_false.any()


def test_fixed_classes_had_no_interval_before_and_have_one_over_images(verdicts):
    population = verdicts.Population("", "noise", (0.5, 0.5), 5, is_fixed=True, images=60)
    tests = verdicts.tests_of(*verdicts.outcomes(population, 100, 0))
    assert tests.covers == "images of these classes"
    assert tests.is_outside.all()
    assert np.isfinite(tests.p_beyond).all()
