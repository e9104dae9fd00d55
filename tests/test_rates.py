from __future__ import annotations

import math

import pytest

from fewshot_bench.units import bytes_text, rate_text, speed_text


@pytest.mark.parametrize(
    ("rate", "column", "line"),
    [
        (0, "0", "0 images/s"),
        (0.0004, "0.00040", "2,500 s per image"),
        (0.014, "0.014", "71.4 s per image"),
        (0.0996, "0.10", "10 s per image"),
        (0.38, "0.38", "2.63 s per image"),
        (0.996, "1.0", "1.0 images/s"),
        (1, "1.0", "1.0 images/s"),
        (2.55, "2.5", "2.5 images/s"),
        (9.94, "9.9", "9.9 images/s"),
        (9.96, "10", "10 images/s"),
        (99.6, "100", "100 images/s"),
        (1234.5, "1,234", "1,234 images/s"),
        (1e7, "10,000,000", "10,000,000 images/s"),
        (math.inf, "-", "- images/s"),
        (math.nan, "-", "- images/s"),
    ],
)
def test_a_rate_has_two_digits_that_mean_something(rate, column, line):
    assert (rate_text(rate), speed_text(rate, "image")) == (column, line)


def test_every_rate_is_within_five_percent_of_its_text():
    for exponent in range(-60, 61):
        rate = 10 ** (exponent / 10)
        text = rate_text(rate)
        assert float(text.replace(",", "")) == pytest.approx(rate, rel=0.05)
        assert "e" not in text


def test_sizes_have_a_unit_that_fits() -> None:
    assert [bytes_text(size) for size in (0, 900, 268_883_200.4, 8e10)] == [
        "0 bytes",
        "900 bytes",
        "268.9 MB",
        "80.0 GB",
    ]
