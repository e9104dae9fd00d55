"""The machines of the benchmark of network disks do what they are asked; to boot them takes root and minutes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_the_script() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Any]:
    """Its agent without a machine around it."""
    from network_machines import Machine

    desk = tmp_path / "desk-server"
    desk.mkdir()
    agent = subprocess.Popen([sys.executable, str(BENCHMARKS / "network_agent.py"), str(desk), "server"])
    while not (desk / "ready").exists():
        assert agent.poll() is None
        time.sleep(0.01)
    yield Machine("server", 10, tmp_path, "384M")
    agent.kill()
    agent.wait()


def test_a_machine_tells_what_a_command_prints(machine):
    assert machine.shell("echo one; echo two >&2") == "one\ntwo\n"


def test_a_command_that_fails_is_told_with_its_words(machine):
    with pytest.raises(RuntimeError, match=r"server: echo no; exit 3 ended with 3: no"):
        machine.shell("echo no; exit 3")


@pytest.mark.slow
def test_a_command_of_fewshot_bench_runs_has_a_number_and_ends_with_its_exit_code(machine):
    job = machine.start(["--version"], {})
    assert job.process > 1
    assert job.ends() == 0
    assert job.words.startswith("fewshot-bench ")
    assert machine.start(["no such command"], {}).ends() == 2


def test_every_trouble_can_be_made_and_a_row_has_a_cell_for_every_head():
    from chaos_compare import Comparison
    from network_disk import _HEAD, TROUBLES, Trouble, _row

    assert all(callable(getattr(Trouble, kind)) for kind in TROUBLES)
    row = _row("4.2", "server_power", [Comparison(episodes=5, lost=[("key", 0, 1)])], [], [7.0, 9.0])
    assert row == "| 4.2 | server power | 1 | 5 | 1 | 0 | 0 | 0 | 0 | 0 | 7 to 9 |"
    assert row.count("|") == len(_HEAD) + 1
