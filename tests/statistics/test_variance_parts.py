from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.episodes import sample_indices
from fewshot_bench.errors import ShapeError
from fewshot_bench.statistics import class_overlap, data_intervals, image_overlap, variance_parts
from fewshot_bench.statistics.variance_parts import MOST_IMAGE_ERROR


def drawn(seed: int, episodes: int, *, classes: int = 20, images: int = 60, way: int = 5, size: int = 16):
    """Classes [E, N] and images [E, N, size] of standard episodes."""
    found = sample_indices(
        [images] * classes, dataset="made up", split="novel", way=way, shot=1, query=size - 1, seed=seed, run=0,
        numbers=np.arange(episodes),
    )  # fmt: skip
    return found[:, :, 0] // images, found


def by_a_double_loop(values: np.ndarray, classes: np.ndarray, images: np.ndarray) -> float:
    """Per class a line through the products of the pairs that have it, against their common images."""
    pairs = list(itertools.permutations(range(len(values)), 2))
    total = 0.0
    for number in np.unique(classes):
        mine = np.flatnonzero((classes == number).any(axis=1))
        centred = values[mine] - values[mine].mean()
        sets = [set(images[episode][classes[episode] == number].ravel().tolist()) for episode in mine]
        both = list(itertools.permutations(range(len(mine)), 2))
        shares = [len(sets[e] & sets[f]) for e, f in both]
        slope = stats.linregress(shares, [centred[e] * centred[f] for e, f in both]).slope
        total += slope * sum(shares) / len(pairs)
    return total


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6))
def test_the_variance_from_images_is_what_a_double_loop_finds(seed):
    classes, images = drawn(seed, 40, classes=4, images=9, way=3, size=4)
    generator = np.random.default_rng(seed)
    values = 9 * generator.normal(size=4)[classes].mean(axis=1) + generator.normal(size=36)[images].mean(axis=(1, 2))
    found = variance_parts(values, class_overlap(classes), classes, images)
    expected = by_a_double_loop(values, classes, images)
    total = data_intervals(values[None], class_overlap(classes)).standard_errors[0] ** 2
    assert found.total == pytest.approx(total)
    if "images" in found.variances:
        sample = total - found.variances["episodes"]
        assert found.variances["images"] == pytest.approx(np.clip(expected, 0, sample), abs=1e-9 * total)
    assert sum(found.shares.values()) == pytest.approx(1)


@pytest.mark.slow
def test_known_parts_are_found_again():
    found = []
    for replicate in range(40):
        classes, images = drawn(replicate, 1500)
        generator = np.random.default_rng(replicate)
        of_class, of_image = generator.normal(0, 1, 20), generator.normal(0, 6, 1200)
        values = of_class[classes].mean(axis=1) + of_image[images].mean(axis=(1, 2)) + generator.normal(0, 1, 1500)
        parts = variance_parts(values, class_overlap(classes), classes, images)
        found.append([parts.variances[source] for source in ("classes", "images")])
    means, errors = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(40)
    assert abs(means[0] - 1 / 20) < 3 * errors[0]
    assert abs(means[1] - 36 / 1200) < 3 * errors[1]
    assert errors[1] < 0.001


@pytest.mark.slow
def test_the_error_of_the_images_part_is_its_scatter_where_images_do_not_matter():
    (classes, images), generator = drawn(3, 400, images=30), np.random.default_rng(3)
    overlap = class_overlap(classes)
    errors = [variance_parts(row, overlap, classes, images).image_error for row in generator.normal(size=(20, 400))]
    # Two episodes of a class, each with 16 of its 30 images, share 16 * 16 / 30 of them, ± 1.39 (hypergeometric).
    of_class = [(classes == number).sum() for number in range(20)]
    by_hand = np.sqrt(sum(2 * n * (n - 1) * (16 * 16 / 30 / 1.39) ** 2 for n in of_class)) / (400 * 399)
    assert np.mean(errors) == pytest.approx(by_hand, rel=0.1)


def test_few_episodes_do_not_tell_images_from_classes():
    classes, images = drawn(0, 100, images=600)
    values = np.random.default_rng(0).normal(size=100)
    found = variance_parts(values, class_overlap(classes), classes, images)
    assert set(found.variances) == {"episodes", "classes and images"}
    assert found.image_error > MOST_IMAGE_ERROR * found.total


def test_without_images_they_count_with_the_classes():
    classes, images = drawn(0, 600, images=30)
    values = np.random.default_rng(0).normal(size=20)[classes].mean(axis=1)
    found = variance_parts(values, class_overlap(classes))
    assert list(found.shares) == ["classes and images", "episodes"]
    assert found.image_error is None
    known = variance_parts(values, class_overlap(classes), classes, images)
    assert known.variances["classes"] + known.variances["images"] == pytest.approx(
        found.variances["classes and images"]
    )


def test_images_that_no_two_episodes_share_count_with_the_episodes():
    classes, _ = drawn(0, 200)
    values = np.random.default_rng(0).normal(size=20)[classes].mean(axis=1)
    found = variance_parts(values, class_overlap(classes), classes, np.arange(200 * 5 * 4).reshape(200, 5, 4))
    assert list(found.shares) == ["classes", "episodes and images"]


def test_fixed_classes_have_no_part():
    _, images = drawn(0, 300, classes=4, way=4)
    images = np.sort(images, axis=1)
    values = np.random.default_rng(1).normal(0, 1, 240)[images].mean(axis=(1, 2))
    assert list(variance_parts(values, image_overlap(images)).shares) == ["images", "episodes"]
    disjoint = np.arange(300 * 4 * 3).reshape(300, 4, 3)
    assert list(variance_parts(values, image_overlap(disjoint)).shares) == ["episodes and images"]


def test_equal_values_have_no_shares():
    classes, images = drawn(0, 50)
    assert variance_parts(np.full(50, 0.7), class_overlap(classes), classes, images).shares == {}


def test_a_varying_way_and_uneven_queries_fill_up_with_minus_one():
    classes, images = drawn(4, 800, classes=8, images=40)
    generator = np.random.default_rng(4)
    of_class, of_image = generator.normal(size=8), generator.normal(0, 4, 320)
    values = of_class[classes].mean(axis=1) + of_image[images].mean(axis=(1, 2))
    plain = variance_parts(values, class_overlap(classes), classes, images)
    wide_classes = np.pad(classes, ((0, 0), (0, 2)), constant_values=-1)
    wide_images = np.pad(images, ((0, 0), (0, 2), (0, 3)), constant_values=-1)
    assert variance_parts(values, class_overlap(wide_classes), wide_classes, wide_images) == plain


def test_what_does_not_fit_is_refused():
    classes, images = drawn(0, 30)
    with pytest.raises(ShapeError, match=r"images \[E, N, K \+ Q\] must fit"):
        variance_parts(np.arange(30.0), class_overlap(classes), classes, images[:, :4])
    with pytest.raises(ShapeError, match="unknown: every episode has all classes"):
        variance_parts([0.1, 0.2, 0.4], class_overlap([[0, 1]] * 3))
