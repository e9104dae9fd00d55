"""The published numbers against what the papers print."""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from fewshot_bench.datasets.catalogue import DATASETS
from fewshot_bench.errors import OutcomeError
from fewshot_bench.report.published import (
    ACCURACY_COLUMNS,
    METRIC_COLUMNS,
    OPTIONAL_COLUMNS,
    PublishedResult,
    published_for_recipe,
    published_results,
    published_rows,
    read_table,
)

RESULTS = Path(__file__).parents[2] / "results"


def rows(number):
    return rows_of(f"schane-table{number}", METRIC_COLUMNS if number == 4 else ACCURACY_COLUMNS)


def rows_of(name, required=ACCURACY_COLUMNS):
    with (RESULTS / "published" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames)[: len(required)] == required
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
    literature = [row for row in rows_of("literature") if (row["dataset"], row["shot"]) == ("mini-imagenet", "1")]
    assert len(found) == len(literature) + 2, "and the paper's own"
    (own,) = [row for row in found if row.method == "CE + SCHaNe"]
    assert (own.accuracy, own.half_width, own.episodes, own.queries) == (92.35, 0.53, 3000, 15)
    assert (own.backbone, own.source, own.table) == ("BEiT-3", "Long et al. 2023", "Long et al. 2023, Table 1")
    assert own.rounding == pytest.approx(0.005)
    (cited,) = [row for row in found if row.accuracy == 49.42]
    assert cited.source == "Snell, Swersky, and Zemel 2017, trained on base + validation"
    assert cited.episodes is None
    assert cited.flags == ["trained on base + validation"]
    assert published_rows("mini-imagenet", "validation", 5, 1) == []
    assert published_rows("mini-imagenet", "novel", 10, 1) == []


def test_all_accuracies_are_found_and_each_once():
    """40 numbers of the paper's Table 1 are also in the literature's, and one of Table 3 is in Table 1."""
    assert len(rows_of("literature")) == 190
    results = published_results()
    assert len(results) == 190 + 56 - 40 + 32 + 4 - 1
    assert published_results(RESULTS) == results
    printed = [
        (row.dataset, row.split, row.shot, row.backbone, row.accuracy, row.half_width)
        for row in results
        if row.half_width is not None
    ]
    assert [number for number, count in Counter(printed).items() if count > 1] == []


def test_a_number_that_two_papers_print_names_both_and_keeps_what_either_says():
    (ridge,) = [row for row in published_rows("cifar-fs", "novel", 5, 1) if row.accuracy == 72.6]
    assert (ridge.method, ridge.half_width, ridge.queries, ridge.recipe) == ("MetaOptNet-RR", 0.7, 15, "ridge-resnet12")
    assert ridge.table == "Lee et al. 2019, Table 2; Long et al. 2023, Table 1 as MetaOptNet"
    assert ridge.printed_by == f"Lee et al. 2019, ridge variant; {ridge.table}"
    assert not ridge.is_quoted
    assert "The ridge variant" in ridge.note
    (ours,) = [row for row in published_rows("cifar-fs", "novel", 5, 1) if row.accuracy == 87.0]
    assert (ours.half_width, ours.table) == (0.7, "Long et al. 2023, Table 1; Long et al. 2023, Table 3")


