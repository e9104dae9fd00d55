from __future__ import annotations

import pytest

from fewshot_bench.cache import parse_age, parse_bytes
from fewshot_bench.errors import CacheError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10GB", 10 * 1000**3), ("1.5 KB", 1500), ("2KiB", 2048), ("1TiB", 1024**4), ("0B", 0), (" 7MB ", 7_000_000)],
)
def test_sizes_are_read(text, expected):
    assert parse_bytes(text, "--max-size") == expected


@pytest.mark.parametrize(("text", "expected"), [("30d", 30 * 86400), ("90min", 5400), ("1.5h", 5400), ("2w", 1209600)])
def test_ages_are_read(text, expected):
    assert parse_age(text, "--older-than") == expected


@pytest.mark.parametrize(
    "text", ["", "10", "GB", "10gb", "10Gb", "10G", "-1GB", "1e3GB", "1,5GB", "٣GB", "9" * 400 + "B"]
)
def test_a_size_that_could_be_read_in_two_ways_is_refused(text):
    with pytest.raises(CacheError, match=r"--max-size takes a number and a unit \(B, KB, .* such as 10GB, not"):
        parse_bytes(text, "--max-size")


@pytest.mark.parametrize("text", ["30", "30m", "30 days", "d", "-3d"])
def test_an_age_that_could_be_read_in_two_ways_is_refused(text):
    with pytest.raises(CacheError, match=r"--older-than takes a number and a unit \(min, h, d, w\) such as 30d, not"):
        parse_age(text, "--older-than")
