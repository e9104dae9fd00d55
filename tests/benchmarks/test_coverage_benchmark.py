"""The simulation of coverage runs, and its parts are what they are called."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import stats

from fewshot_bench.statistics import mean_interval

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _beside_the_script() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture(scope="module")
def coverage(_beside_the_script: None) -> ModuleType:
    """The script under a name of its own, since a well-known package has the same."""
    spec = importlib.util.spec_from_file_location("interval_coverage", BENCHMARKS / "coverage.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Two rows of values on 150 episodes of 3 of 10 classes, which differ."""
    generator = np.random.default_rng(0)
    classes = np.array([generator.permutation(10)[:3] for _ in range(150)])
    return generator.normal(size=(2, 10))[:, classes].mean(axis=2) + generator.normal(size=(2, 150)) / 4, classes


def test_a_run_prints_a_table_of_every_quantity_and_candidate(coverage, capsys):
    tiny = "--setting varying --setting usual --replicates 3 --episodes 45 --images 25"
    coverage.main(tiny.split())
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith(("| 1 |", "| 5 |"))]
    assert len(rows) == 2 * 2 * 4
    assert all(len(row.split("|")) == 2 + 4 + len(coverage.CANDIDATES) for row in rows)
    assert "20 classes, 5-way: 3 replicates, 25 images per class, 45 episodes." in printed


def test_a_replicate_can_be_drawn_again_and_another_differs(coverage):
    setting = coverage.Setting("tiny", classes=7, ways=(2, 3), images=25, episodes=30)
    (first, classes), (again, _), (other, _) = (coverage.replicate(setting, number) for number in (0, 0, 1))
    assert first.shape == (8, 30)
    assert classes.shape == (30, 3)
    assert ((classes == -1).sum(axis=1) == np.repeat([1, 0], 15)).all()
    assert (first == again).all()
    assert (first != other).any()


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


def test_coverage_is_how_often_the_truth_is_within(coverage):
    setting = coverage.Setting("tiny")
    means = np.tile(np.array([[0.1], [0.2], [0.3], [0.4]]), 8)  # truth 0.25
    widths = np.full((4, len(coverage.CANDIDATES), 8), 0.1)
    widths[:, 1] = 0.2
    line = coverage.table(setting, means, widths).splitlines()[-1].split(" | ")
    assert line[4:6] == ["50.0% (±10.00)", "100.0% (±20.00)"]


def test_the_jackknife_leaves_out_each_class_with_its_episodes(drawn):
    from coverage_candidates import jackknife

    values, classes = drawn
    for row, found in zip(values, jackknife(values, classes, 10), strict=True):
        means = [row[~(classes == label).any(axis=1)].mean() for label in range(10)]
        assert found == pytest.approx(stats.t.ppf(0.975, 9) * np.sqrt(9 * np.var(means)))


def test_disjoint_pairs_are_those_without_a_common_class(drawn):
    from coverage_candidates import disjoint_pairs

    values, classes = drawn
    for row, found in zip(values, disjoint_pairs(values, classes, 10), strict=True):
        centred = row - row.mean()
        apart = [(e, f) for e in range(150) for f in range(150) if not set(classes[e]) & set(classes[f])]
        variance = -np.mean([centred[e] * centred[f] for e, f in apart])
        assert found == pytest.approx(stats.t.ppf(0.975, 9) * np.sqrt(variance), rel=1e-4)


def test_the_others_are_about_as_wide_as_what_is_shipped_and_the_task_interval_is_not(drawn):
    from coverage_candidates import CANDIDATES

    values, classes = drawn
    widths = {name: candidate(values, classes, 10)[0] for name, candidate in CANDIDATES.items()}
    assert widths.pop("task") == pytest.approx(mean_interval(values[0]).half_width)
    assert len(widths) == 5
    assert all(0.6 < width / widths["data"] < 1.6 for width in widths.values()), widths
