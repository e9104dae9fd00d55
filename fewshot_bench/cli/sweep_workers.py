"""`sweep --jobs N`: N processes of this program that run the same command and divide its points."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import typer

from fewshot_bench._io.resuming import SAVED, note_saved
from fewshot_bench.cli.study_options import typed_options
from fewshot_bench.errors import StudyError, is_debugging

if TYPE_CHECKING:
    from fewshot_bench.progress import Progress
    from fewshot_bench.study import Sweep
    from fewshot_bench.study.sweep import Point

_NOT_FOR_WORKERS = ("jobs", "as_json", "device")
_PAUSE = 0.5  # seconds between two looks at what is finished
_PATIENCE = 20  # seconds that a worker has to end after it was asked to
_BEGIN = """import sys
sys.path[:] = sys.argv.pop(1).split("\\n")
from fewshot_bench.__main__ import main
main()"""
"""What a worker runs. `python -m` would look for modules in the current folder first, which may be a stranger's."""


def work_in_processes(
    context: typer.Context, sweep: Sweep, points: Sequence[Point], jobs: int, progress: Progress
) -> None:
    """Bring points to completion in several processes.

    Args:
        context: of the command, for its options.
        sweep: where the points belong.
        points: distinct ones.
        jobs: how many processes; no more are started than there are points.
        progress: shown one unit per point.

    Raises:
        StudyError: a worker failed; the sentence is its own.
    """
    from fewshot_bench.study.sweep_run import finished_point

    with _workers(worker_arguments(context), devices(sweep.study.device, min(jobs, len(points)))) as workers:
        with progress.step(f"sweep {sweep.name}, {len(workers)} processes", len(points)) as step:
            pending = list(points)
            while any(worker.process.poll() is None for worker in workers):
                left = [point for point in pending if finished_point(sweep, point) is None]
                step.advance(len(pending) - len(left))
                if len(left) < len(pending):
                    note_saved()
                pending = left
                time.sleep(_PAUSE)
            step.advance(len(pending))
        for worker in workers:
            if worker.process.returncode:
                if is_debugging():
                    typer.echo(_words(worker), err=True)
                raise StudyError(_last_words(worker))


def worker_arguments(context: typer.Context) -> list[str]:
    """The options as they were typed, but for those that concern the first process alone."""
    arguments = ["sweep", "--worker"]
    typed = typed_options(context)
    for parameter in context.command.params:
        if parameter.name is None or parameter.name not in typed or parameter.name in _NOT_FOR_WORKERS:
            continue
        value = context.params[parameter.name]
        if isinstance(value, bool):
            arguments.append((parameter.opts if value else parameter.secondary_opts)[0])
            continue
        for one in value if isinstance(value, (list, tuple)) else [value]:
            arguments += [parameter.opts[0], str(one)]
    return arguments


def devices(device: str, jobs: int) -> list[str]:
    """A device per process: the GPUs in turn where the choice is free and there are several."""
    if device == "auto":
        import torch

        if torch.cuda.device_count() > 1:
            return [f"cuda:{number % torch.cuda.device_count()}" for number in range(jobs)]
    return [device] * jobs


@contextmanager
def _workers(arguments: list[str], devices: list[str]) -> Iterator[list[_Worker]]:
    """Processes that end with this one; each has its share of the cores, and a file for what it complains of."""
    threads = str(max(1, (os.cpu_count() or 1) // max(1, len(devices))))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    workers: list[_Worker] = []
    with ExitStack() as files:
        try:
            for device in devices:
                errors = files.enter_context(tempfile.TemporaryFile())
                command = [sys.executable, "-c", _BEGIN, _module_folders(), *arguments, "--device", device]
                process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
                workers.append(_Worker(process, errors))
            yield workers
        finally:
            for worker in workers:
                worker.process.terminate()
            for worker in workers:
                worker.end()
                if SAVED in _words(worker):
                    note_saved()


def _module_folders() -> str:
    """Where this process looks for modules, a line each; never the current folder by its empty name."""
    return "\n".join(filter(None, sys.path))


@dataclass(frozen=True)
class _Worker:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def end(self) -> None:
        """Wait for it, but not for ever."""
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _words(worker: _Worker) -> str:
    """What it said on stderr."""
    worker.errors.seek(0)
    return worker.errors.read().decode(errors="replace")


def _last_words(worker: _Worker) -> str:
    code, lines = worker.process.returncode, _words(worker).strip().splitlines()
    if code < 0 or not lines:
        return (
            f"a process of the sweep was ended by signal {-code}, perhaps for want of memory. What is finished is "
            "stored; run the same command again, with fewer --jobs."
        )
    return lines[-1].removeprefix("error: ")
