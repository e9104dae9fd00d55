"""Whatever happens to a disk, a clock or a process: one clear line, nothing is lost, and a later run completes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.leases import EXPIRY_VARIABLE, EpisodeRange, Leases

pytestmark = pytest.mark.slow

EPISODES, CHUNK = 60, 5
STUDY = [
    *("run", "--device", "cpu", "--base-loss", "none", "--adapt", "toy_adaptations:Slow", "--shots", "1"),
    *("--runs", "1", "--episodes", str(EPISODES), "--chunk", str(CHUNK)),
]
ELSEWHERE = "0123456789ab-17-4711"
SECOND = {EXPIRY_VARIABLE: "1"}


class Bench:
    """Runs one small study, and knows how it ends where nothing happens."""

    def __init__(self, forks, folder: Path) -> None:
        self.forks, self.folder, self.home = forks, folder, folder / "home"
        self.undisturbed = folder / "undisturbed"
        self._started = 0

    def start(self, results: Path, *more: str, study=STUDY, environment=None, before: str = ""):
        """A process; its log says what it prints."""
        from chaos_kills import Life

        self._started += 1
        log = self.folder / f"log-{self._started}"
        variables = {"FEWSHOT_BENCH_HOME": str(self.home), "FORCE_COLOR": "1", "COLUMNS": "160", **(environment or {})}
        arguments = [*study, "--results", str(results), *more]
        return Life(self.forks.start(arguments, log, variables, before), log)

    def completes(self, results: Path, *, is_raw: bool = True) -> None:
        """A run that nothing happens to ends well, and as one that nothing ever happened to."""
        from chaos_compare import compared

        last = self.start(results)
        assert last.ends() == 0, last.words()
        found = compared(results, self.undisturbed)
        if not is_raw:
            found.twice.clear()
        assert not found, found


@pytest.fixture(scope="module")
def bench(forks, tmp_path_factory) -> Bench:
    made = Bench(forks, tmp_path_factory.mktemp("bench"))
    assert made.start(made.undisturbed).ends() == 0
    return made


@pytest.fixture
def results(tmp_path) -> Path:
    return tmp_path / "results"


def stored(results: Path) -> set[int]:
    store = OutcomeStore(results / "outcomes")
    return {int(number) for cell in store.cells() for number in store.read(cell)["episode"]}


def parts(results: Path) -> list[Path]:
    return sorted(path for path in results.rglob("*.parquet") if not path.name.startswith("."))


def wait_until(condition: Callable[[], object], life) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert life.process.poll() is None, life.words()
        assert time.monotonic() < deadline, life.words()
        time.sleep(0.005)


def the_line(life) -> str:
    """The one line that says what is wrong."""
    words = life.words()
    assert "Traceback" not in words, words
    (line,) = [line for line in words.splitlines() if line.startswith("error: ")]
    return line


def cell_folder(results: Path) -> Path:
    (folder,) = [path for path in (results / "outcomes").iterdir() if path.is_dir()]
    return folder


# A disk that is full, read-only, or gone.


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small disk in memory with options, again with others; needs root."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(options, capture_output=True, check=False).returncode != 0:
        pytest.skip("a file system can be mounted by root alone, and not in every container")

    def remounted(options: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)
        return place / "results"

    yield remounted
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_full(bench, disk):
    results = disk("size=40k")
    life = bench.start(results)
    assert life.ends() == 2, life.words()
    assert "No space left on device" in the_line(life)
    assert str(results) in the_line(life)
    before = stored(results)
    assert 0 < len(before) < EPISODES
    disk("size=64m")
    bench.completes(results)


def test_a_folder_that_is_read_only(bench, disk):
    results = disk("size=64m")
    assert bench.start(results, "--episodes", "20").ends() == 0
    before = {path: path.read_bytes() for path in parts(results)}
    disk("ro")
    life = bench.start(results)
    assert life.ends() == 2
    assert str(results) in the_line(life)
    assert {path: path.read_bytes() for path in parts(results)} == before
    disk("rw")
    bench.completes(results)
    assert before.items() <= {path: path.read_bytes() for path in parts(results)}.items()


@pytest.mark.parametrize(
    ("fault", "finding"),
    [
        ("disk_is_full_after_a_while", "No space left on device"),
        ("flush_fails_after_a_while", "Input/output error"),
        ("rename_fails_after_a_while", "Stale file handle"),
        ("nothing_can_be_opened_after_a_while", "Connection timed out"),
        ("files_stay_small", "File too large"),
    ],
)
def test_what_a_disk_may_answer(bench, results, fault, finding):
    life = bench.start(results, before=f"faults:{fault}")
    assert life.ends() == 2, life.words()
    assert finding in the_line(life)
    assert "results" in the_line(life)
    assert "Delete" not in the_line(life), "what cannot be reached is not damaged"
    before = {path: path.read_bytes() for path in parts(results)}
    assert before
    bench.completes(results)
    assert before.items() <= {path: path.read_bytes() for path in parts(results)}.items()


@pytest.mark.parametrize("stays", [False, True], ids=["folder", "mount point"])
def test_a_folder_that_is_gone_in_mid_run(bench, results, stays):
    life = bench.start(results)
    wait_until(lambda: len(parts(results)) >= 3, life)
    away = results.with_name("away")
    results.rename(away)
    if stays:
        results.mkdir()
    assert life.ends() == 2, life.words()
    assert str(results) in the_line(life)
    assert len(stored(away)) < EPISODES
    shutil.rmtree(results, ignore_errors=True)
    away.rename(results)
    bench.completes(results)


# Files that are not as they were written.


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip, lambda path: path.write_bytes(b"")], ids=["cut", "flipped", "empty"])
def test_a_part_that_is_damaged(bench, results, damage):
    shutil.copytree(bench.undisturbed, results)
    damaged = parts(results)[3]
    damage(damaged)
    before = {path: path.read_bytes() for path in parts(results)}
    life = bench.start(results)
    assert life.ends() == 2
    assert f"{damaged} are damaged" in the_line(life)
    assert "Delete that file and run again" in the_line(life)
    assert {path: path.read_bytes() for path in parts(results)} == before
    damaged.unlink()
    bench.completes(results)
    assert {path: content for path, content in before.items() if path != damaged}.items() <= {
        path: path.read_bytes() for path in parts(results)
    }.items()


def test_a_manifest_of_a_later_version(bench, results):
    shutil.copytree(bench.undisturbed, results)
    manifest = cell_folder(results) / "cell.json"
    original = manifest.read_bytes()
    manifest.write_text(json.dumps({**json.loads(original), "format": 1_000}))
    parts(results)[0].unlink()
    before = {path: path.read_bytes() for path in (results / "outcomes").rglob("*") if path.is_file()}
    life = bench.start(results)
    assert life.ends() == 2
    assert str(manifest) in the_line(life)
    assert "later" in the_line(life)
    assert {path: path.read_bytes() for path in (results / "outcomes").rglob("*") if path.is_file()} == before
    manifest.write_bytes(original)
    bench.completes(results)


# Leases of others, and clocks.


def lease_of(holder: str, results: Path) -> Path:
    """The lease that a process left for the third chunk."""
    path = Leases(cell_folder(results)).place(EpisodeRange(0, 2 * CHUNK, 3 * CHUNK), 0)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"owner": holder, "token": "ab" * 8, "beat": "000000000001"}))
    return path


@pytest.fixture
def begun(bench, results) -> Path:
    """Results of the study's first chunks."""
    assert bench.start(results, "--episodes", str(2 * CHUNK)).ends() == 0
    return results


