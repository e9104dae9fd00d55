"""A file of accuracies where stored results are expected: every command says how to import it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fewshot_bench.cli.main import exit_code


@pytest.mark.parametrize("name", ["other.csv", "Other.NPZ", "my accuracies.parquet"])
@pytest.mark.parametrize(
    "command",
    [
        ["compare"],
        ["compare", "centroid"],
        ["compare", "centroid", "--baseline"],
        ["compare", "--results"],
        ["power", "centroid"],
        ["power", "--results"],
        ["leaderboard"],
        ["leaderboard", "--results"],
        ["report"],
        ["report", "--results"],
        ["status"],
        ["status", "--results"],
        ["audit"],
        ["reproduce"],
        ["store", "merge"],
        ["store", "compact", "--results"],
    ],
    ids=" ".join,
)
def test_a_file_of_accuracies_is_told_from_results(
    command: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(b"episode,a,b\n0,1,0\n")
    assert exit_code([*command, name]) == 2
    quoted = f"'{name}'" if " " in name else name
    assert f"fewshot-bench outcomes import {quoted} --dataset NAME --way N --shot K" in capsys.readouterr().err


def test_another_file_is_no_folder_of_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("results")
    assert exit_code(["compare", "--results", "notes.txt"]) == 2
    assert "notes.txt is a file, not a folder of results. Name the folder." in capsys.readouterr().err
