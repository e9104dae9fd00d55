"""What each class contributes to a difference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stored_cells import TRUTH, cell

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets.official_splits import official_classes
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import compare_methods, comparison_record
from fewshot_bench.report.comparison import class_differences
from fewshot_bench.report.scores import stored_scores

pytestmark = pytest.mark.slow

EPISODES = 200


def fill_by_class(store, name, right, **protocol):
    """Store episodes in which so many of the 15 queries of each class, [C], are correct."""
    of = cell(name, **protocol)
    store.append(of, 0, np.arange(EPISODES), np.zeros((EPISODES, 75), np.uint8), 0.001)
    classes = stored_scores(store, [of]).classes
    counts = np.repeat(np.asarray(right)[classes], 15, axis=1)
    predictions = np.where(np.tile(np.arange(15), 5) < counts, TRUTH, (TRUTH + 1) % 5).astype(np.uint8)
    store = OutcomeStore(store.folder.parent / f"{name}-filled")
    store.append(of, 0, np.arange(EPISODES), predictions, 0.001)
    return store


@pytest.fixture
def store(tmp_path):
    """B is right in 9 of 15; A in 9 too, but for two classes of 20, of which it has all and 12."""
    right = np.full(20, 9)
    gains = right.copy()
    gains[[4, 11]] = 15, 12
    both = OutcomeStore(tmp_path / "outcomes")
    for name, counts in (("a", gains), ("b", right)):
        one = fill_by_class(OutcomeStore(tmp_path / "draft" / "outcomes"), name, counts)
        (of,) = one.cells()
        both.append_frame(of, one.read(of))
    return both


def test_differences_are_those_of_each_class(store):
    (comparison,) = compare_methods(store, "a", "b")
    classes = comparison.by_class
    expected = np.zeros(20)
    expected[[4, 11]] = 6 / 15, 3 / 15
    assert classes.differences == pytest.approx(expected, abs=1e-6)
    assert classes.accuracy_b == pytest.approx(np.full(20, 0.6), abs=1e-6)
    assert list(classes.names) == list(official_classes("cifar-fs")["novel"])
    assert int(classes.episodes.sum()) == 5 * EPISODES


def test_weighted_by_their_episodes_they_add_up_to_the_difference(store):
    (comparison,) = compare_methods(store, "a", "b")
    classes = comparison.by_class
    mean = np.average(classes.differences, weights=classes.episodes)
    assert mean == pytest.approx(comparison.test.mean_difference)


def test_few_classes_that_carry_a_difference_are_named(store):
    (comparison,) = compare_methods(store, "a", "b")
    names = official_classes("cifar-fs")["novel"]
    assert comparison.few_classes.startswith(
        f"2 of 20 classes carry most of this difference ({names[4]} +40.0, {names[11]} +20.0 points)"
    )
    assert comparison_record(comparison)["few_classes"] == comparison.few_classes
    assert len(comparison_record(comparison, per_class=True)["per_class"]) == 20


def test_many_classes_that_carry_a_difference_are_not(tmp_path):
    both = OutcomeStore(tmp_path / "outcomes")
    for name, counts in (("a", 9 + np.arange(20) % 4), ("b", np.full(20, 9))):
        one = fill_by_class(OutcomeStore(tmp_path / "draft" / "outcomes"), name, counts)
        (of,) = one.cells()
        both.append_frame(of, one.read(of))
    (comparison,) = compare_methods(both, "a", "b")
    assert comparison.few_classes == ""
    assert comparison.by_class.effective_number > 5


@pytest.mark.parametrize(
    ("sizes", "names", "expected"),
    [
        ((600,) * 20, tuple(f"my {number}" for number in range(20)), "my 3"),
        ((600,) * 20, (), official_classes("cifar-fs")["novel"][3]),
        ((599,) * 20, (), "class 3"),
        ((600,) * 20, ("too", "few"), official_classes("cifar-fs")["novel"][3]),
    ],
)
def test_names_are_the_recorded_ones_or_the_official_ones_or_numbers(store, sizes, names, expected):
    cells = [replace(one, class_sizes=sizes, class_names=names) for one in store.cells()]
    scores = replace(stored_scores(store, store.cells(), by_class=True), cells=cells)
    assert class_differences(scores, 0, 1).names[3] == expected


def test_without_predictions_or_classes_they_are_unknown(store):
    scores = stored_scores(store, store.cells())
    assert class_differences(scores, 0, 1) is None
    unknown = replace(
        stored_scores(store, store.cells(), by_class=True), cells=[replace(scores.cells[0], class_sizes=())]
    )
    assert class_differences(unknown, 0, 1) is None


def test_the_command_says_why_they_are_unknown(tmp_path, capsys):
    store = OutcomeStore(tmp_path / "outcomes")
    uneven = {"sampler": "dirichlet", "sampler_settings": {"alpha": 2.0}}
    for name, right in (("a", 3), ("b", 4)):
        truth = np.tile(TRUTH, (8, 1))
        store.append(cell(name, **uneven), 0, np.arange(8), (truth % right).astype(np.uint8), 0.001, truth=truth)
    assert exit_code(["compare", "a", "b", "--per-class", "--results", str(tmp_path)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "class by class: unknown, as classes have different numbers of queries." in printed


def test_the_command_shows_them_with_the_largest_first(store, capsys):
    assert exit_code(["compare", "a", "b", "--per-class", "--results", str(store.folder.parent)]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("class "))
    assert lines[start + 2].split()[:4] == [official_classes("cifar-fs")["novel"][4], "100.0", "60.0", "+40.0"]
    assert any("2 of 20 classes carry most of this difference" in line for line in lines)