def test_a_lease_of_a_process_that_was_killed_here(bench, begun):
    life = bench.start(begun, "--episodes", str(3 * CHUNK), environment=SECOND)
    lease = lambda: list(begun.rglob("*.lease"))  # noqa: E731  # a claim that is looked at again and again
    wait_until(lease, life)
    life.kill()
    left = lease()
    assert left, "it was killed while it held one"
    bench.completes(begun)
    assert lease() == []


def test_a_lease_of_a_machine_that_is_gone_and_a_clock_that_goes_back(bench, begun):
    path = lease_of(ELSEWHERE, begun)
    os.utime(path, (1 << 33, 1 << 33))
    life = bench.start(begun, environment=SECOND, before="faults:clock_goes_back_and_leases_expire_by_waiting")
    assert life.ends() == 0, life.words()
    assert "waiting for other processes" in life.words()
    bench.completes(begun)


def test_files_from_the_future(bench, begun):
    for path in begun.rglob("*"):
        os.utime(path, (1 << 33, 1 << 33))
    bench.completes(begun)


def test_a_process_that_was_stopped_for_longer_than_its_leases_last(bench, results):
    stopped = bench.start(results, "--set", "nap=0.05", environment=SECOND)
    wait_until(lambda: len(parts(results)) >= 2 and list(results.rglob("*.lease")), stopped)
    os.kill(stopped.process.pid, signal.SIGSTOP)
    other = bench.start(results, "--set", "nap=0.05", environment=SECOND)
    assert other.ends() == 0, other.words()
    assert stored(results) == set(range(EPISODES))
    os.kill(stopped.process.pid, signal.SIGCONT)
    assert stopped.ends() == 0, stopped.words()
    frames = [OutcomeStore(folder / "outcomes") for folder in (results, bench.undisturbed)]
    accuracies = [[store.read(cell)["accuracy"].tolist() for cell in store.cells()] for store in frames]
    assert accuracies[0] == accuracies[1]
    assert list(results.rglob("*.lease")) == []


