"""Processes of one command on one results folder, and when to kill them."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\].*?\x07")
_TAIL = 20_000  # bytes of a log that hold its last picture of the bars
_PAUSE = 0.005
PHASES = ("start", "training", "embedding", "chunks", "part", "tables")
"""What a process may be at: everything before the first bar, base stages, embeddings, chunks, writing outcomes, and
the leaderboard and the page."""
WORKER = "worker"
"""Of Ray, whatever its driver is at."""
_ACTOR = "ray::RayActor"  # what Ray calls the process of a worker


class Running(Protocol):
    """A process that was started, the first of its own group."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def wait(self, timeout: float) -> int:
        """Wait for its exit code."""


@dataclass(frozen=True)
class Life:
    """One process of the command.

    Attributes:
        process: of its own group.
        log: what it prints, with the bars.
    """

    process: Running
    log: Path

    def kill(self) -> None:
        """SIGKILL to it and its children; it has ended when this returns."""
        for kill in (os.killpg, os.kill):  # the second for one that is not yet the first of its group
            with suppress(ProcessLookupError):
                kill(self.process.pid, signal.SIGKILL)
        self.process.wait(60)

    def workers(self) -> list[int]:
        """Numbers of the processes that work for it by Ray."""
        told = [(int(path.name), _parent(path), _name(path)) for path in Path("/proc").glob("[0-9]*")]
        family, size = {self.process.pid}, 0
        while len(family) > size:
            size = len(family)
            family |= {number for number, parent, _ in told if parent in family}
        return sorted(number for number, _, name in told if number in family and name.startswith(_ACTOR))

    def ends(self, timeout: float = 120.0) -> int:
        """Wait for its exit code."""
        return self.process.wait(timeout)

    def at(self) -> str:
        """What its last bar says that it does."""
        bars = [line.strip() for line in self.words().splitlines() if line.strip()]
        if not bars or bars[-1].startswith("waiting for workers"):
            return "start"
        if bars[-1].startswith("training"):
            return "training"
        return "embedding" if bars[-1].startswith("embedding") else "chunks"

    def words(self) -> str:
        """The end of what it printed, without colours and movements."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL))
            return _ESCAPES.sub("", file.read().decode(errors="replace")).replace("\r", "\n")


@dataclass(frozen=True)
class Moment:
    """When to kill a process.

    Attributes:
        phase: that it is in.
        parts: new parts that lie in the folder before, for the phase "part".
        delay: seconds after that.
        latest: seconds after which it is killed wherever it is.
    """

    phase: str
    parts: int
    delay: float
    latest: float

    @classmethod
    def drawn(cls, dice: random.Random, pace: float = 1.0) -> Moment:
        """Any moment; the short phases come up as often as the long ones.

        Args:
            dice: that decide.
            pace: how long a study takes beside that of the benchmark.
        """
        phase = dice.choice(PHASES)
        longest = {"start": 4.0, "embedding": 0.2, "part": 0.02, "tables": 1.5}.get(phase, 1.0)
        parts = dice.randint(1, max(1, round(60 * pace)))
        return cls(phase, parts, dice.uniform(0, longest * pace), dice.uniform(10, 40))

    def wait(self, victim: Life, results: Path, is_complete: Callable[[], bool]) -> bool:
        """Wait for it; whether the process was still there then."""
        began, before = time.monotonic(), _parts(results)
        while time.monotonic() - began < self.latest and victim.process.poll() is None:
            if self._has_come(victim, results, before, is_complete):
                time.sleep(self.delay)
                break
            time.sleep(_PAUSE)
        return victim.process.poll() is None

    def _has_come(self, victim: Life, results: Path, before: int, is_complete: Callable[[], bool]) -> bool:
        if self.phase == "part":
            return _parts(results) >= before + self.parts
        if self.phase == "tables":
            return is_complete()
        return PHASES.index(victim.at()) >= PHASES.index(self.phase)  # what is cached already is passed over


def environment_of(home: Path) -> dict[str, str]:
    """Variables of a process whose bars are drawn as on a terminal.

    Args:
        home: for datasets and caches.
    """
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return {"FEWSHOT_BENCH_HOME": str(home), **threads, "FORCE_COLOR": "1", "COLUMNS": "160"}


def started(arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> Life:
    """Start `python -m fewshot_bench`."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "fewshot_bench", *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    return Life(process, log)


def _parts(results: Path) -> int:
    return sum(1 for path in results.rglob("*.parquet") if not path.name.startswith("."))


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _name(process: Path) -> str:
    try:
        return (process / "cmdline").read_text(errors="replace")
    except OSError:
        return ""