TWICE = PublishedResult("CE", "net", "glyphs", "novel", 5, 1, None, 60.0, 0.5, None, 0.05, "A 2020", "B 2023, Table 1")


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        ({"table": "C 2024"}, True),
        ({"table": "C 2024", "method": "cross-entropy", "queries": 15}, True),
        ({"method": "cross-entropy"}, False),  # two rows of one table are two numbers
        ({"table": "C 2024", "source": "D 2022"}, False),
        ({"table": "C 2024", "half_width": 0.6}, False),
        ({"table": "C 2024", "half_width": None}, True),
        ({"table": "C 2024", "half_width": None, "method": "cross-entropy"}, False),
        ({"table": "C 2024", "shot": 5}, False),
        ({"table": "C 2024", "backbone": "other"}, False),
        ({"table": "C 2024", "accuracy": 60.1}, False),
    ],
)
def test_a_number_is_the_same_where_measurer_task_and_interval_are(tmp_path, changed, is_same):
    (tmp_path / "published").mkdir()
    for name, row in (("a", TWICE), ("b", replace(TWICE, **changed))):
        reported_in, _, table = row.table.partition(", Table ")
        texts = {**asdict(row), "reported_in": reported_in, "table": table, "ci95": row.half_width}
        line = ",".join("" if texts[column] is None else str(texts[column]) for column in ACCURACY_COLUMNS)
        (tmp_path / "published" / f"{name}.csv").write_text(f"{HEADER}\n{line}\n", encoding="utf-8")
    found = [row for row in published_results(tmp_path) if row.dataset == "glyphs"]
    assert len(found) == (1 if is_same else 2)
    assert found[0].accuracy == 60.0


def test_the_two_numbers_without_intervals_of_one_table_stay_two():
    """TIM-ADM and TIM-GD report the same 5-shot accuracy of the same network."""
    tim = [row for row in published_rows("mini-imagenet", "novel", 5, 5) if row.accuracy == 85.0]
    assert {row.method for row in tim} == {"TIM-ADM", "TIM-GD"}


@pytest.mark.parametrize(
    ("dataset", "shot", "method", "backbone", "printed", "by"),
    [
        ("cifar-fs", 1, "Prototypical Networks", "64-64-64-64", (55.5, 0.7), "Bertinetto et al. 2019"),
        ("fc100", 5, "Prototypical Networks", "64-64-64-64", (48.6, 0.6), "Oreshkin et al. 2018"),
        ("cifar-fs", 5, "RFS-simple", "Conv4", (78.7, 0.5), "Tian et al. 2020"),
        ("fc100", 1, "Prototypical Networks", "Conv4", (35.9, 0.24), "PaddleFSL's re-run"),
        ("fc100", 5, "MetaOptNet-RR", "ResNet-12", (55.3, 0.6), "Lee et al. 2019, ridge variant"),
        ("cifar-fs", 1, "Support-based initialisation", "WRN-28-10", (70.26, 0.7), "Dhillon et al. 2020"),
        ("cifar-fs", 5, "ANIL", "Conv4", (68.6, None), "PaddleFSL's re-run"),
        ("tiered-imagenet", 5, "iLPC", "WRN-28-10", (92.46, 0.42), "Lazarou et al. 2021"),
        ("mini-imagenet", 1, "Baseline++", "Conv4", (48.24, 0.75), "Chen et al. 2019"),
    ],
)
def test_numbers_of_the_literature(dataset, shot, method, backbone, printed, by):
    (row,) = [
        row
        for row in published_rows(dataset, "novel", 5, shot)
        if (row.method, row.backbone) == (method, backbone) and row.source != "LibFewShot's re-run"
    ]
    assert (row.accuracy, row.half_width) == printed
    assert row.source == by


def test_published_transductive_methods_say_so():
    known = {row.method for row in published_results() if row.is_transductive}
    assert known == {
        "BD-CSPN", "LaplacianShot", "MAML", "PT-MAP", "TIM-ADM", "TIM-GD", "Transductive fine-tuning", "iLPC",
    }  # fmt: skip
    assert {row.method for row in published_results() if row.is_transductive is None and row.shot} == {
        "ANIL", "MAML", "Meta-SGD",
    }  # fmt: skip


def test_what_was_read_second_hand_says_so():
    quoted = {row.method for row in published_results() if row.is_quoted}
    assert {"RFS-simple", "RFS-distill", "BD-CSPN", "iLPC", "Baseline++", "SimpleShot CL2N"} <= quoted
    assert not quoted & {"MetaOptNet-SVM", "Fine-tuning", "LaplacianShot", "PT-MAP", "TIM-GD", "CE + SCHaNe"}


