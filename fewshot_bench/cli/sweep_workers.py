"""`sweep --jobs N`: N processes run the same command, and each takes the points that no other holds, by leases."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

import typer

from fewshot_bench._io.resuming import SAVED, note_saved
from fewshot_bench.errors import StudyError, is_debugging

if TYPE_CHECKING:
    from fewshot_bench.progress import Progress
    from fewshot_bench.study import Sweep
    from fewshot_bench.study.sweep import Point

_PAUSE = 0.5  # seconds between two looks at what is finished
_PATIENCE = 20  # seconds that a worker has to end after SIGTERM
_BEGIN = """import sys
sys.path[:] = sys.argv.pop(1).split("\\n")
from fewshot_bench.__main__ import main
main()"""
"""The program of a worker. `python -m` would first look for modules in the current folder, maybe a stranger's."""

_Worker = tuple["subprocess.Popen[bytes]", IO[bytes]]
"""A process, and the file of its standard error."""


def work_in_processes(
    arguments: Sequence[str], sweep: Sweep, points: Sequence[Point], jobs: int, progress: Progress
) -> None:
    """Complete points in several processes.

    Args:
        arguments: of the command, without the program's name.
        sweep: of the points.
        points: distinct ones.
        jobs: how many processes; at most one per point is started.
        progress: shown one unit per point.

    Raises:
        StudyError: a worker failed; the sentence is its own.
    """
    from fewshot_bench.study.sweep_run import finished_point

    with (
        _workers(arguments, devices(sweep.study.device, min(jobs, len(points)))) as workers,
        progress.step(f"sweep {sweep.name}, {len(workers)} processes", len(points)) as step,
    ):
        pending = list(points)
        while any(process.poll() is None for process, _ in workers):
            unfinished = [point for point in pending if finished_point(sweep, point) is None]
            step.advance(len(pending) - len(unfinished))
            if len(unfinished) < len(pending):
                note_saved()
            pending = unfinished
            time.sleep(_PAUSE)
        step.advance(len(pending))
        for process, errors in workers:
            if process.returncode:
                if is_debugging():
                    typer.echo(_text(errors), err=True)
                raise StudyError(_reason(process.returncode, _text(errors)))


def devices(device: str, jobs: int) -> list[str]:
    """A device per process: the GPUs in turn for "auto" on a machine with several."""
    if device == "auto":
        import torch

        if torch.cuda.device_count() > 1:
            return [f"cuda:{number % torch.cuda.device_count()}" for number in range(jobs)]
    return [device] * jobs


@contextmanager
def _workers(arguments: Sequence[str], devices: list[str]) -> Iterator[list[_Worker]]:
    """Processes that end with this one; they share the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // max(1, len(devices))))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    module_folders = "\n".join(filter(None, sys.path))  # an empty one would be the current folder
    workers: list[_Worker] = []
    with ExitStack() as files:
        try:
            for device in devices:
                errors: IO[bytes] = files.enter_context(tempfile.TemporaryFile())
                command = [sys.executable, "-c", _BEGIN, module_folders, *arguments, "--worker", device]
                process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
                workers.append((process, errors))
            yield workers
        finally:
            for process, _ in workers:
                process.terminate()
            for process, errors in workers:
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                if SAVED in _text(errors):
                    note_saved()


def _text(errors: IO[bytes]) -> str:
    errors.seek(0)
    return errors.read().decode(errors="replace")


def _reason(code: int, text: str) -> str:
    """Why a worker failed, in its own words if it had any."""
    lines = text.strip().splitlines()
    if code < 0 or not lines:
        return (
            f"a process of the sweep was ended by signal {-code}, perhaps because memory ran out. Finished points are "
            "stored; run the same command again with fewer --jobs."
        )
    return lines[-1].removeprefix("error: ")
