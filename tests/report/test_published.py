"""The published numbers against what the paper prints."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from fewshot_bench.datasets.catalogue import DATASETS
from fewshot_bench.errors import OutcomeError
from fewshot_bench.report.published import (
    ACCURACY_COLUMNS,
    METRIC_COLUMNS,
    published_results,
    published_rows,
    read_table,
)

RESULTS = Path(__file__).parents[2] / "results"


def rows(number):
    with (RESULTS / "published" / f"schane-table{number}.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == (METRIC_COLUMNS if number == 4 else ACCURACY_COLUMNS)
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
        assert row["reported_in"] == "Long et al. 2023"


def test_only_rows_of_the_paper_itself_say_their_protocol():
    """It says how its own tasks were drawn, 3 runs of 3,000 with 15 queries, and nothing of those that it cites."""
    for row in rows(1) + rows(3):
        is_own = row["source"] == "Long et al. 2023"
        assert (row["episodes"], row["queries"]) == (("3000", "15") if is_own else ("", ""))
        assert (row["way"], row["split"]) == ("5", "novel")
    assert {(row["way"], row["episodes"], row["split"]) for row in rows(2)} == {("", "", "test")}


def test_each_benchmark_has_every_method_of_table_1():
    assert set(Counter((row["dataset"], row["shot"]) for row in rows(1)).values()) == {7}


@pytest.mark.parametrize(
    ("wanted", "printed"),
    [
        ({"method": "CE + SCHaNe", "dataset": "cifar-fs", "shot": "1"}, ("87.00", "0.70")),
        ({"method": "CE", "backbone": "BEiT-3", "dataset": "cifar-fs", "shot": "1"}, ("83.68", "0.80")),
        ({"method": "CE + SCHaNe", "dataset": "fc100", "shot": "5"}, ("87.06", "0.52")),
        ({"method": "CE", "backbone": "WRN-28-10", "dataset": "tiered-imagenet", "shot": "5"}, ("85.55", "0.48")),
        ({"method": "Prototypical Networks", "dataset": "mini-imagenet", "shot": "1"}, ("49.42", "0.78")),
        ({"method": "Distillation", "dataset": "tiered-imagenet", "shot": "1"}, ("71.52", "0.69")),
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


def test_numbers_of_table_4():
    table = {(row["method"], row["dataset"]): (row["metric"], row["value"]) for row in rows(4)}
    assert len(table) == 6
    assert table["CE", "imagenet-1k"] == ("isotropy", "0.2723")
    assert table["CE + SCHaNe", "inaturalist-2017"] == ("isotropy", "0.9827")
    assert table["CE + SCHaNe", "places365"] == ("isotropy", "0.9338")


@pytest.mark.parametrize(
    ("method", "backbone", "dataset", "measured_by"),
    [
        ("Prototypical Networks", "64-64-64-64", "cifar-fs", "Bertinetto et al. 2019"),
        ("Prototypical Networks", "64-64-64-64", "fc100", "Oreshkin et al. 2018"),
        (
            "Prototypical Networks",
            "64-64-64-64",
            "mini-imagenet",
            "Snell, Swersky, and Zemel 2017, trained on base + validation",
        ),
        (
            "Prototypical Networks",
            "64-64-64-64",
            "tiered-imagenet",
            "Liu et al. 2019, quoted by Lee et al. 2019, trained on base + validation",
        ),
        ("MetaOptNet", "ResNet-12", "cifar-fs", "Lee et al. 2019, ridge variant"),
        ("MetaOptNet", "ResNet-12", "fc100", "Lee et al. 2019, SVM variant"),
        ("MetaOptNet", "ResNet-12", "mini-imagenet", "Lee et al. 2019, SVM variant"),
        ("MetaOptNet", "ResNet-12", "tiered-imagenet", "Lee et al. 2019, SVM variant"),
        ("CE", "WRN-28-10", "fc100", "Dhillon et al. 2020"),
        ("Transductive fine-tuning", "WRN-28-10", "cifar-fs", "Dhillon et al. 2020"),
        ("Distillation", "ResNet-12", "mini-imagenet", "Tian et al. 2020"),
        ("CE", "BEiT-3", "cifar-fs", "Long et al. 2023"),
    ],
)
def test_a_number_is_credited_to_whoever_measured_it(method, backbone, dataset, measured_by):
    wanted = {"method": method, "backbone": backbone, "dataset": dataset}
    found = [row for row in rows(1) if all(row[key] == value for key, value in wanted.items())]
    assert [row["source"] for row in found] == [measured_by] * 2


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_dataset_is_called_as_in_the_registry(number):
    assert {row["dataset"] for row in rows(number)} <= set(DATASETS.names())


def test_published_rows_are_those_of_one_kind_of_task():
    found = published_rows("mini-imagenet", "novel", 5, 1)
    assert len(found) == 7
    (own,) = [row for row in found if row.method == "CE + SCHaNe"]
    assert (own.accuracy, own.half_width, own.episodes, own.queries) == (92.35, 0.53, 3000, 15)
    assert (own.backbone, own.source, own.table) == ("BEiT-3", "Long et al. 2023", "Long et al. 2023, Table 1")
    assert own.rounding == pytest.approx(0.005)
    (cited,) = [row for row in found if row.method == "Prototypical Networks"]
    assert cited.source == "Snell, Swersky, and Zemel 2017, trained on base + validation"
    assert cited.episodes is None
    assert published_rows("mini-imagenet", "validation", 5, 1) == []
    assert published_rows("mini-imagenet", "novel", 10, 1) == []
    assert len(published_rows("cifar-fs", "novel", 5, 1)) == 7 + 4, "with the ablation"


def test_all_accuracies_are_found_and_each_once():
    assert len(published_results()) == 56 + 32 + 4
    assert len(published_results(RESULTS)) == 56 + 32 + 4


HEADER = ",".join(ACCURACY_COLUMNS)
GOOD = "2,net,mine,glyphs,novel,5,1,15,61.5,0.4,600,Somebody 2024,Somebody 2024"


def own_table(folder, *lines, encoding="utf-8"):
    path = folder / "published" / "own.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes("\n".join((HEADER, *lines)).encode(encoding))
    return path


def test_a_users_own_tables_are_read_beside_the_papers(tmp_path):
    own_table(tmp_path, GOOD, "", GOOD, encoding="utf-8-sig")
    (row,) = published_rows("glyphs", "novel", 5, 1, results=tmp_path)
    assert (row.method, row.accuracy, row.half_width, row.episodes) == ("mine", 61.5, 0.4, 600)
    assert row.rounding == pytest.approx(0.05)
    assert published_rows("glyphs", "novel", 5, 1) == []


def with_cell(column, text):
    cells = dict(zip(ACCURACY_COLUMNS, GOOD.split(","), strict=True)) | {column: text}
    return ",".join(cells.values())


@pytest.mark.parametrize(
    ("column", "text", "expected"),
    [
        ("accuracy", "nan", "accuracy should be a number from 0 to 100, not 'nan'"),
        ("accuracy", "", "not ''"),
        ("accuracy", "101", "not '101'"),
        ("accuracy", "-1", "not '-1'"),
        ("accuracy", "1e1", "not '1e1'"),
        ("accuracy", "٤٢", "accuracy should be"),
        ("ci95", "inf", "ci95 should be a number from 0 to 100, or empty, not 'inf'"),
        ("episodes", "3000.0", "episodes should be a whole number of 2 or more, or empty"),
        ("episodes", "1", "episodes should be"),
        ("way", "five", "way should be"),
        ("shot", "0", "shot should be"),
        ("split", "query", "split should be one of base, train, validation, novel, test"),
        ("method", "", "method should be text"),
        ("method", "a\x1b[31mred", "method should be text"),
        ("source", "x" * 301, "source should be text"),
        ("method", '"a\nb"', "method should be text"),
        ("method", '"unfinished', "unexpected end of data"),
    ],
)
def test_garbage_is_refused_with_the_file_and_the_line(tmp_path, column, text, expected):
    path = own_table(tmp_path, GOOD, with_cell(column, text))
    with pytest.raises(OutcomeError, match=rf"line [34] of {re.escape(str(path))} .*{re.escape(expected)}"):
        published_results(tmp_path)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "its columns should be table, backbone"),
        (b"method,accuracy\nmine,50\n", "its columns should be table, backbone"),
        (f"{HEADER}\n{GOOD},more\n".encode(), "line 2 .* 14 fields instead of 13"),
        (f"{HEADER}\n{GOOD}\n\xff".encode("latin-1"), "line 3 .* not UTF-8"),
        (b"x" * 1_000_001, "it should have at most 1,000,000 bytes"),
        (",".join(METRIC_COLUMNS).encode() + b"\n1,n,m,d,isotropy,nan,s,r\n", "value should be a number"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, expected):
    path = tmp_path / "strange.csv"
    path.write_bytes(content)
    with pytest.raises(OutcomeError, match=expected):
        read_table(path)


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "published" / "folder.csv").mkdir(parents=True)
    with pytest.raises(OutcomeError, match="is a folder, and should be a regular file"):
        published_results(tmp_path)


def test_the_two_values_that_disagree_are_kept_and_pointed_out():
    first, _ = accuracy(1, method="CE", backbone="BEiT-3", dataset="cifar-fs", shot="1")
    third, _ = accuracy(3, method="CE")
    assert (first, third) == ("83.68", "82.68")
    page = (RESULTS / "README.md").read_text(encoding="utf-8")
    assert f"{first} in Table 1 and {third} in Table 3" in page
