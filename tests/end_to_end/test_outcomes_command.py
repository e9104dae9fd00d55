"""`fewshot-bench outcomes` as a user types it, and what every other command says of imported accuracies."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fewshot_bench.cli.main import exit_code

EPISODES = 30
FLAG = "episodes claimed, not verified"
NOTE = "their identity is not verified"
TASK = ["--dataset", "cifar-fs", "--way", "5", "--shot", "1"]


@pytest.fixture
def table(tmp_path, monkeypatch) -> Path:
    """A CSV of two methods, in the folder where commands are typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    generator = np.random.default_rng(0)
    hard = generator.integers(20, 60, EPISODES)
    frame = pd.DataFrame(
        {"episode": range(EPISODES), "proto": hard + 4, "maml": hard + generator.integers(0, 4, EPISODES)}
    )
    frame[["proto", "maml"]] = 100 * frame[["proto", "maml"]] / 75
    frame["classes"] = [" ".join(map(str, generator.choice(12, 5, replace=False))) for _ in range(EPISODES)]
    frame.to_csv("acc.csv", index=False)
    return tmp_path / "acc.csv"


@pytest.fixture
def imported(table, capsys) -> Path:
    assert exit_code(["outcomes", "import", "acc.csv", *TASK]) == 0
    capsys.readouterr()
    return table.parent / "results"


