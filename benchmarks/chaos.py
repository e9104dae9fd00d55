"""Kill a study again and again, at random moments, and compare what it ends with with an undisturbed run.

    python benchmarks/chaos.py --kills 200 --processes 1

A study on the built-in glyphs runs from the command line; its process, or one of several that work on one folder, gets
SIGKILL at a random moment and is started again. When the study has come to its end, its outcomes, its leaderboard and
its folder are compared with those of a run that nobody disturbed, and it starts anew, until there were enough kills.
The exit code is 1 if anything differs.

One process in five is a new interpreter; the others are forked from one that has imported everything, since to import
takes longer than the study.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from chaos_compare import RowsOfParts, compared
from chaos_forks import ForkServer
from chaos_kills import WORKER, Life, Moment, environment_of, started
from chaos_tally import Tally, table

STUDY = [
    *("run", "--device", "cpu", "--base-loss", "ce", "--base-epochs", "1"),
    *("--adapt", "centroid,logistic,finetune-head", "--set", "steps=5"),
    *("--shots", "1,5", "--runs", "2", "--episodes", "150", "--chunk", "5"),
]
_CACHE_CLEARED = 0.25
"""How often the cache is emptied before a process starts."""
_ALL_AT_ONCE = 0.25
"""How often every process is killed, not one of them."""
_WORKERS = 0.8
"""How often it is a worker of Ray, where there is one, and not its driver."""
_RAY = ["--engine", "ray", "--workers", "2"]
_LONGEST = 900.0  # seconds for a study to come to its end


class Chaos:
    """Processes of one study on one folder, killed at random.

    Args:
        folder: to work in.
        processes: at once.
        dice: that decide who is killed, and when.
        forks: makes most processes.
        arguments: of the command line.
        pace: how long that takes beside the study of the benchmark.
        new_interpreters: how often a process is not forked.
    """

    def __init__(
        self,
        folder: Path,
        processes: int,
        dice: random.Random,
        forks: ForkServer,
        arguments: Sequence[str] = STUDY,
        *,
        pace: float = 1.0,
        new_interpreters: float = 0.2,
    ) -> None:
        self.folder, self.processes, self.dice, self.forks = folder, processes, dice, forks
        self.arguments, self.pace, self.new_interpreters = arguments, pace, new_interpreters
        self.home, self.results, self.undisturbed = folder / "home", folder / "results", folder / "undisturbed"
        self.tally = Tally()
        self._started = 0
        self._expected = 0
        self._rows = RowsOfParts()

    def run(self, kills: int, tell: Callable[[str], None]) -> Tally:
        """Kill until there were so many kills, and compare every study that comes to its end."""
        self._let_end([self._start(self.undisturbed)])
        self._expected = self._rows.in_folder(self.undisturbed)
        while sum(self.tally.kills.values()) < kills:
            self._one_study(kills)
            if self.tally.errors:
                break
            self.tally.add(compared(self.results, self.undisturbed))
            tell(f"{sum(self.tally.kills.values())} kills, {self.tally.studies} studies")
            shutil.rmtree(self.results)
            self._rows = RowsOfParts()
        return self.tally

    def _one_study(self, kills: int) -> None:
        """Until all processes have come to the end of the study by themselves."""
        lives = [self._start(self.results) for _ in range(self.processes)]
        while sum(self.tally.kills.values()) < kills and all(life.process.poll() is None for life in lives):
            victim = self.dice.randrange(len(lives))
            if Moment.drawn(self.dice, self.pace).wait(lives[victim], self.results, self._is_complete):
                if self._killed_a_worker_of(lives[victim]):
                    continue
                for number in range(len(lives)) if self.dice.random() < _ALL_AT_ONCE else [victim]:
                    self._kill(lives[number])
                    lives[number] = self._start(self.results)
        self._let_end(lives)
        if self.processes > 1:  # leases of a process that was killed last are cleaned by the next
            self._let_end([self._start(self.results)])

    def _start(self, results: Path) -> Life:
        if self.dice.random() < _CACHE_CLEARED:  # base stages are trained, and embeddings made, among kills too
            for path in (self.home / "cache").rglob("*"):
                if path.is_file() and path.suffix != ".lock":
                    path.unlink(missing_ok=True)
        self._started += 1
        arguments, log = [*self.arguments, "--results", str(results)], self.folder / f"log-{self._started:04d}.txt"
        if self.dice.random() < self.new_interpreters:
            return started(arguments, environment_of(self.home), log)
        return Life(self.forks.start(arguments, log, environment_of(self.home)), log)

    def _killed_a_worker_of(self, life: Life) -> bool:
        """Whether it was a worker of Ray that was hit, as soon as there is one; its driver lives on."""
        if _RAY[1] not in self.arguments or self.dice.random() > _WORKERS:
            return False
        while life.process.poll() is None:
            if workers := life.workers():
                time.sleep(self.dice.uniform(0, 1))  # it may be starting, training, embedding or classifying by then
                with suppress(ProcessLookupError):
                    os.kill(self.dice.choice(workers), signal.SIGKILL)
                    self.tally.kills[WORKER] += 1
                return True
            time.sleep(0.05)
        return True

    def _kill(self, life: Life) -> None:
        if life.process.poll() is not None:
            return
        before = _unfinished(self.results)
        life.kill()
        new = _unfinished(self.results) - before
        at = "tables" if self._is_complete() else life.at()
        self.tally.kills["part" if any(".parquet." in name for name in new) else at] += 1

    def _let_end(self, lives: Sequence[Life]) -> None:
        deadline = time.monotonic() + _LONGEST
        for life in lives:
            code = life.process.wait(max(1.0, deadline - time.monotonic()))
            if code != 0:
                self.tally.errors.append(f"exit code {code}: {life.words()[-500:]}")

    def _is_complete(self) -> bool:
        """Whether as many episodes are stored as the undisturbed run has."""
        return self._rows.in_folder(self.results) >= self._expected


def _unfinished(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob(".*.tmp")}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many processes to kill")
    parser.add_argument("--processes", type=int, default=1, help="at once on one folder")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="whose workers are killed, too")
    parser.add_argument("--folder", type=Path, help="where to work; kept. A temporary one by default")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with ForkServer() as forks:
            is_ray = options.engine == "ray"  # which is not made to be forked
            chaos = Chaos(
                folder,
                options.processes,
                random.Random(options.seed),
                forks,
                [*STUDY, *(_RAY if is_ray else [])],
                new_interpreters=1.0 if is_ray else 0.2,
            )
            tally = chaos.run(options.kills, lambda line: print(line, file=sys.stderr, flush=True))
    print(table(tally, options.processes, options.seed, time.monotonic() - began))
    for line in [*tally.errors, *tally.left_over]:
        print(line)
    return 0 if tally.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
