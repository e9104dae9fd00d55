"""Plans from a pilot and from given spreads."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from rich.console import Console
from statsmodels.stats.power import TTestIndPower, TTestPower
from stored_cells import study

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.report import compare_tasks
from fewshot_bench.report.power import given_spread, plan, stored_spreads
from fewshot_bench.report.power_terminal import plan_record, print_plan


def test_given_spreads_are_planned_with_as_statsmodels_does():
    one = plan(given_spread(10, 0.9), [0.5])
    sd_difference = 10 * np.sqrt(2 - 2 * 0.9)
    paired = TTestPower().solve_power(effect_size=0.5 / sd_difference, alpha=0.05, power=0.8)
    unpaired = TTestIndPower().solve_power(effect_size=0.5 / 10, alpha=0.05, power=0.8)
    assert (one.needs[0].paired, one.needs[0].unpaired) == (np.ceil(paired), np.ceil(unpaired))
    assert one.detectable is None


def test_a_pilot_says_what_its_own_episodes_can_find(tmp_path):
    store = study(tmp_path)
    spreads = stored_spreads(store, "schane", "conv/ce/centroid")
    assert [spread.name for spread in spreads] == ["cifar-fs 5-way 1-shot", "cifar-fs 5-way 5-shot"]
    test = compare_tasks(store, ["schane", "conv/ce/centroid"])[0].comparisons[0].test
    assert spreads[0].sd_difference == pytest.approx(100 * test.sd_difference)
    assert spreads[0].difference == pytest.approx(100 * test.mean_difference)
    one = plan(spreads[0])
    assert one.episodes == test.n == 120
    found = one.detectable[0]
    (needed,) = plan(spreads[0], [found]).needs
    assert abs(needed.paired - 120) <= 1
    assert any(need.difference == pytest.approx(100 * test.mean_difference) for need in one.needs)


def test_more_episodes_find_less():
    small, large = (plan(given_spread(10, 0.9), episodes=count).detectable for count in (600, 6000))
    assert small[0] / large[0] == pytest.approx(np.sqrt(10), rel=0.01)
    assert small[1] > small[0]


@pytest.mark.parametrize("options", [{"power": 1.0}, {"power": 0.01}, {"alpha": 0.0}])
def test_numbers_out_of_range_are_refused(options):
    with pytest.raises(ShapeError):
        plan(given_spread(10, 0.9), [0.5], **options)


def test_a_difference_of_nothing_is_refused():
    with pytest.raises(ComparisonError, match="difference of 0"):
        plan(given_spread(10, 0.9), [0.0])


def test_a_plan_fits_a_terminal_and_is_json(tmp_path):
    one = plan(stored_spreads(study(tmp_path), "schane", "conv/ce/centroid")[0], [0.3, 2])
    file = io.StringIO()
    print_plan(one, Console(file=file, width=80))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert f"{one.needs[0].paired:,}" in text
    record = json.loads(json.dumps(plan_record(one), allow_nan=False))
    assert [need["difference"] for need in record["needs"]] == [0.3, 2]
    assert record["detectable_paired"] == pytest.approx(one.detectable[0])
