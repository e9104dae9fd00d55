"""The published numbers against what the paper prints."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "results"
COLUMNS = ["table", "backbone", "method", "dataset", "shot", "accuracy", "ci95", "source"]


def rows(number):
    with (RESULTS / "published" / f"schane-table{number}.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        return list(reader)


def accuracy(number, **wanted):
    (row,) = [row for row in rows(number) if all(row[key] == value for key, value in wanted.items())]
    return row["accuracy"], row["ci95"]


@pytest.mark.parametrize(("number", "count"), [(1, 7 * 4 * 2), (2, 4 * 8), (3, 4)])
def test_every_number_of_a_table_is_one_row(number, count):
    table = rows(number)
    assert len(table) == count
    assert len({(r["backbone"], r["method"], r["source"], r["dataset"], r["shot"]) for r in table}) == count
    for row in table:
        assert row["table"] == str(number)
        assert re.fullmatch(r"\d\d\.\d\d", row["accuracy"])
        assert re.fullmatch(r"0\.\d\d" if number == 1 else "", row["ci95"])
        assert row["shot"] in (("1", "5") if number == 1 else ("",) if number == 2 else ("1",))
        assert row["source"]


def test_each_benchmark_has_every_method_of_table_1():
    assert set(Counter((row["dataset"], row["shot"]) for row in rows(1)).values()) == {7}


@pytest.mark.parametrize(
    ("wanted", "printed"),
    [
        ({"method": "CE + SCHaNe", "dataset": "cifar-fs", "shot": "1"}, ("87.00", "0.70")),
        ({"method": "CE", "backbone": "BEiT-3", "dataset": "cifar-fs", "shot": "1"}, ("83.68", "0.80")),
        ({"method": "CE + SCHaNe", "dataset": "fc100", "shot": "5"}, ("87.06", "0.52")),
        ({"method": "CE", "backbone": "WRN-28-10", "dataset": "tieredimagenet", "shot": "5"}, ("85.55", "0.48")),
        ({"method": "Prototypical Networks", "dataset": "miniimagenet", "shot": "1"}, ("49.42", "0.78")),
        ({"method": "Distillation", "dataset": "tieredimagenet", "shot": "1"}, ("71.52", "0.69")),
        ({"method": "MetaOptNet", "dataset": "fc100", "shot": "1"}, ("41.10", "0.60")),
        ({"method": "Transductive fine-tuning", "dataset": "cifar-fs", "shot": "5"}, ("85.79", "0.50")),
    ],
)
def test_numbers_of_table_1(wanted, printed):
    assert accuracy(1, **wanted) == printed


def test_numbers_of_table_2():
    assert accuracy(2, method="CE + SCHaNe", dataset="imagenet-1k") == ("86.14", "")
    assert accuracy(2, backbone="BEiT-3", method="CE", dataset="cub-200-2011") == ("98.00", "")
    assert accuracy(2, backbone="ViT-B", dataset="inaturalist-2017") == ("65.26", "")


def test_numbers_of_table_3():
    assert [(row["method"], row["accuracy"]) for row in rows(3)] == [
        ("CE", "82.68"),
        ("CE + SimCLR", "73.99"),
        ("CE + SupCon", "85.32"),
        ("CE + SCHaNe", "87.00"),
    ]


def test_the_two_values_that_disagree_are_kept_and_pointed_out():
    first, _ = accuracy(1, method="CE", backbone="BEiT-3", dataset="cifar-fs", shot="1")
    third, _ = accuracy(3, method="CE")
    assert (first, third) == ("83.68", "82.68")
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert f"{first} in Table 1 and {third} in Table 3" in page