def test_import_says_what_it_has_stored_that_it_is_claimed_and_what_comes_next(table, capsys):
    assert exit_code(["outcomes", "import", "acc.csv", *TASK]) == 0
    told = capsys.readouterr().out
    assert "30 episodes of proto, cifar-fs 5-way 1-shot claimed (acc)" in told
    assert NOTE in told
    assert "without a column 'classes'" not in told
    assert told.splitlines()[-1].split() == ["next", "fewshot-bench", "compare"]
    assert exit_code(["outcomes", "import", "acc.csv", *TASK, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert [(one["method"], one["episodes"], one["already_there"]) for one in record["imported"]] == [
        ("proto", 0, 30),
        ("maml", 0, 30),
    ]


SAYING_SO = {
    "compare of two": ["compare", "proto", "maml"],
    "compare of all": ["compare"],
    "compare as JSON": ["compare", "proto", "maml", "--json"],
    "leaderboard": ["leaderboard", "--baseline", "maml"],
    "leaderboard as JSON": ["leaderboard", "--json"],
    "power": ["power", "proto", "maml"],
    "power as JSON": ["power", "proto", "maml", "--json"],
    "audit": ["audit", "results"],
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SAYING_SO)
def test_every_command_says_that_the_episodes_are_claimed(what, imported, capsys):
    assert exit_code(SAYING_SO[what]) == (1 if what == "audit" else 0)  # an audit confirms nothing of these
    told = " ".join(capsys.readouterr().out.split())
    assert "claimed" in told
    assert "not verified" in told or "nothing verifies it" in told


@pytest.mark.slow
def test_every_file_says_that_the_episodes_are_claimed(imported, capsys):
    assert exit_code(["leaderboard", "--markdown", "table.md", "--latex", "table.tex"]) == 0
    assert exit_code(["report"]) == 0
    frame = pd.read_csv(imported / "leaderboard.csv")
    assert frame["flags"].str.contains(FLAG).all()
    assert frame["data_ci95"].notna().all()
    for name in ("table.md", "table.tex"):
        assert NOTE in Path(name).read_text()
    assert FLAG in (imported / "report.html").read_text()


def test_power_answers_beyond_the_split_where_a_file_has_the_classes(imported, table, capsys):
    assert exit_code(["power", "proto", "maml"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Beyond this split (other classes and images)" in told
    assert "class sizes" not in told
    pd.read_csv(table).drop(columns="classes").to_csv("bare.csv", index=False)
    assert exit_code(["outcomes", "import", "bare.csv", *TASK, "--results", "bare"]) == 0
    capsys.readouterr()
    assert exit_code(["power", "proto", "maml", "--results", "bare"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "Beyond the split: unknown, the classes of claimed episodes are unknown." in told
    assert "never" not in told


def test_audit_checks_the_parts_and_nothing_else(imported, capsys):
    assert exit_code(["audit", "results", "--json"]) == 1, "nothing is confirmed"
    for cell in json.loads(capsys.readouterr().out)["cells"]:
        verdicts = {finding["check"]: finding["verdict"] for finding in cell["findings"]}
        assert {check for check, verdict in verdicts.items() if verdict == "pass"} == {"description", "stored parts"}
        assert {verdicts[name] for name in ("tasks", "counts", "same predictions", "pretraining")} == {"not checked"}


def test_audit_fails_a_damaged_part(imported, capsys):
    part = next(imported.rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-1])
    assert exit_code(["audit", "results"]) == 2
    assert "stored parts" in capsys.readouterr().err


def test_reproduce_says_that_it_cannot(imported, capsys):
    assert exit_code(["reproduce", "proto"]) == 2
    error = capsys.readouterr().err
    assert "proto cannot be run again: its accuracies were imported" in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.slow
def test_status_and_the_store_take_imported_cells_as_any_other(imported, capsys):
    assert exit_code(["status"]) == 0
    assert "maml" in capsys.readouterr().out
    assert exit_code(["store", "compact"]) == 0
    assert exit_code(["store", "check"]) == 0
    assert "2 cells, all whole" in capsys.readouterr().out
    assert exit_code(["store", "merge", "results", "--results", "other"]) == 0
    assert exit_code(["compare", "--results", "other"]) == 0
    assert exit_code(["store", "prune", "maml", "--yes"]) == 0
    assert exit_code(["outcomes", "import", "acc.csv", *TASK]) == 0
    assert "30 episodes of maml" in capsys.readouterr().out


@pytest.mark.slow
def test_export_writes_a_table_that_import_takes(imported, capsys):
    assert exit_code(["compare", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["comparisons"][0]
    assert exit_code(["outcomes", "export", "all.csv", "--method", "proto", "--method", "maml"]) == 0
    assert "all.csv, 60 rows" in capsys.readouterr().out
    assert exit_code(["outcomes", "import", "all.csv", "--results", "again"]) == 0
    capsys.readouterr()
    assert exit_code(["compare", "--json", "--results", "again"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0] == expected


@pytest.mark.parametrize(
    "command",
    [
        ["compare", "other.csv"],
        ["compare", "proto", "other.csv"],
        ["compare", "proto", "--baseline", "other.csv"],
        ["power", "proto", "other.csv"],
    ],
)
def test_a_file_where_a_method_is_expected_answers_with_what_to_type(command, imported, capsys):
    assert exit_code(command) == 2
    error = capsys.readouterr().err
    assert "fewshot-bench outcomes import other.csv" in error
    assert len(error.splitlines()) == 1


REFUSED = {
    "no task": (["acc.csv"], "--dataset NAME --way N --shot K"),
    "no such file": (["nothing.csv", *TASK], "nothing.csv is not a file"),
    "another kind": (["acc.xlsx", *TASK], "is not a file"),
    "a way too large": (["acc.csv", "--dataset", "d", "--way", "70000", "--shot", "1"], "--way should be 1 to 65,535"),
    "no shot": (["acc.csv", "--dataset", "d", "--way", "5", "--shot", "0"], "--shot should be 1"),
    "a run below 0": (["acc.csv", *TASK, "--run", "-1"], "--run should be 0"),
    "a name of no letters": (["acc.csv", *TASK, "--tasks", " "], "not a name for the tasks"),
    "another method": (["acc.csv", *TASK, "--method", "none"], "no method 'none'"),
    "half of them damaged": (["acc.csv", "bad.csv", *TASK], "bad.csv: 'x' is 'text' in row 1"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_imported_is_one_line_and_exit_code_2_and_stores_nothing(kind, table, capsys):
    Path("bad.csv").write_text("x\ntext\n")
    arguments, message = REFUSED[kind]
    assert exit_code(["outcomes", "import", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("results").exists()


def test_export_of_nothing_is_refused(table, capsys):
    assert exit_code(["outcomes", "export", "all.csv"]) == 2
    assert "no such outcomes" in capsys.readouterr().err
    assert not Path("all.csv").exists()


@pytest.mark.slow
def test_a_csv_is_imported_without_torch(table):
    program = (
        "import sys; from fewshot_bench.cli.main import exit_code; "
        f"code = exit_code(['outcomes', 'import', 'acc.csv', *{TASK}]); "
        "sys.exit(code or ('torch' in sys.modules and 'torch was imported') or 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=table.parent)
