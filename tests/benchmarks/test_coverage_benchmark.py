"""The simulation of coverage runs, and its parts are what they are called."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from scipy import stats
from simulations import script

from fewshot_bench.statistics import mean_interval


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    return script("coverage")


@pytest.fixture(scope="module")
def candidates(coverage: ModuleType) -> ModuleType:
    return script("coverage_candidates")


@pytest.fixture
def values() -> np.ndarray:
    """Two rows of values on 150 episodes of 3 of 10 classes, which differ; one of them is skewed."""
    generator = np.random.default_rng(0)
    effects = np.stack([generator.normal(size=10), generator.exponential(size=10) ** 2])
    return effects[:, _classes()].mean(axis=2) + generator.normal(size=(2, 150)) / 4


def _classes() -> np.ndarray:
    generator = np.random.default_rng(1)
    return np.array([generator.permutation(10)[:3] for _ in range(150)])


@pytest.fixture
def drawn(candidates, values):
    return candidates.Drawn(values, _classes(), 10)


def test_a_run_prints_a_row_of_every_quantity_with_a_cell_of_every_candidate(coverage, capsys):
    names = ["varying", "sparse-20", "fixed-5-60"]
    only = [word for name in names for word in ("--only", name)]
    coverage.main([*only, "--replicates", "3", "--episodes", "45", "--processes", "1"])
    printed = capsys.readouterr().out
    for name in names:
        setting = coverage.SETTINGS[name]
        rows = [line for line in printed.splitlines() if line.startswith(f"| {setting.title} |")]
        assert [row.split(" | ")[1] for row in rows] == list(setting.quantities)
        assert all(len(row.split("|")) == 2 + 5 + len(setting.candidates) for row in rows)


@pytest.mark.slow
def test_two_processes_give_what_one_gives(coverage):
    setting = coverage.Setting("tiny", classes=7, ways=(2, 3), images=25, episodes=30)
    one, two = coverage.simulate(setting, 6), coverage.simulate(setting, 6, processes=2)
    assert (one.ends == two.ends).all()
    assert (one.means[0] != one.means[1]).any()


def test_a_replicate_fills_up_the_classes_of_small_episodes(coverage):
    setting = coverage.Setting("tiny", classes=7, ways=(2, 3), images=25, episodes=30)
    drawn = [drawn for drawn, _, _ in coverage.replicate(setting, 0)]
    assert len(drawn) == len(coverage.SHOTS)
    for of_shots in drawn:
        assert of_shots.values.shape == (4, 30)
        assert ((of_shots.classes == -1).sum(axis=1) == np.repeat([1, 0], 15)).all()


def test_accuracies_are_those_of_the_nearest_centroid(coverage):
    generator = np.random.default_rng(1)
    features = generator.normal(size=(60, 4)).astype(np.float32)
    images = np.stack([generator.permutation(60)[:36].reshape(2, 18) for _ in range(5)]).astype(np.int32)
    for shot in (1, 3):
        for episode, found in zip(images, coverage.accuracies(features, images, shot), strict=True):
            centroids = [features[row[:shot]].mean(axis=0) for row in episode]
            hits = [
                np.argmin([np.linalg.norm(features[image] - centroid) for centroid in centroids]) == label
                for label in range(2)
                for image in episode[label, 3:]
            ]
            assert found == pytest.approx(np.mean(hits))


def test_coverage_counts_the_misses_on_each_side(coverage):
    means = np.array([[0.1], [0.2], [0.3], [0.4]])
    ends = np.stack([means - 0.01, means + 0.12], axis=1)[:, None]  # hold 0.25 in the second replicate
    results = coverage.Results(means, np.full((4, 1), 0.25), np.ones((4, 1), dtype=bool), ends)
    assert coverage._cells(results, 0)[1:] == ["6.50", "25.0", "50.0, 25.0"]
    some = replace(results, counts=np.array([[True], [True], [False], [False]]))
    assert coverage._cells(some, 0)[2:] == ["50.0", "0.0, 50.0"]


def test_the_task_interval_is_too_short_by_what_is_needed_over_its_half_width(coverage):
    setting = coverage.Setting("tiny")
    means = np.tile(np.array([[0.1], [0.3]]), 8)  # standard deviation 0.1414
    half_widths = np.full((2, len(setting.candidates), 8), 0.5)
    half_widths[:, -1] = 0.05
    ends = np.stack([means[:, None] - half_widths, means[:, None] + half_widths], axis=2)
    results = coverage.Results(means, means, np.ones((2, 8), dtype=bool), ends)
    assert "accuracy 5.5 · 5.5; difference, a noisy copy 5.5" in coverage.too_short(setting, results)


@pytest.mark.slow
def test_a_sparse_gain_has_the_stated_truth_and_counts_where_the_split_holds_such_a_class(coverage):
    setting = replace(coverage.SETTINGS["sparse-exp-20"], classes=6, images=60, episodes=60)
    results = coverage.simulate(setting, 300)
    gained = results.means[:, 0] - results.means[:, 2] > 1e-12
    holds = results.counts[:, 1]
    assert gained[holds].mean() > 0.9
    assert not gained[~holds].any()
    assert holds.mean() == pytest.approx(1 - 0.9**6, abs=0.1)
    for place in range(6):
        error = results.means[:, place].std() / np.sqrt(300)
        assert results.means[:, place].mean() == pytest.approx(results.truths[:, place].mean(), abs=4 * error)


def test_fixed_classes_keep_their_centres_and_get_new_images(coverage):
    setting = replace(coverage.SETTINGS["fixed-5-600"], images=4000)
    first, second = (coverage.population(setting, np.random.default_rng(number))[0] for number in (1, 2))
    centres = [features.reshape(5, 4000, -1).mean(axis=1) for features in (first, second)]
    assert centres[0] == pytest.approx(centres[1], abs=0.15)
    assert (first != second).all()


def test_disjoint_pairs_are_those_without_a_common_class(candidates, drawn):
    low, high = candidates.disjoint_pairs(drawn)
    for row, half_width in zip(drawn.values, (high - low) / 2, strict=True):
        centred = row - row.mean()
        episodes = [set(of) for of in drawn.classes]
        apart = [(e, f) for e in range(150) for f in range(150) if not episodes[e] & episodes[f]]
        variance = -np.mean([centred[e] * centred[f] for e, f in apart])
        assert half_width == pytest.approx(stats.t.ppf(0.975, 9) * np.sqrt(variance), rel=1e-4)


def test_the_jackknife_leaves_out_each_class_with_its_episodes(candidates, drawn):
    low, high = candidates.jackknife_less_noise(drawn)
    for row, half_width in zip(drawn.values, (high - low) / 2, strict=True):
        without = [row[~(drawn.classes == label).any(axis=1)].mean() for label in range(10)]
        noise = row.var(ddof=1) / 150
        variance = 9 * np.var(without) - 9 * 3 / 7 * noise + noise
        assert half_width == pytest.approx(stats.t.ppf(0.975, 9) * np.sqrt(variance))


def test_skewness_lengthens_one_arm_and_more_so_as_shipped_than_by_johnson(candidates, drawn):
    arms = {name: np.array(of(drawn)) - drawn.found.means for name, of in candidates.CANDIDATES.items()}
    assert drawn.found.skewness[1] > 0.1
    for name in ("data", "Johnson's 1/3"):
        assert arms[name][0, 1] == pytest.approx(arms["Student's t"][0, 1])
    shipped, johnson, student = (arms[name][1, 1] for name in ("data", "Johnson's 1/3", "Student's t"))
    assert shipped > johnson > student


def test_halls_end_is_where_his_polynomial_has_the_quantile(candidates, drawn):
    found = drawn.found
    _, high = candidates.shipped(drawn)
    skewness, t = found.skewness[1], (found.means - high)[1] / found.standard_errors[1]
    polynomial = t + skewness / 3 * t**2 + skewness**2 / 27 * t**3 + skewness / 6
    assert polynomial == pytest.approx(-stats.t.ppf(0.975, found.freedom[1]))


def test_kurtosis_takes_degrees_of_freedom_where_one_class_is_odd(candidates):
    classes, effects = _classes(), np.zeros((2, 10))
    effects[0], effects[1, 0] = np.arange(10), 10
    odd = candidates.Drawn(effects[:, classes].mean(axis=2), classes, 10)
    student, kurtosis = (np.subtract(*of(odd)[::-1]) for of in (candidates.student, candidates.kurtosis))
    assert kurtosis[0] == pytest.approx(student[0])
    assert kurtosis[1] > 1.2 * student[1]


def test_the_others_are_about_as_long_as_what_is_shipped_and_the_task_interval_is_not(candidates, drawn):
    lengths = {name: np.subtract(*candidate(drawn)[::-1])[0] for name, candidate in candidates.CANDIDATES.items()}
    assert lengths.pop("task") == pytest.approx(2 * mean_interval(drawn.values[0]).half_width)
    assert all(0.6 < length / lengths["data"] < 1.6 for length in lengths.values()), lengths


def test_nested_subsets_are_measured_for_both_rules(coverage, monkeypatch):
    monkeypatch.setattr(coverage, "NESTED", range(20, 61, 20))
    monkeypatch.setattr(coverage, "NESTED_SETTINGS", ("usual",))
    rows = coverage.nested_table(2).splitlines()
    assert len(rows) == 4 + len(coverage.QUANTITIES)
    assert all(len(row.split(" | ")) == 2 + len(coverage.NESTED_CANDIDATES) for row in rows[2:])
