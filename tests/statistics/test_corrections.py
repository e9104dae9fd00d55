from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fewshot_bench.errors import ShapeError, UnknownNameError
from fewshot_bench.statistics import corrected

probabilities = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def test_four_tests_worked_by_hand():
    # Holm: 4 * 0.005, 3 * 0.01, 2 * 0.03, then not below the one before.
    assert corrected([0.01, 0.04, 0.03, 0.005], "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # Benjamini & Hochberg: 0.005 * 4 / 1, 0.01 * 4 / 2, 0.03 * 4 / 3, 0.04 * 4 / 4.
    assert corrected([0.01, 0.04, 0.03, 0.005], "bh") == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert corrected([0.01, 0.04, 0.03, 0.005], "none").tolist() == [0.01, 0.04, 0.03, 0.005]


def test_benjamini_and_hochbergs_own_example():
    # Benjamini & Hochberg (1995), section 3.2: of 15 tests, 4 are discoveries at 0.05 where Bonferroni finds 3.
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528]
    p += [0.7590, 1.0]
    assert (corrected(p, "bh") <= 0.05).sum() == 4
    assert (corrected(p, "holm") <= 0.05).sum() == 3


@settings(deadline=None, max_examples=25)
@given(probabilities)
def test_holm_keeps_the_order_and_never_lowers_a_p(p):
    holm, order = corrected(p, "holm"), np.argsort(p, kind="stable")
    assert (holm >= np.array(p)).all()
    assert (holm <= 1).all()
    assert (np.diff(holm[order]) >= 0).all()
    assert (corrected(p, "bh") <= holm + 1e-12).all()


@settings(deadline=None, max_examples=25)
@given(probabilities)
def test_bh_is_scipys(p):
    assert corrected(p, "bh") == pytest.approx(stats.false_discovery_control(p, method="bh"))


@pytest.mark.parametrize("method", ["holm", "bh", "none"])
def test_what_was_not_tested_stays_open_and_does_not_count(method):
    p = corrected([math.nan, 0.01, 0.04, math.nan], method)
    assert np.isnan(p).tolist() == [True, False, False, True]
    assert p[1:3] == pytest.approx(corrected([0.01, 0.04], method))
    assert np.isnan(corrected([math.nan], method)).all()
    assert corrected([], method).shape == (0,)


def test_a_table_keeps_its_shape_and_the_input_its_values():
    p = np.array([[0.01, 0.04], [0.03, 0.005]])
    assert corrected(p) == pytest.approx(np.array([[0.03, 0.06], [0.06, 0.02]]))
    assert p[0, 0] == 0.01


def test_an_unknown_correction_names_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"no correction called 'holms'. Did you mean holm"):
        corrected([0.1], "holms")


def test_what_is_no_probability_is_refused():
    with pytest.raises(ShapeError, match="between 0 and 1"):
        corrected([0.1, 1.2])
