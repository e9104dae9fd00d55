"""Machines of their own work at one study on a disk of the network, and things go wrong.

    python benchmarks/network_disk.py --rounds 5

Two machines (kernels, host names and clocks of their own, one of them an hour late) mount a folder of a third by NFS,
as mount does by default, and run one study on the built-in glyphs at the same time. Processes are killed, a machine or
the server loses its power, the server is away, outcomes are compacted meanwhile. Then the study's outcomes and its
leaderboard are compared with those of one process on a local disk. The exit code is 1 if any of these differ.

The machines are User-mode Linux of Debian 12: no KVM is needed, but root, `apt-get download`, and `mke2fs`. Nothing is
installed; the one setting of the host that is changed, vm.max_map_count, is set back.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chaos import STUDY
from chaos_compare import Comparison, compared
from chaos_kills import environment_of, started
from network_machines import SERVER, Job, Machine, laboratory

_MOUNTS = {"4.2": (f"{SERVER}:/", "vers=4.2"), "3": (f"{SERVER}:/export", "vers=3")}
_AWAY = 20.0  # seconds
_LEASE = {"FEWSHOT_BENCH_LEASE_SECONDS": "10", "FEWSHOT_BENCH_HOME": "/root/fewshot-bench"}


@dataclass
class Trouble:
    """What goes wrong while the study runs on both machines."""

    server: Machine
    clients: list[Machine]
    dice: random.Random
    mount: Callable[[Machine], None]

    def nothing(self, round_: Round) -> None:
        """Let both come to the end."""

    def kill(self, round_: Round) -> None:
        """SIGKILL to one process at a time, which starts again."""
        for _ in range(self.dice.randint(1, 3)):
            machine = self.dice.choice(self.clients)
            if round_.jobs[machine.name].code is None:
                machine.shell(f"kill -9 {round_.jobs[machine.name].process}")
                round_.jobs[machine.name].ends(20)
                round_.start(machine)
            time.sleep(self.dice.uniform(1, 6))

    def power(self, round_: Round) -> None:
        """The second machine goes down; the first comes to the end alone, and the second once more after a boot."""
        second = self.clients[1]
        second.off()
        round_.jobs.pop(second.name)
        round_.end()
        second.boot()
        self.mount(second)
        round_.start(second)

    def compaction(self, round_: Round) -> None:
        """Compact, check and look from both machines until the study is complete."""
        commands = (["store", "compact"], ["status", "--once"], ["store", "check"])
        while any(job.code is None for job in list(round_.jobs.values())):
            for machine in self.clients:
                for command in commands:
                    round_.once(machine, command)

    def server_stopped(self, round_: Round) -> None:
        """The server stops to serve for some seconds."""
        self.server.shell(f"rpc.nfsd 0; sleep {_AWAY:g}; rpc.nfsd -G 10 -L 10 8")

    def server_power(self, round_: Round) -> None:
        """The server loses its power and starts again."""
        self.server.off()
        self.server.boot()


@dataclass
class Round:
    """One study on both machines.

    Attributes:
        name: of its folder.
        jobs: the processes under way, by machine.
        errors: of processes that ended otherwise than they should.
    """

    name: str
    jobs: dict[str, Job] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def start(self, machine: Machine) -> None:
        """Start the study on a machine."""
        self.jobs[machine.name] = machine.start([*STUDY, "--results", f"/shared/{self.name}"], _LEASE)

    def once(self, machine: Machine, command: Sequence[str]) -> None:
        """Let a command come to its end."""
        self._note(machine.start([*command, "--results", f"/shared/{self.name}"], _LEASE))

    def end(self) -> None:
        """Wait for the processes."""
        while self.jobs:
            self._note(self.jobs.popitem()[1])

    def _note(self, job: Job) -> None:
        if (code := job.ends()) != 0:
            self.errors.append(f"{self.name}: exit code {code}: {job.words[-300:]}")


TROUBLES = ("nothing", "kill", "power", "compaction", "server_stopped", "server_power")
_HEAD = (
    *("NFS", "what went wrong", "studies", "episodes compared", "lost", "stored twice", "other predictions"),
    *("leaderboards that differ", "left over", "errors", "seconds of a study"),
)


def measured(version: str, rounds: int, folder: Path, dice: random.Random) -> tuple[list[str], list[str]]:
    """Rows of the table for one version of NFS; and errors and differences, a line each.

    Args:
        version: of NFS.
        rounds: of every kind of trouble.
        folder: to work in, with `home` and `undisturbed`.
        dice: that decide when something happens.
    """
    source, options = _MOUNTS[version]

    def mount(machine: Machine) -> None:
        clock = "date -s '1 hour ago'" if machine.number % 2 == 0 else "true"
        machine.shell(f"{clock}; mount.nfs {source} /shared -o {options} && cp -r {folder}/home /root/fewshot-bench")

    rows: list[str] = []
    told: list[str] = []
    with laboratory(folder) as (server, clients):
        for machine in clients:
            machine.boot()
            mount(machine)
        trouble = Trouble(server, clients, dice, mount)
        for kind in TROUBLES:
            found: list[Comparison] = []
            errors: list[str] = []
            seconds: list[float] = []
            for number in range(rounds):
                one = Round(f"{kind}-{number}")
                began = time.monotonic()
                for machine in clients:
                    one.start(machine)
                time.sleep(dice.uniform(3, 9))
                getattr(trouble, kind)(one)
                one.end()
                seconds.append(time.monotonic() - began)
                found.append(compared(_fetched(clients[0], one.name, folder), folder / "undisturbed"))
                errors += one.errors
                if found[-1].lost or found[-1].changed or found[-1].tables:
                    told.append(f"{version} {one.name} differs from what one process stored")
                print(version, one.name, f"{seconds[-1]:.0f} s", file=sys.stderr, flush=True)
            rows.append(_row(version, kind, found, errors, seconds))
            told += errors
    return rows, told


def _fetched(machine: Machine, name: str, folder: Path) -> Path:
    """The results of a round, on the host."""
    shutil.rmtree(folder / "fetched", ignore_errors=True)
    machine.shell(f"cp -r /shared/{name} /desk/fetched && rm -r /shared/{name}")
    shutil.move(folder / f"desk-{machine.name}" / "fetched", folder / "fetched")
    return folder / "fetched"


def _row(version: str, kind: str, found: list[Comparison], errors: list[str], seconds: list[float]) -> str:
    counts = [sum(len(getattr(one, name)) for one in found) for name in ("lost", "twice", "changed", "tables")]
    left = sum(len(one.left_over) for one in found)
    span = f"{min(seconds):.0f} to {max(seconds):.0f}"
    episodes = sum(one.episodes for one in found)
    cells = [version, kind.replace("_", " "), len(found), f"{episodes:,}", *counts, left, len(errors), span]
    return "| " + " | ".join(map(str, cells)) + " |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="studies with each kind of trouble")
    parser.add_argument("--versions", default="4.2,3", help="of NFS")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="where to work; kept. A temporary one by default")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0 or not all(map(shutil.which, ("apt-get", "dpkg-deb", "mke2fs"))):
        parser.error("this needs root, and Debian's apt-get, dpkg-deb and mke2fs")
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        arguments_here = [*STUDY, "--results", str(folder / "undisturbed")]
        life = started(arguments_here, environment_of(folder / "home"), folder / "undisturbed.txt")
        if life.ends() != 0:
            parser.error(f"the study does not run here: {life.words()[-500:]}")
        rows: list[str] = []
        told: list[str] = []
        for version in options.versions.split(","):
            more = measured(version, options.rounds, folder, random.Random(options.seed))
            rows, told = rows + more[0], told + more[1]
    print("| " + " | ".join(_HEAD) + " |\n| --- | --- |" + " ---: |" * (len(_HEAD) - 2))
    print("\n".join([*rows, "", *told]))
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
