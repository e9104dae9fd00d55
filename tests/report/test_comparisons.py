"""Several methods at once: pairs, corrections, letters, and datasets."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from stored_cells import cell, fill, outcomes, study

from fewshot_bench.errors import ComparisonError, OutcomeError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import compare_tasks, comparison_record, datasets_record, over_datasets, task_record

METHODS = {"a": 50, "b": 49, "c": 40}


def four_datasets(folder, episodes=60):
    """Three methods on four datasets; a is a little better than b, both are much better than c."""
    store = OutcomeStore(folder)
    generator = np.random.default_rng(1)
    for number, dataset in enumerate(("cifar-fs", "fc100", "mini-imagenet", "tiered-imagenet")):
        difficulty = generator.integers(-10, 11, size=(1, episodes)) - 3 * number
        for name, level in METHODS.items():
            noise = generator.integers(-4, 5, size=(1, episodes))
            fill(store, cell(name, dataset=dataset), level + difficulty + noise)
    return store


def test_all_pairs_of_all_methods_are_compared_without_names(tmp_path):
    task, *others = compare_tasks(four_datasets(tmp_path))
    assert len(others) == 3
    assert {frozenset((pair.a, pair.b)) for pair in task.comparisons} == set(map(frozenset, ("ab", "ac", "bc")))
    assert list(task.means) == ["a", "b", "c"]


def test_p_is_corrected_over_the_pairs_of_a_protocol(tmp_path):
    store = four_datasets(tmp_path)
    for correct, expected in (("none", lambda p: p), ("bh", stats.false_discovery_control), ("holm", holm_by_hand)):
        (task, *_) = compare_tasks(store, correct=correct)
        raw = [pair.test.p for pair in task.comparisons]
        assert [pair.p_corrected for pair in task.comparisons] == pytest.approx(list(expected(raw)))
        raw = [pair.data.p for pair in task.comparisons]
        assert [pair.p_beyond_corrected for pair in task.comparisons] == pytest.approx(list(expected(raw)))


def holm_by_hand(p):
    order = np.argsort(p)
    steps = np.maximum.accumulate([(len(p) - rank) * p[row] for rank, row in enumerate(order)])
    result = np.empty(len(p))
    result[order] = np.minimum(steps, 1)
    return result


def test_letters_agree_with_the_corrected_tests(tmp_path):
    for task in compare_tasks(four_datasets(tmp_path)):
        for pair in task.comparisons:
            for letters, p in ((task.letters, pair.p_beyond_corrected), (task.letters_split, pair.p_corrected)):
                assert bool(set(letters[pair.a]) & set(letters[pair.b])) == (p >= 0.05)
        assert task.letters["a"].startswith("a")
        assert not set(task.letters["a"]) & set(task.letters["c"])


def test_against_a_baseline_only_it_is_compared(tmp_path):
    tasks = compare_tasks(four_datasets(tmp_path), baseline="b")
    for task in tasks:
        assert {(pair.a, pair.b) for pair in task.comparisons} == {("a", "b"), ("c", "b")}
        assert task.letters == {}
    (one,) = compare_tasks(four_datasets(tmp_path / "again"), ["c"], baseline="b")[0].comparisons
    assert (one.a, one.b) == ("c", "b")


def test_methods_with_other_episodes_are_refused_if_strict(tmp_path):
    store = study(tmp_path)
    fill(store, cell("longer", shot=1), np.full((3, 41), 41))
    assert compare_tasks(store, ["logistic", "longer"])[0].comparisons[0].left_out_of_b == 3
    with pytest.raises(ComparisonError, match=r"1-shot: unpaired episodes dropped: 3 of longer.*--strict"):
        compare_tasks(store, ["logistic", "longer"], strict=True)
    assert compare_tasks(store, ["logistic", "conv/ce/centroid"], strict=True)


def test_two_methods_are_needed(tmp_path):
    store = OutcomeStore(tmp_path)
    with pytest.raises(OutcomeError, match="there are no outcomes"):
        compare_tasks(store)
    fill(store, cell("only"), np.full((1, 5), 30))
    with pytest.raises(ComparisonError, match="needs two methods; 1 is stored"):
        compare_tasks(store)


def test_a_duplicated_method_differs_by_nothing(tmp_path, recwarn):
    store = OutcomeStore(tmp_path)
    counts = np.random.default_rng(0).integers(20, 60, size=(2, 30))
    for name in ("one", "other"):
        fill(store, replace(cell(name), class_sizes=(600,) * 20), counts)
    ((pair,),) = (task.comparisons for task in compare_tasks(store))
    record = comparison_record(pair)
    assert [record[key] for key in ("difference", "p", "p_corrected", "wilcoxon_p", "sign_flip_p")] == [0, 1, 1, 1, 1]
    assert (record["diff_data_ci95_low"], record["diff_data_ci95_high"]) == (0, 0)
    assert record["verdict"] == "no difference shown"
    assert not recwarn.list


class TestDatasets:
    def test_each_dataset_counts_once(self, tmp_path):
        tasks = compare_tasks(four_datasets(tmp_path))
        (result,) = over_datasets(tasks)
        assert result.accuracies.shape == (4, 3)
        assert result.accuracies.loc["fc100", "a"] == pytest.approx(tasks[1].means["a"])
        a, c = result.accuracies["a"], result.accuracies["c"]
        expected = stats.ttest_rel(a, c)
        paired = result.pairs["a", "c"]
        assert (paired.test.t, paired.test.p) == pytest.approx((expected.statistic, expected.pvalue))
        assert paired.smallest_p == 1 / 8
        assert list(result.ranks.mean_ranks) == [1, 2, 3]
        assert result.ranks.statistic == pytest.approx(stats.friedmanchisquare(*result.accuracies.to_numpy().T)[0])

    def test_shots_are_kept_apart_and_one_dataset_is_not_tested(self, tmp_path):
        store = four_datasets(tmp_path)
        for name in ("a", "b"):
            fill(store, cell(name, shot=5), np.arange(20, 40)[None])
        results = over_datasets(compare_tasks(store))
        assert [result.task for result in results] == ["5-way 1-shot, 15 queries per class"]

    def test_two_methods_have_no_ranks(self, tmp_path):
        (result,) = over_datasets(compare_tasks(four_datasets(tmp_path), ["a", "b"]))
        assert result.ranks is None
        assert list(result.pairs) == [("a", "b")]

    def test_a_method_that_lacks_a_dataset_is_left_out(self, tmp_path):
        store = four_datasets(tmp_path)
        fill(store, cell("d"), np.full((1, 60), 44))
        (result,) = over_datasets(compare_tasks(store))
        assert set(result.accuracies.columns) == {"a", "b", "c"}


def test_records_are_json(tmp_path):
    tasks = compare_tasks(four_datasets(tmp_path))
    (result,) = over_datasets(tasks)
    content = json.loads(json.dumps([task_record(tasks[0]), datasets_record(result)], allow_nan=False))
    assert content[0]["methods"][0]["method"] == "a"
    assert content[0]["correction"] == "holm"
    assert content[1]["friedman"]["mean_ranks"] == {"a": 1, "b": 2, "c": 3}
    assert content[1]["accuracies"]["fc100"]["c"] == pytest.approx(100 * tasks[1].means["c"])


def test_a_pair_without_common_episodes_is_left_out_and_said(tmp_path):
    store = OutcomeStore(tmp_path)
    for name, run in (("a", 0), ("b", 0), ("far", 3)):
        one = outcomes(cell(name), list(range(20, 50)), run=run)
        store.append(one.cell, run, one.episode, one.predictions, 0.1)
    (task,) = compare_tasks(store)
    assert [(pair.a, pair.b) for pair in task.comparisons] == [("a", "b")]
    assert {frozenset(pair) for pair in task.unpaired} == {frozenset(("a", "far")), frozenset(("b", "far"))}
    with pytest.raises(ComparisonError, match="share fewer than two episodes"):
        compare_tasks(store, strict=True)
    with pytest.raises(ComparisonError, match="far share fewer than two episodes of cifar-fs"):
        compare_tasks(store, ["a", "far"])


def test_a_method_named_twice_is_refused(tmp_path):
    with pytest.raises(ComparisonError, match="'a' is named twice"):
        compare_tasks(four_datasets(tmp_path), ["a", "a"])
    with pytest.raises(ComparisonError, match="'a' is named twice"):
        compare_tasks(OutcomeStore(tmp_path), ["a"], baseline="a")


def test_p_over_datasets_is_corrected_over_the_pairs(tmp_path):
    (result,) = over_datasets(compare_tasks(four_datasets(tmp_path)))
    raw = [paired.test.p for paired in result.pairs.values()]
    assert list(result.p_corrected.values()) == pytest.approx(list(holm_by_hand(raw)))
