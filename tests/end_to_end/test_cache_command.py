"""`fewshot-bench cache`, as a user types it."""

from __future__ import annotations

import io
import json

import pytest
import torch

from fewshot_bench._io.tensors import write_tensors
from fewshot_bench.cli.main import exit_code
from fewshot_bench.units import bytes_text


@pytest.fixture
def names(home):
    """Two entries of two sizes; the names of what is left of them."""
    for number, name in enumerate(["first", "second"], start=1):
        path = home / "cache" / "embeddings" / f"{name}.safetensors"
        write_tensors(path, {"x": torch.zeros(number * 1000)}, {"what": f"embeddings called {name}\x1b[31m"})
    return lambda: sorted(path.stem for path in (home / "cache").rglob("*.safetensors"))


def test_a_list_says_what_size_when_and_the_total(names, home, capsys):
    assert exit_code(["cache", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "embeddings called first" in lines[0]
    assert "\x1b" not in lines[0]
    assert " kB  last used 20" in lines[0]
    total = sum(path.stat().st_size for path in (home / "cache").rglob("*.safetensors"))
    assert lines[-1] == f"2 entries, {bytes_text(total)} in {home / 'cache'}"


def test_the_list_as_json_adds_up(names, capsys):
    exit_code(["cache", "ls", "--json"])
    listed = json.loads(capsys.readouterr().out)
    assert listed["bytes"] == sum(entry["bytes"] for entry in listed["entries"]) > 12000
    assert {entry["name"] for entry in listed["entries"]} == {
        "embeddings/first.safetensors", "embeddings/second.safetensors"
    }  # fmt: skip


def test_an_empty_cache_is_no_error(capsys):
    assert exit_code(["cache", "ls"]) == exit_code(["cache", "clear"]) == 0
    assert "removed 0 entries, 0 bytes; left 0 entries, 0 bytes" in capsys.readouterr().out


def test_everything_goes_only_when_somebody_says_yes(names, capsys, monkeypatch):
    assert exit_code(["cache", "clear"]) == 2
    assert "add --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer, left in [("n", ["first", "second"]), ("y", [])]:
        monkeypatch.setattr("typer.confirm", lambda question, answer=answer, **_: answer == "y")
        assert exit_code(["cache", "clear"]) == 0
        assert names() == left


@pytest.mark.parametrize("answer", ["n", "y"])
def test_the_question_is_no_part_of_the_json(names, capsys, monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{answer}\n"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert exit_code(["cache", "clear", "--json"]) == 0
    told = capsys.readouterr()
    assert "embeddings called first" in told.err
    assert "Remove all 2 entries" in told.err
    if answer == "n":
        assert not told.out.strip()
    else:
        assert len(json.loads(told.out)["removed"]) == 2


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--yes"], []),
        (["called first"], ["second"]),
        (["--max-size", "10KB"], ["second"]),
        (["--max-size", "1MB"], ["first", "second"]),
        (["--older-than", "1d"], ["first", "second"]),
        (["--older-than", "0d", "second*"], ["first"]),
    ],
)
def test_options_say_what_goes(names, capsys, options, left):
    assert exit_code(["cache", "clear", *options]) == 0
    assert names() == left
    assert f"left {len(left)} entr" in capsys.readouterr().out


def test_what_went_is_told_as_json(names, capsys):
    exit_code(["cache", "clear", "first", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert {group: [entry["name"] for entry in entries] for group, entries in told.items()} == {
        "removed": ["embeddings/first.safetensors"], "left_alone": [], "left": ["embeddings/second.safetensors"]
    }  # fmt: skip


@pytest.mark.parametrize(("option", "text"), [("--max-size", "10"), ("--older-than", "30m")])
def test_a_bound_that_cannot_be_read_removes_nothing(names, capsys, option, text):
    assert exit_code(["cache", "clear", option, text]) == 2
    assert f"error: {option} takes a number and a unit" in capsys.readouterr().err
    assert names() == ["first", "second"]
