"""`fewshot-bench leaderboard` as a user types it, and the tables for papers that it writes."""

from __future__ import annotations

import csv
import json

import pytest
from stored_cells import study

from fewshot_bench.cli.main import exit_code

pytestmark = pytest.mark.slow

CE, SCHANE, LOGISTIC = "conv/ce/centroid", "conv/ce+schane/centroid", "conv/ce/logistic"


@pytest.fixture
def results(tmp_path):
    study(tmp_path / "results" / "outcomes")
    return tmp_path / "results"


def methods_in(path):
    with path.open(encoding="utf-8", newline="") as file:
        return {row["method"] for row in csv.DictReader(file) if row["source"] == "measured"}


def leaderboard(results, *options):
    return exit_code(["leaderboard", "--results", str(results), *map(str, options)])


def test_labels_are_in_every_table_and_names_in_the_csv(results, tmp_path, capsys):
    options = ["--label", "schane=Ours_1", "--label", f"{CE}=Base", "--baseline", CE]
    assert leaderboard(results, *options, "--markdown", tmp_path / "t.md", "--latex", tmp_path / "t.tex") == 0
    printed = capsys.readouterr().out
    assert "Ours_1" in printed
    assert "against Base, paired t-test" in printed
    assert SCHANE not in printed
    assert r"| Ours\_1 |" in (tmp_path / "t.md").read_text(encoding="utf-8")
    assert r"Ours\_1 & " in (tmp_path / "t.tex").read_text(encoding="utf-8")
    assert methods_in(results / "leaderboard.csv") == {CE, SCHANE, LOGISTIC}


def test_labels_leave_json_its_names(results, capsys):
    assert leaderboard(results, "--label", "schane=Ours", "--json") == 0
    methods = {row["method"] for row in json.loads(capsys.readouterr().out)}
    assert SCHANE in methods
    assert "Ours" not in methods


@pytest.mark.parametrize(
    ("plus_minus", "widths", "words"),
    [
        ("task", 1, "over the episodes of the median run"),
        ("both", 2, "First ±"),
        ("data", 1, "over episodes, classes and images"),
        ("none", 0, "their mean accuracy in %. Bold"),
    ],
)
def test_plus_minus_decides_what_stands_beside_a_number(results, tmp_path, plus_minus, widths, words):
    path = tmp_path / "t.md"
    assert leaderboard(results, "--no-published", "--markdown", path, "--plus-minus", plus_minus) == 0
    text = path.read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| conv")]
    assert [row.count("±") for row in rows] == [2 * widths] * 3
    assert words in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--label", "schane"], "a label is given as METHOD=LABEL, not 'schane'."),
        (["--label", "scane=Ours"], "there is no method called 'scane'."),
        (["--label", "conv=Ours"], "'conv' fits 3 methods"),
        (["--label", f"schane={CE}"], f"would be called '{CE}': "),
        (["--plus-minus", "sd"], "--plus-minus takes task, data, both, none, not 'sd'."),
        (["--claim", "here"], "--claim takes beyond, split, not 'here'."),
    ],
)
def test_what_cannot_be_is_one_line_and_no_table_is_written(results, tmp_path, capsys, options, words):
    assert leaderboard(results, *options, "--no-published", "--markdown", tmp_path / "t.md") == 2
    errors = capsys.readouterr().err
    assert words in " ".join(errors.replace("│", " ").split())
    assert "Traceback" not in errors
    assert not (tmp_path / "t.md").exists()
