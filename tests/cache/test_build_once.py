"""Real processes that want the same entry of the cache."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fewshot_bench._io.storage import write_atomically
from fewshot_bench.cache import build_once, cache_entries, clear_cache
from fewshot_bench.errors import CacheError
from fewshot_bench.progress import SILENT

MAKER = Path(__file__).with_name("maker.py")
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def entry(home: Path) -> Path:
    return home / "cache" / "embeddings" / "0123.safetensors"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    processes: list[subprocess.Popen[str]] = []

    def start(entry: Path, name: str, most_bytes: int = 0) -> subprocess.Popen[str]:
        command = [sys.executable, str(MAKER), str(entry), str(tmp_path), name, str(most_bytes)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path.name
        time.sleep(0.01)


def answer(process: subprocess.Popen[str]) -> tuple[str, str]:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output.strip(), errors


@pytest.mark.slow
def test_of_two_processes_one_makes_and_the_other_says_that_it_waits(entry, start, tmp_path):
    first = start(entry, "first")
    wait_for(tmp_path / "first.makes")
    second = start(entry, "second")
    wait_for(tmp_path / "second.waits")
    (tmp_path / "go").touch()
    assert [answer(process) for process in (first, second)] == [("7000", "")] * 2
    assert not (tmp_path / "second.makes").exists()
    assert (tmp_path / "second.waits").read_text() == "waiting for another process: seven letters"


@pytest.mark.slow
def test_who_waits_makes_it_when_the_other_is_killed(entry, start, tmp_path):
    first = start(entry, "first")
    wait_for(tmp_path / "first.makes")
    second = start(entry, "second")
    wait_for(tmp_path / "second.waits")
    first.kill()
    wait_for(tmp_path / "second.makes")
    (tmp_path / "go").touch()
    assert answer(second) == ("7000", "")
    assert entry.read_bytes() == b"content" * 1000


def test_a_full_disk_costs_one_line_and_nothing_else(entry, start, tmp_path):
    (tmp_path / "go").touch()
    output, errors = answer(start(entry, "alone", most_bytes=100))
    assert output == "7000"
    assert errors.count("\n") == 1
    assert "seven letters: not stored in" in errors
    assert "File too large" in errors
    assert cache_entries() == []


def test_a_folder_that_cannot_be_made_costs_one_line_and_nothing_else(entry, start, home, tmp_path):
    home.write_text("no folder")
    (tmp_path / "go").touch()
    output, errors = answer(start(entry, "alone"))
    assert output == "7000"
    assert errors.count("\n") == 1
    assert "Not a directory" in errors


@pytest.mark.skipif(os.geteuid() == 0, reason="file permissions do not bind root")
def test_a_folder_that_cannot_be_written_to_is_read(entry, start, tmp_path):
    (tmp_path / "go").touch()
    answer(start(entry, "first"))
    entry.parent.chmod(0o500)
    assert answer(start(entry, "second")) == ("7000", "")
    assert not (tmp_path / "second.makes").exists()
    output, errors = answer(start(entry.with_name("other.safetensors"), "third"))
    entry.parent.chmod(0o700)
    assert (output, errors.count("\n")) == ("7000", 1)


def test_clearing_leaves_alone_what_another_process_is_making(entry, start, tmp_path):
    start(entry, "first")
    wait_for(tmp_path / "first.makes")
    entry.write_bytes(b"of another version")
    unfinished = entry.with_name(f".{entry.name}.abcd.tmp")
    unfinished.write_bytes(b"half")
    os.utime(unfinished, (0, 0))
    everything = cache_entries()
    cleared = clear_cache(everything)
    assert cleared.removed == []
    assert {item.path: reason for item, reason in cleared.left_alone} == dict.fromkeys(
        [entry, unfinished], "in use by another process"
    )
    assert entry.exists()
    assert unfinished.exists()
    assert entry.with_name(f".{entry.name}.lock").exists()


def keep(entry: Path, content: bytes) -> bytes:
    return build_once(entry, "", read=Path.read_bytes, build=lambda: content, write=write_atomically, progress=SILENT)


def test_the_cache_keeps_the_bound_that_the_environment_names(entry, monkeypatch):
    for number in range(3):
        keep(entry.with_name(f"{number}.safetensors"), bytes(400))
        os.utime(entry.with_name(f"{number}.safetensors"), (number + 1, number + 1))
    keep(entry.with_name("0.safetensors"), b"is there already, and now the last that was used")
    monkeypatch.setenv("FEWSHOT_BENCH_CACHE_SIZE", "1KB")
    keep(entry, bytes(200))
    assert [item.path.name for item in cache_entries()] == ["2.safetensors", "0.safetensors", entry.name]


def test_what_is_larger_than_the_bound_is_not_kept_and_drives_nothing_out(entry, monkeypatch):
    keep(entry, bytes(500))
    monkeypatch.setenv("FEWSHOT_BENCH_CACHE_SIZE", "1KB")
    assert len(keep(entry.with_name("large.safetensors"), bytes(1001))) == 1001
    assert [item.path for item in cache_entries()] == [entry]


def test_a_bound_that_cannot_be_read_is_said_before_anything_is_made(entry, monkeypatch):
    monkeypatch.setenv("FEWSHOT_BENCH_CACHE_SIZE", "much")
    with pytest.raises(CacheError, match=r"FEWSHOT_BENCH_CACHE_SIZE takes a number and a unit .* not 'much'"):
        build_once(entry, "", read=Path.read_bytes, build=pytest.fail, write=write_atomically, progress=SILENT)


def test_the_bound_is_kept_while_another_entry_is_being_made(entry, monkeypatch):
    monkeypatch.setenv("FEWSHOT_BENCH_CACHE_SIZE", "1KB")
    inner = entry.with_name("inner.safetensors")

    def make() -> bytes:
        keep(inner, bytes(900))
        return bytes(800)

    content = build_once(entry, "", read=Path.read_bytes, build=make, write=write_atomically, progress=SILENT)
    assert content == bytes(800)
    assert [item.path for item in cache_entries()] == [entry]


def test_a_bound_removes_embeddings_and_no_network(entry, monkeypatch):
    network = entry.parent.parent / "checkpoints" / "trained.safetensors"
    keep(network, bytes(900))
    os.utime(network, (1, 1))
    monkeypatch.setenv("FEWSHOT_BENCH_CACHE_SIZE", "1KB")
    keep(entry.with_name("other.safetensors"), bytes(90))
    keep(entry, bytes(50))
    assert {item.path for item in cache_entries()} == {network, entry}
