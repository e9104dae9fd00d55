"""What it costs that a study survives: storing every chunk, several processes at one folder, and starting it again.

    python benchmarks/surviving.py
    python benchmarks/surviving.py --only store --repeats 9
    python benchmarks/surviving.py --json surviving.json          # every single time beside the tables

Everything is done on the built-in dataset in a home of its own, with one thread per process.

Store: 3,000 episodes of one run on cached embeddings are classified and stored, as `run` does it, leases included; then
the same worker classifies the same chunks, and the outcomes stay in memory. Both begin when the embeddings are there.
Processes: the same command once alone, and twice at once on one folder of results, start-up included.
Resuming: a study that is finished already, beside the import of what it imports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import torch

from fewshot_bench._io.locations import HOME_VARIABLE
from fewshot_bench.engine.engine import Chunk, Finished, LocalEngine, Worker, WorkerPool
from fewshot_bench.episodes import Protocol
from fewshot_bench.study import Study, run_study

EPISODES = 3000
ADDED, FASTER, BEYOND = 0.05, 1.7, 2.0
METHODS = ("centroid", "logistic", "finetune-head")
IMPORTS = "import fewshot_bench.cli.main, fewshot_bench.study, fewshot_bench.report, fewshot_bench.report.page"
Times = dict[str, list[float]]


def main() -> None:
    """Parse the arguments, measure, print."""
    options = _options()
    torch.set_num_threads(1)
    print(_where())
    times: Times = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {HOME_VARIABLE: str(Path(folder) / "home"), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        measures = {"store": measure_store, "processes": measure_processes, "resuming": measure_resuming}
        for name, measure in measures.items():
            if name in options.only:
                times |= measure(Path(folder), options)
    if options.json is not None:
        options.json.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")


def measure_store(folder: Path, options: argparse.Namespace) -> Times:
    """Print what storing adds to the classification, and to everything that a study does once it has begun."""
    print("| method | chunks | in memory, s | stored, s | added | of the study, s | added to that | bar |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |")
    times: Times = {}
    for method in METHODS:
        rows = [_stored_once(folder / f"{method}-{number}", method, options) for number in range(options.repeats + 1)]
        timed = rows[1:]  # the first warms up
        memory, stored, study = ([row[0] for row in timed], [row[1] for row in timed], [row[2] for row in timed])
        added = statistics.median(b - a for a, b in zip(memory, stored, strict=True))
        of_run, of_study = added / statistics.median(memory), added / (statistics.median(study) - added)
        cells = [f"{of_run:.1%}", _spread(study), f"{of_study:.1%}", _verdict(of_run < ADDED, f"under {ADDED:.0%}")]
        print(f"| {method} | {rows[0][3]} | {_spread(memory)} | {_spread(stored)} | {' | '.join(cells)} |", flush=True)
        times |= {
            f"store {method} {what}": row for what, row in zip(("memory", "stored"), (memory, stored), strict=True)
        }
    return times


def _stored_once(results: Path, method: str, options: argparse.Namespace) -> tuple[float, float, float, int]:
    """Seconds in memory, stored, and of the whole study; and the number of chunks."""
    study = Study(
        backbone=options.backbone,
        image_size=options.image_size,
        adaptations=(method,),
        shots=(1,),
        episodes=EPISODES,
        runs=1,
        results=results,
    )
    engine = Recording()
    result = run_study(study, engine=engine)
    assert engine.worker is not None
    began = time.perf_counter()
    frames = [engine.worker(chunk) for chunk in engine.chunks]
    seconds = time.perf_counter() - began
    assert sum(len(frame) for frame in frames) == EPISODES
    return seconds, engine.seconds, result.seconds, len(frames)


class Recording(LocalEngine):
    """This process, which remembers the worker, its chunks, and how long they took with everything around them."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.worker: Worker | None = None
        self.chunks: list[Chunk] = []
        self.seconds = 0.0

    @contextmanager
    def workers(self, make: Callable[[], Worker]) -> Iterator[WorkerPool]:
        """See `LocalEngine`; the time is that from when the worker is there until it is let go."""
        self.worker = worker = make()
        began = time.perf_counter()
        with super().workers(lambda: worker) as pool:
            yield _Noting(pool, self.chunks)
        self.seconds = time.perf_counter() - began


