"""Pipes, sockets, devices, folders and links where a stored file or folder should be: one line; nothing is opened."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from toy_cells import CELL, filled

from fewshot_bench._io.storage import files_under, is_unchanged_for, read_bytes, remove_abandoned
from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import IrregularFileError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.leases import EpisodeRange, Leases
from fewshot_bench.outcomes.study_log import PlannedCell, StudyRecord

pytestmark = pytest.mark.slow

RANGE = EpisodeRange(0, 20, 25)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # their names are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


def link(*target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(Path(*target) if target else path)


KINDS: dict[str, Callable[[Path], None]] = {
    "a pipe": pipe,
    "a socket": bound_socket,
    "a folder": Path.mkdir,
    "a link to a device": link("/dev/zero"),
    "a link to the root": link("/"),
    "a link to nothing": link("/nowhere/at/all"),
    "a link to itself": link(),
    "a link out": lambda path: path.symlink_to(path.parents[5] / "outside.json"),
    "a link to a folder out": lambda path: path.symlink_to(path.parents[5] / "outside"),
}
KEY = CELL.key
FILES = {
    "cell": f"outcomes/{KEY}/cell.json",
    "part": f"outcomes/{KEY}/run=0/episodes-00000-00012-0123456789abcdef.parquet",
    "part of all runs": f"outcomes/{KEY}/together-0123456789abcdef.parquet",
    "failure": f"outcomes/{KEY}/failures/run=0-episodes-00020-00025.json",
    "study": "studies/0123456789abcdef.json",
}
FOLDERS = {
    "outcomes": "outcomes",
    "cell": f"outcomes/{KEY}",
    "run": f"outcomes/{KEY}/run=0",
    "failures": f"outcomes/{KEY}/failures",
    "studies": "studies",
}
COMMANDS = {
    "leaderboard": ["leaderboard"],
    "status": ["status"],
    "check": ["store", "check"],
    "merge": ["store", "merge", "results", "--results", "merged"],
    "export": ["outcomes", "export", "all.csv"],
    "audit": ["audit", "results", "--episodes", "0", "--device", "cpu", "--json"],
}
EACH = [
    *((kind, command) for kind in KINDS for command in ("leaderboard", "check", "status")),
    *((kind, command) for kind in ("a pipe", "a folder", "a link out") for command in ("merge", "export", "audit")),
]
LEAVE_OUT = {
    *((command, "study") for command in ("leaderboard", "check", "merge", "export", "audit")),
    *((command, "studies") for command in ("leaderboard", "check", "merge", "export", "audit")),
    *((command, "failure") for command in ("export", "audit")),
    *((command, "failures") for command in ("export", "audit")),
}
"""What a command does not look at."""


@pytest.fixture
def results(tmp_path, monkeypatch) -> Iterator[Path]:
    """Results of one cell and one study, six folders below where other things lie; whatever hangs is stopped."""
    folder = tmp_path / "a" / "b" / "c" / "d" / "e"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside.json").write_text("{}")
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "1000")
    store = filled(OutcomeStore(folder / "results" / "outcomes"))
    store.record_failure(CELL, 0, np.arange(20, 25), "out of memory")
    record = StudyRecord(folder / "results", (PlannedCell("toy", CELL.protocol.task, CELL.method.name, 2, 12),))
    record.write()
    record.cells_known([CELL])

    def hangs(*_: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(60)
    yield folder / "results"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def put(path: Path, kind: str) -> None:
    """Something else in the place of a file or a folder."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind](path)


def says(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    more = [] if command in ("merge", "audit") else ["--results", "results"]
    code = exit_code([*COMMANDS[command], *more])
    told = capsys.readouterr()
    assert len(told.err.strip().splitlines()) <= 1
    return code, told.out + told.err


@pytest.mark.parametrize(("kind", "command"), EACH)
@pytest.mark.parametrize("place", FILES)
def test_no_command_opens_what_is_no_regular_file(results, capsys, place, kind, command):
    if (command, place) in LEAVE_OUT:
        pytest.skip("it does not look there")
    path = results / FILES[place]
    put(path, kind)
    code, told = says(command, capsys)
    assert path.name in told
    assert code in ((0,) if command == "status" else (1, 2))


@pytest.mark.parametrize(("kind", "command"), [one for one in EACH if one[0] != "a folder"])
@pytest.mark.parametrize("place", FOLDERS)
def test_no_command_enters_what_is_no_folder(results, capsys, place, kind, command):
    if (command, place) in LEAVE_OUT:
        pytest.skip("it does not look there")
    path = results / FOLDERS[place]
    put(path, kind)
    code, told = says(command, capsys)
    assert path.name in told or "there are no outcomes" in told
    assert code in ((0, 2) if command == "status" else (1, 2))
    assert "outside" not in told.replace("outside of", "")


@pytest.mark.parametrize("kind", KINDS)
def test_a_lease_that_is_none_says_of_no_holder(results, kind):
    leases = Leases(results / "outcomes" / KEY, expiry=0.0)
    path = leases.place(RANGE, 0)
    put(path, kind)
    assert list(leases.owners().values()) == [""]
    assert leases.take(RANGE) is None  # seen for the first time
    assert leases.take(RANGE) is not None
    leases.release_all()
    leases.clean()
    assert kind == "a folder" or not os.path.lexists(path)


@pytest.mark.parametrize("kind", KINDS)
def test_unfinished_content_that_is_none_is_left_alone(results, kind):
    path = results / "outcomes" / KEY / ".cell.json.0123456789ab-17-4711-00ff.tmp"
    put(path, kind)
    assert not is_unchanged_for(path, 0)
    remove_abandoned(results / "outcomes")
    assert stat.S_IFMT(path.lstat().st_mode) != stat.S_IFREG


@pytest.mark.parametrize("kind", KINDS)
def test_reading_names_what_is_there(results, kind):
    path = results / "outcomes" / KEY / "cell.json"
    put(path, kind)
    with pytest.raises(IrregularFileError, match=r"cell\.json is a (link|folder|named pipe|socket), and should be a "):
        read_bytes(path)


def test_the_results_folder_may_itself_be_a_link(results, capsys):
    (results.parent / "link").symlink_to(results)
    for command in (["leaderboard"], ["store", "check"], ["status"]):
        assert exit_code([*command, "--results", "link"]) == 0
    assert exit_code(["audit", "link", "--episodes", "0"]) == 1, "it is not confirmed"
    assert exit_code(["store", "merge", "link", "--results", "merged"]) == 0
    (results.parent / "cell").symlink_to(results / "outcomes" / KEY)
    assert exit_code(["audit", "cell", "--episodes", "0"]) == 1
    capsys.readouterr()


def test_no_more_is_read_than_a_file_has_when_it_is_opened(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    sizes = os.fstat

    def grows(number: int) -> os.stat_result:
        found = sizes(number)
        with path.open("ab") as file:
            file.write(b"6" * 100)
        return found

    monkeypatch.setattr("os.fstat", grows)
    assert len(read_bytes(path)) <= 105  # as it was the second time it was asked
    assert files_under(tmp_path) == ["file"]
