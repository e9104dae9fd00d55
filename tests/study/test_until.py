"""Episodes until every interval is narrow enough."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import Cell, MethodCard, OutcomeStore, ProtocolCard
from fewshot_bench.study import Study
from fewshot_bench.study.resolved import EPISODES_BETWEEN_LOOKS, Rule, stopping_rule
from fewshot_bench.study.run import run_until

QUERIES = 75
TRUTH = np.repeat(np.arange(5, dtype=np.uint8), 15)


class Method:
    """Gets between `low` and `high` queries right, evenly."""

    def __init__(self, store, name, low, high, protocol):
        self.store, self.low, self.high = store, low, high
        card = ProtocolCard("toy", "ab" * 32, "novel", 5, protocol.shot, 15, 0, 1)
        self.cell = Cell(MethodCard(name, "b", f"weights of {name}", "a"), card)
        self.planned = [(self.cell, protocol)]
        self.asked = []

    def correct(self, run, episodes):
        generator = np.random.default_rng(run)
        return generator.integers(self.low, self.high + 1, size=100_000)[episodes]

    def run(self, some):
        for cell, protocol in some:
            self.asked.append(protocol.episodes)
            for run in range(protocol.runs):
                numbers = np.setdiff1d(np.arange(protocol.episodes), self.store.done(cell).get(run, []))
                right = np.arange(QUERIES) < self.correct(run, numbers)[:, None]
                if len(numbers):
                    self.store.append(cell, run, numbers, np.where(right, TRUTH, (TRUTH + 1) % 5).astype(np.uint8), 0.1)

    def half_width(self, episodes, runs):
        values = np.concatenate([self.correct(run, np.arange(episodes)) for run in range(runs)]) / QUERIES
        return 100 * stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))


def two_methods(folder, protocol):
    store = OutcomeStore(folder)
    methods = [Method(store, "steady", 40, 50, protocol), Method(store, "varying", 10, 70, protocol)]
    return store, methods


def go(rule, methods, store):
    run_until(rule, [method.run for method in methods], [method.planned for method in methods], store)


def test_all_methods_stop_together_at_the_first_look_at_which_all_are_narrow(tmp_path):
    protocol = Protocol("toy", episodes=30_000, runs=2)
    store, methods = two_methods(tmp_path, protocol)
    go(Rule(1.0, 30_000), methods, store)
    (stopped,) = {method.asked[-1] for method in methods}
    assert stopped % EPISODES_BETWEEN_LOOKS == 0
    assert max(method.half_width(stopped, 2) for method in methods) <= 1.0
    before = stopped - EPISODES_BETWEEN_LOOKS
    assert max(method.half_width(before, 2) for method in methods) > 1.0
    assert min(method.half_width(before, 2) for method in methods) < 1.0  # the steady one went on for the other's sake
    for method in methods:
        assert [len(numbers) for numbers in store.done(method.cell).values()] == [stopped, stopped]


def test_the_limit_ends_it(tmp_path):
    protocol = Protocol("toy", episodes=600, runs=1)
    store, methods = two_methods(tmp_path, protocol)
    go(Rule(0.01, 600), methods, store)
    assert methods[0].asked == [250, 500, 600]


def test_a_split_that_is_used_up_ends_it(tmp_path):
    protocol = Protocol("toy", episodes=130, runs=1, sampler="disjoint")
    store, methods = two_methods(tmp_path, protocol)
    go(Rule(0.01, 30_000), methods, store)
    assert methods[0].asked == [130]


def test_equal_outcomes_end_it_at_the_first_look(tmp_path):
    protocol = Protocol("toy", episodes=900, runs=1)
    store = OutcomeStore(tmp_path)
    method = Method(store, "constant", 40, 40, protocol)
    go(Rule(1.0, 900), [method], store)
    assert method.asked == [EPISODES_BETWEEN_LOOKS]


def test_more_stored_episodes_do_not_change_where_it_stops(tmp_path):
    protocol = Protocol("toy", episodes=30_000, runs=1)
    store, methods = two_methods(tmp_path / "fresh", protocol)
    go(Rule(2.0, 30_000), methods, store)
    store, longer = two_methods(tmp_path / "longer", protocol)
    for method in longer:
        method.run([(method.cell, Protocol("toy", episodes=2_000, runs=1))])
        method.asked.clear()
    go(Rule(2.0, 30_000), longer, store)
    assert longer[0].asked == methods[0].asked


def test_the_rule_is_what_the_study_says():
    assert stopping_rule(Study()) is None
    rule = stopping_rule(Study(until_ci=0.2, max_episodes=5000))
    assert (rule.half_width, rule.most) == (0.2, 5000)
    assert rule.looks()[0] == EPISODES_BETWEEN_LOOKS
    assert rule.looks()[-1] == 5000
    assert rule.as_record()["half_width"] == 0.2
    assert all(protocol.episodes == 5000 for protocol in Study(until_ci=0.2, max_episodes=5000).protocols())


@pytest.mark.parametrize("fields", [{"until_ci": 0.2, "episodes": 100}, {"max_episodes": 100}])
def test_contradictions_are_refused(fields):
    with pytest.raises(StudyError, match="--max-episodes"):
        stopping_rule(Study(**fields))
