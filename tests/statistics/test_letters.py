from __future__ import annotations

import numpy as np
import pytest
import scikit_posthocs
from hypothesis import given, settings
from hypothesis import strategies as st

from fewshot_bench.errors import ComparisonError, ShapeError
from fewshot_bench.statistics import compact_letters, letter_sets, read_letters


def differences(count: int, pairs: list[tuple[int, int]]) -> np.ndarray:
    matrix = np.zeros((count, count), dtype=bool)
    for i, j in pairs:
        matrix[i, j] = matrix[j, i] = True
    return matrix


@st.composite
def patterns(draw):
    count = draw(st.integers(1, 9))
    return differences(count, [(i, j) for i in range(count) for j in range(i) if draw(st.booleans())])


def test_a_chain_of_neighbours_overlaps():
    assert compact_letters(differences(3, [(0, 2)])) == ["a", "ab", "b"]


def test_no_difference_is_one_letter_and_all_differences_are_one_each():
    assert compact_letters(differences(3, [])) == ["a", "a", "a"]
    assert compact_letters(differences(3, [(0, 1), (0, 2), (1, 2)])) == ["a", "b", "c"]


def test_the_best_method_has_the_first_letter():
    assert compact_letters(differences(3, [(0, 1), (0, 2)]), order=[2, 1, 0]) == ["b", "a", "a"]


def test_piephos_split_of_a_method_between_two_groups():
    # 0 and 1 alike, 2 and 3 alike, 1 and 2 alike: three overlapping groups.
    assert compact_letters(differences(4, [(0, 2), (0, 3), (1, 3)])) == ["a", "ab", "bc", "c"]


def test_a_letter_that_says_nothing_new_is_dropped():
    # 0, 1 and 2 are alike, but every two of them share a letter with 3, 4 or 5 already.
    alike = [(0, 1), (1, 2), (0, 2), (0, 3), (1, 3), (1, 4), (2, 4), (0, 5), (2, 5)]
    pattern = differences(6, [(i, j) for i in range(6) for j in range(i + 1, 6) if (i, j) not in alike])
    assert len(set("".join(compact_letters(pattern)))) == 3


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(patterns())
def test_methods_share_a_letter_if_and_only_if_they_do_not_differ(pattern):
    letters = [set(names) for names in letter_sets(pattern)]
    assert all(letters)
    for i, first in enumerate(letters):
        for j, second in enumerate(letters):
            assert bool(first & second) == (not pattern[i, j])


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(patterns(), st.randoms(use_true_random=False))
def test_the_order_of_methods_only_renames_letters(pattern, random):
    order = list(range(len(pattern)))
    random.shuffle(order)
    letters = compact_letters(pattern, order)
    assert letters == [
        text for _, text in sorted(zip(order, compact_letters(pattern[np.ix_(order, order)]), strict=True))
    ]
    assert "a" in letters[order[0]]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=9))
def test_ordered_means_have_the_letters_of_scikit_posthocs(means):
    means = np.sort(means)
    pattern = np.abs(means[:, None] - means) > 8
    theirs = scikit_posthocs.compact_letter_display(np.where(pattern, 0.01, 0.5), names=list(range(len(means))))
    assert compact_letters(pattern) == [text.replace(" ", "") for text in theirs]


@pytest.mark.slow
@settings(deadline=None, max_examples=100)
@given(patterns())
def test_no_more_letters_than_scikit_posthocs_needs(pattern):
    theirs = scikit_posthocs.compact_letter_display(np.where(pattern, 0.01, 0.5))
    assert len(set("".join(compact_letters(pattern)))) <= len(set("".join(theirs)) - {" "})


def test_letters_go_on_after_z_and_are_then_apart():
    letters = compact_letters(~np.eye(54, dtype=bool))
    assert [letters[number] for number in (0, 25, 26, 27, 52, 53)] == ["a", "z", "aa", "ab", "ba", "bb"]
    chain = ~np.eye(40, dtype=bool) & ~np.eye(40, k=1, dtype=bool) & ~np.eye(40, k=-1, dtype=bool)
    assert [compact_letters(chain)[number] for number in (0, 1, 26)] == ["a", "a b", "z aa"]


def test_five_hundred_methods_get_their_letters():
    means = np.sort(np.random.default_rng(0).random(500))
    pattern = np.abs(means[:, None] - means) > 0.05
    letters = [set(names) for names in letter_sets(pattern)]
    shared = np.array([[bool(first & second) for second in letters] for first in letters])
    np.testing.assert_array_equal(shared, ~pattern)


@pytest.mark.slow
def test_a_contrived_pattern_is_refused_instead_of_filling_the_memory():
    # Moon & Moser (1965): 20 groups of three that differ within have 3^20 largest sets without a difference.
    pattern = np.kron(np.eye(20), np.ones((3, 3))).astype(bool) & ~np.eye(60, dtype=bool)
    with pytest.raises(ComparisonError, match=r"more than 5,000 letters. Compare fewer methods"):
        compact_letters(pattern)


@pytest.mark.parametrize("bad", [[[False, True], [False, False]], [[True]], [[False, False]]])
def test_what_is_no_symmetric_matrix_is_refused(bad):
    with pytest.raises(ShapeError, match="symmetric matrix"):
        compact_letters(bad)


def test_an_order_that_leaves_methods_out_is_refused():
    with pytest.raises(ShapeError, match="name each of them once"):
        compact_letters(differences(3, []), order=[0, 1])


def test_no_method_has_no_letters():
    assert compact_letters(np.zeros((0, 0), dtype=bool)) == []


@settings(deadline=None, max_examples=100)
@given(patterns())
def test_letters_that_were_written_are_read(pattern):
    assert read_letters(compact_letters(pattern)) == [set(names) for names in letter_sets(pattern)]


@pytest.mark.parametrize("count", [26, 27, 28, 60])
def test_letters_beyond_z_are_read(count):
    everything = [(i, j) for i in range(count) for j in range(i)]
    apart = differences(count, everything)
    chain = differences(count, [(i, j) for i, j in everything if i - j > 1])
    for pattern in (apart, chain):
        assert read_letters(compact_letters(pattern)) == [set(names) for names in letter_sets(pattern)]