def test_a_recipe_has_one_number_of_its_own_authors_or_more_per_task():
    """The first number of a recipe on a task is the one that the leaderboard shows beside it."""
    first = {
        (recipe, row.dataset, row.shot): (row.accuracy, row.source)
        for recipe in ("protonet-conv4", "rfs-conv4", "beit3-ce", "beit3-ce-literal", "rfs-resnet12-distill")
        for row in published_for_recipe(recipe)
    }
    assert first["protonet-conv4", "mini-imagenet", 1] == (53.47, "Lee et al. 2019"), "on the base split alone"
    assert first["protonet-conv4", "cifar-fs", 5] == (72.0, "Bertinetto et al. 2019")
    assert first["rfs-conv4", "fc100", 5] == (53.5, "Tian et al. 2020")
    assert first["beit3-ce", "cifar-fs", 1] == first["beit3-ce-literal", "cifar-fs", 1] == (83.68, "Long et al. 2023")
    assert first["rfs-resnet12-distill", "mini-imagenet", 1] == (64.82, "Tian et al. 2020"), "not the re-run"
    assert published_for_recipe("rfs") == []


HEADER = ",".join(ACCURACY_COLUMNS)
OTHER = "2,net,other,glyphs,novel,5,1,15,61.5,0.4,600,Somebody 2024,Somebody 2024"
GOOD = "2,net,mine,glyphs,novel,5,1,15,61.5,0.4,600,Somebody 2024,Somebody 2024"


def own_table(folder, *lines, encoding="utf-8", more=""):
    path = folder / "published" / "own.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes("\n".join((HEADER + more, *lines)).encode(encoding))
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
    ("column", "text", "expected"),
    [
        ("is_transductive", "True", "is_transductive should be true, false or empty, not 'True'"),
        ("is_transductive", "1", "is_transductive should be true, false or empty"),
        ("is_quoted", "no", "is_quoted should be true, false or empty"),
        ("trained_on", "everything", "trained_on should be base, base + validation or empty"),
        ("recipe", "a\x1b[31mred", "recipe should be text"),
        ("adaptation", " centroid", "adaptation should be text"),
        ("note", "x" * 301, "note should be text of 1 to 300 printable characters, or empty"),
        ("note", '"a\nb"', "note should be text"),
    ],
)
def test_garbage_in_an_optional_column_is_refused_with_the_file_and_the_line(tmp_path, column, text, expected):
    path = own_table(tmp_path, f"{GOOD},", f"{GOOD},{text}", more=f",{column}")
    with pytest.raises(OutcomeError, match=rf"line [34] of {re.escape(str(path))} .*{re.escape(expected)}"):
        published_results(tmp_path)


def test_optional_columns_follow_in_any_order_and_may_be_empty(tmp_path):
    more = "note,is_transductive,recipe,adaptation,trained_on,is_quoted"
    assert set(more.split(",")) == set(OPTIONAL_COLUMNS)
    own_table(tmp_path, f"{GOOD},read twice,true,mine,tim,base,true", f"{OTHER},,,,,,", more=f",{more}")
    row, bare = published_rows("glyphs", "novel", 5, 1, results=tmp_path)
    assert (row.note, row.is_transductive, row.recipe, row.adaptation) == ("read twice", True, "mine", "tim")
    assert (row.trained_on, row.is_quoted, row.flags) == ("base", True, ["transductive"])
    assert bare.is_transductive is None


@pytest.mark.parametrize("more", [",note,note", ",surprise", ",", ",accuracy"])
def test_columns_that_no_table_has_are_refused(tmp_path, more):
    path = own_table(tmp_path, more=more)
    expected = rf"line 1 of {re.escape(str(path))} .*any of is_transductive, .* may follow"
    with pytest.raises(OutcomeError, match=expected):
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
    (noted,) = [row for row in rows(1) if row["accuracy"] == first and row["backbone"] == "BEiT-3"]
    assert noted["note"] == f"Table 3 prints {third} for the same cell"
    page = (RESULTS.parent / "docs" / "paper.md").read_text(encoding="utf-8")
    assert f"BEiT-3 with CE on CIFAR-FS at 1 shot: {first} and {third}" in page
