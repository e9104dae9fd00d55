"""A study, setting or lock file of a stranger that is a pipe or a device, or stands for gigabytes: one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fewshot_bench.cli.main import exit_code

pytestmark = pytest.mark.slow


def _sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 20_000_000_000)


FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a link to a pipe": lambda path: (os.mkfifo("pipe"), path.symlink_to("pipe")),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a file of 20 GB of nothing": _sparse,
    "lists in lists": lambda path: path.write_text("a=" + "[" * 30_000),
    "no text": lambda path: path.write_bytes(b"\xff" * 100),
}
COMMANDS = (("run",), ("run", "--dry-run", "--setting"), ("episodes", "verify"))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("kind", FILES)
def test_it_is_refused_in_one_line_that_names_it(kind, command, tmp_path, home, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    FILES[kind](Path("file.toml"))
    assert exit_code([*command, "file.toml"]) == 2
    errors = capsys.readouterr().err.strip()
    assert errors.startswith("error: ")
    assert "file.toml" in errors
    assert len(errors.splitlines()) == 1


def test_a_link_to_a_study_file_is_followed(tmp_path, home, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("real.toml").write_text('datasets = ["glyphs"]\nbackbone = "conv4_32"\nbase_losses = []\n')
    Path("file.toml").symlink_to("real.toml")
    assert exit_code(["run", "file.toml", "--dry-run"]) == 0
