"""Published intervals that cannot be right are pointed out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fewshot_bench.report.published import PublishedResult, interval_flag, published_results, published_rows

USUAL = PublishedResult(
    "CE", "net", "cifar-fs", "novel", 5, 1, 15, 62.0, 0.36, 3000, 0.005, "Somebody 2024", "Somebody 2024, Table 1"
)


def test_the_usual_interval_is_not_flagged_and_twice_as_much_is():
    assert interval_flag(USUAL) == ""
    assert interval_flag(replace(USUAL, half_width=0.80)) == (
        "±0.80 over 3,000 episodes implies a standard deviation of 22.3 points; 5.1 to 15.8 is plausible"
    )


def test_a_spread_below_that_of_independent_queries_is_flagged():
    assert "implies a standard deviation of 2.8 points" in interval_flag(replace(USUAL, half_width=0.10))


@pytest.mark.parametrize("missing", ["half_width", "episodes", "way", "queries"])
def test_nothing_is_said_where_the_paper_says_too_little(missing):
    assert interval_flag(replace(USUAL, **{"half_width": 0.80, missing: None})) == ""


@pytest.mark.parametrize("episodes", [None, 3000])
def test_an_interval_of_no_width_is_flagged_whatever_the_number_of_episodes(episodes):
    odd = replace(USUAL, half_width=0.0, episodes=episodes, rounding=0.5)
    assert interval_flag(odd) == "±0 is not an interval over episodes; the row is not tested"


def test_digits_that_were_not_printed_may_explain_it():
    coarse = replace(USUAL, half_width=0.6, rounding=0.05)
    assert interval_flag(coarse) == ""
    assert interval_flag(replace(coarse, rounding=0.005)) != ""


def test_the_intervals_of_the_papers_own_rows_are_too_wide_for_3000_tasks():
    own = [row for row in published_results() if row.half_width is not None and row.episodes is not None]
    assert len(own) == 16
    assert sum(interval_flag(row) != "" for row in own) == 16
    (schane,) = [row for row in published_rows("cifar-fs", "novel", 5, 1) if row.half_width == 0.70 and row.episodes]
    assert schane.method == "CE + SCHaNe"
    assert "standard deviation of 19.6 points" in interval_flag(schane)
