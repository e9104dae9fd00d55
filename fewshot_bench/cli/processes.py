"""Further processes of a command line, which share its work and end with it: those of a sweep, and of a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from fewshot_bench._io.resuming import SAVED, note_saved
from fewshot_bench.progress import Progress, Step

if TYPE_CHECKING:
    Process = subprocess.Popen[bytes]

_PATIENCE = 20  # seconds that a worker has to end after SIGTERM
_BEGIN = """import sys
sys.path[:] = sys.argv.pop(1).split("\\n")
from fewshot_bench.cli.processes import main
main()"""
"""The program of a worker. `python -m` would first look for modules in the current folder, maybe a stranger's."""


class Worker:
    """A further process of this command."""

    def __init__(self, process: Process, errors: IO[bytes]) -> None:
        self._process, self._errors = process, errors

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal; None while it runs."""
        return self._process.poll()

    def words(self) -> str:
        """Its standard error so far."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def stop(self) -> None:
        """Ask it to end, as SIGTERM does."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait until it has ended, and end it if that takes too long."""
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


@contextmanager
def workers(
    arguments: Sequence[str],
    of_each: Sequence[Sequence[str]],
    *,
    environment: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Iterator[list[Worker]]:
    """Run a command line in further processes, which are stopped when the context ends.

    Args:
        arguments: of the command.
        of_each: further arguments of each process.
        environment: variables that differ from those of this process.
        progress: shows what the processes write as `WrittenProgress`; None if they write none.
    """
    module_folders = "\n".join(filter(None, sys.path))  # an empty one would be the current folder
    variables = {**os.environ, **(environment or {})}
    out = subprocess.DEVNULL if progress is None else subprocess.PIPE
    started, readers = list[Worker](), list[threading.Thread]()
    with ExitStack() as files:
        try:
            for own in of_each:
                errors: IO[bytes] = files.enter_context(tempfile.TemporaryFile())
                command = [sys.executable, "-c", _BEGIN, module_folders, *arguments, *own]
                process = subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=out, stderr=errors)
                started.append(Worker(process, errors))
                if process.stdout is not None:
                    readers.append(threading.Thread(target=_show, args=(process.stdout, progress)))
                    readers[-1].start()
            yield started
        finally:
            for worker in started:
                worker.stop()
            for worker in started:
                worker.wait()
                if SAVED in worker.words():
                    note_saved()
            for reader in readers:
                reader.join()


def main() -> None:
    """Be a worker: run the command line of this process, and stop when the process that started it is gone."""
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    from fewshot_bench.__main__ import main as run

    run()


def _stop_without_parent() -> None:
    """End this process by SIGTERM when the other end of its standard input closes."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


_SECONDS_BETWEEN_LINES = 0.3


class WrittenProgress:
    """Writes the progress of a worker to its standard output, for `workers` to show."""

    def __init__(self) -> None:
        self._opened = 0

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Open a stage."""
        self._opened += 1
        number = self._opened
        _write({"number": number, "description": description, "total": total, "unit": unit})
        step = _WrittenStep(number)
        try:
            yield step
        finally:
            step.write()
            _write({"number": number, "ends": True})


class _WrittenStep:
    def __init__(self, number: int) -> None:
        self._number, self._amount, self._note, self._written = number, 0, "", time.monotonic()

    def advance(self, amount: int = 1, note: str = "") -> None:
        self._amount += amount
        self._note = note or self._note
        if time.monotonic() - self._written >= _SECONDS_BETWEEN_LINES:
            self.write()

    def write(self) -> None:
        _write({"number": self._number, "amount": self._amount, "note": self._note})
        self._amount, self._written = 0, time.monotonic()


def _write(line: Mapping[str, Any]) -> None:
    with suppress(OSError):  # the process that reads it is gone
        print(json.dumps(line), flush=True)


def _show(lines: IO[bytes], progress: Progress) -> None:
    """Show what a worker writes, until it ends; a user's own code may print other lines."""
    opened: dict[int, tuple[ExitStack, Step]] = {}
    with lines:
        for text in lines:
            with suppress(ValueError, KeyError, TypeError):
                line = json.loads(text)
                number = line["number"]
                if "description" in line:
                    stack = ExitStack()
                    step = stack.enter_context(progress.step(line["description"], line["total"], unit=line["unit"]))
                    opened[number] = stack, step
                elif "amount" in line:
                    opened[number][1].advance(line["amount"], line["note"])
                else:
                    opened.pop(number)[0].close()
    for stack, _ in opened.values():
        stack.close()