class _Noting:
    room = 1

    def __init__(self, pool: WorkerPool, chunks: list[Chunk]) -> None:
        self._pool, self._chunks = pool, chunks

    def chunk(self, protocol: Protocol) -> int:
        return self._pool.chunk(protocol)

    def start(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self._pool.start(chunk)

    def finished(self) -> list[Finished]:
        return self._pool.finished()


def measure_processes(folder: Path, options: argparse.Namespace) -> Times:
    """Print how much faster two processes finish a study on one folder, caches filled, start-up included."""
    command = _command("--adapt", "finetune", "--episodes", str(options.finetuned), "--set", "epochs=10")
    _run([[*command, "--episodes", "2", "--results", str(folder / "first")]])
    times: Times = {"one process": [], "two processes": [], "CPU of one": [], "CPU of two": []}
    for number in range(options.process_repeats):
        for count, name in ((1, "one"), (2, "two")):
            before = _cpu_seconds()
            whole = _run([[*command, "--results", str(folder / f"{name}-{number}")]] * count)
            times[f"{name} process{'es' * (count - 1)}"].append(whole)
            times[f"CPU of {name}"].append(_cpu_seconds() - before)
    alone, two, cpu_alone, cpu_two = times.values()
    faster = statistics.median(a / b for a, b in zip(alone, two, strict=True))
    print("\n| one process, s | two, s | times as fast | CPU of one, s | CPU of both, s | bar |")
    print("| ---: | ---: | ---: | ---: | ---: | --- |")
    cells = (_spread(alone), _spread(two), f"{faster:.2f}", _spread(cpu_alone), _spread(cpu_two))
    print(f"| {' | '.join(cells)} | {_verdict(faster >= FASTER, f'at least {FASTER}')} |", flush=True)
    return times


def measure_resuming(folder: Path, options: argparse.Namespace) -> Times:
    """Print how long a finished study takes that is started again, beyond the import of what it imports."""
    command = [*_command("--adapt", "centroid,logistic"), "--results", str(folder / "finished")]
    _run([command])
    commands = {
        "finished study again": command,
        "its imports": [sys.executable, "-c", IMPORTS],
        "ls datasets": [sys.executable, "-m", "fewshot_bench", "ls", "datasets"],
    }
    times: Times = {f"{kind}{name}": [] for kind in ("", "CPU of ") for name in commands}
    for _ in range(options.repeats):
        for name, one in commands.items():
            before = _cpu_seconds()
            times[name].append(_run([one]))
            times[f"CPU of {name}"].append(_cpu_seconds() - before)
    print("\n| what | s | CPU s |\n| --- | ---: | ---: |")
    for name in commands:
        print(f"| {name} | {_spread(times[name])} | {_spread(times[f'CPU of {name}'])} |")
    again, imports, _, cpu_again, cpu_imports, _ = times.values()
    beyond, cpu = (
        statistics.median(a - b for a, b in zip(*pair, strict=True))
        for pair in ((again, imports), (cpu_again, cpu_imports))
    )
    print(f"| beyond the imports: {_verdict(beyond < BEYOND, f'under {BEYOND:.0f} s')} | {beyond:.2f} | {cpu:.2f} |")
    return times


def _command(*arguments: str) -> list[str]:
    plain = ("--backbone", "conv4_32", "--base-loss", "ce", "--base-epochs", "1", "--device", "cpu")
    return [sys.executable, "-m", "fewshot_bench", "run", *plain, *arguments]


def _run(commands: Sequence[Sequence[str]]) -> float:
    """Seconds until all of some commands that are started at once have ended well."""
    began = time.perf_counter()
    started = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for command in commands]
    for process in started:
        _, errors = process.communicate()
        if process.returncode:
            told = errors.decode(errors="replace")
            sys.exit(f"a command ended with {process.returncode}: {told}")
    return time.perf_counter() - began


def _cpu_seconds() -> float:
    """That all commands so far have computed: what else the machine does adds to their time, not to this."""
    used = os.times()
    return used.children_user + used.children_system


def _spread(seconds: Sequence[float]) -> str:
    return f"{statistics.median(seconds):.3g} ({min(seconds):.3g} to {max(seconds):.3g})"


def _verdict(is_met: bool, bar: str) -> str:
    return f"{bar}: {'met' if is_met else 'missed'}"


def _where() -> str:
    packages = ", ".join(f"{package} {version(package)}" for package in ("torch", "pyarrow", "numpy"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else ""
    return f"{packages}, Python {platform.python_version()}; {cores} cores ({platform.machine()}){load}.\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("store", "processes", "resuming"))
    parser.add_argument("--repeats", type=int, default=5, help="of storing and of resuming")
    parser.add_argument("--process-repeats", type=int, default=3, help="of one process and of two")
    parser.add_argument("--finetuned", type=int, default=100, help="episodes that one process or two fine-tune")
    parser.add_argument("--backbone", default="efficientnet_lite0", help="of the cached embeddings")
    parser.add_argument("--image-size", type=int, default=64, help="of the cached embeddings")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.only = options.only or ["store", "processes", "resuming"]
    return options


if __name__ == "__main__":
    main()
