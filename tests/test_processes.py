"""A process that has ended is known to be gone, and one that may live on never is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fewshot_bench._io.locks import is_gone, owner

TELL = "from fewshot_bench._io.locks import owner; print(owner(), flush=True); input()"


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process of this machine, and what it says of itself."""
    process = subprocess.Popen([sys.executable, "-c", TELL], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_a_process_is_one_word_and_says_the_same_twice():
    assert owner() == owner()
    assert len(owner().split()) == 1
    assert not set("/\\:") & set(owner())


def test_this_process_and_one_that_runs_are_not_gone(other):
    assert not is_gone(owner())
    assert not is_gone(other[1])


def test_a_process_that_was_stopped_is_not_gone(other):
    process, its_owner = other
    process.send_signal(signal.SIGSTOP)
    assert not is_gone(its_owner)


def test_a_process_that_was_killed_is_gone_before_and_after_somebody_asks_for_its_exit_code(other):
    process, its_owner = other
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
    assert is_gone(its_owner)
    process.wait()
    assert is_gone(its_owner)


def test_a_forked_process_is_another_owner():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, owner().encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(read, 1000).decode()
    assert told != owner()
    assert is_gone(told)
    assert not is_gone(owner())


def test_a_number_that_another_process_has_now_is_not_the_process_that_had_it(other):
    place, number, began = other[1].split("-")
    assert is_gone(f"{place}-{number}-{int(began) - 1}")


def test_a_process_of_another_machine_is_never_gone(other):
    process, its_owner = other
    process.kill()
    process.wait()
    _, number, began = its_owner.split("-")
    assert not is_gone(f"0123456789ab-{number}-{began}")


@pytest.mark.parametrize(
    "rest", ["", "-", "--", "²-1", "٣-1", "0-1", "-1-1", "1.5-1", f"{1 << 80}-1", "9" * 5000 + "-1", "x-1", "1\x00-1"]
)
def test_rubbish_is_not_gone(rest):
    place = owner().split("-")[0]
    assert not is_gone(rest)
    assert not is_gone(f"{place}-{rest}")


def test_a_process_whose_clock_went_back_is_not_gone():
    """When a process began is counted from the start of the machine: setting the clock changes nothing."""
    program = "import time; time.time = lambda: 0.0; from fewshot_bench._io.locks import owner; print(owner()); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert not is_gone(process.stdout.readline().strip())
    process.communicate("\n")