# Signals.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_waits_for_others(bench, begun, number):
    lease = lease_of(ELSEWHERE, begun)
    life = bench.start(begun)
    wait_until(lambda: "waiting for other processes" in life.words(), life)
    assert stored(begun) == set(range(EPISODES)) - set(range(2 * CHUNK, 3 * CHUNK))
    os.kill(life.process.pid, number)
    assert life.ends() == 128 + number, life.words()
    assert life.words().count("run the same command again to resume") == 1
    assert "Traceback" not in life.words()
    assert list(begun.rglob("*.lease")) == [lease], "those of others stay"
    lease.unlink()
    bench.completes(begun)


def test_a_second_interrupt_while_it_stops(bench, results):
    life = bench.start(results)
    wait_until(lambda: len(parts(results)) >= 2, life)
    for _ in range(3):
        life.process.send(signal.SIGINT)
        time.sleep(0.002)
    assert life.ends() == 130, life.words()
    assert "Traceback" not in life.words()
    bench.completes(results)


def test_a_signal_during_the_training_of_a_base_stage(bench, results, tmp_path):
    study = [word if word != "none" else "ce" for word in STUDY]
    environment = {"FEWSHOT_BENCH_HOME": str(tmp_path / "home")}
    life = bench.start(results, "--base-epochs", "5", study=study, environment=environment)
    wait_until(lambda: life.at() == "training", life)
    life.process.send(signal.SIGTERM)
    assert life.ends() == 143, life.words()
    locks = list((tmp_path / "home").rglob("*.lock"))
    assert locks
    for lock in locks:
        with FileLock(lock, timeout=0):
            pass
    left = [path for path in (tmp_path / "home" / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert left == []


def test_a_terminal_that_is_closed_loses_nothing(bench, results):
    life = bench.start(results)
    wait_until(lambda: len(parts(results)) >= 2, life)
    os.kill(life.process.pid, signal.SIGHUP)
    assert life.ends() == 129, life.words()
    assert 0 < len(stored(results)) < EPISODES
    assert list(results.rglob("*.lease")) == []
    bench.completes(results)


def test_a_command_of_nohup_goes_on_without_its_terminal(bench, results):
    life = bench.start(results, before="faults:terminal_does_not_matter")
    wait_until(lambda: len(parts(results)) >= 2, life)
    os.kill(life.process.pid, signal.SIGHUP)
    assert life.ends() == 0, life.words()
    assert stored(results) == set(range(EPISODES))


@pytest.mark.parametrize("chunks", [(4, 6), (5, 100)])
def test_two_commands_with_other_chunks_store_no_episode_twice(bench, results, chunks):
    lives = [bench.start(results, "--chunk", str(chunk), "--set", "nap=0.2") for chunk in chunks]
    for life in lives:
        assert life.ends() == 0, life.words()
    numbers = [number for part in parts(results) for number in range(*map(int, part.name.split("-")[1:3]))]
    assert sorted(numbers) == list(range(EPISODES))
    assert not list(results.rglob("*.lease"))
