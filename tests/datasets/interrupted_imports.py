"""A program for tests: import one dataset over another again and again, each time stopped one step later.

A step is anything that asks the system to change a file in the home, and every image that is read. At the chosen step
the process is killed, or from there on the disk is full. What is found afterwards is printed as JSON.

    python interrupted_imports.py HOME (kill|full) (OLD|-) NEW
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from samples import files_in

from fewshot_bench.cli.main import exit_code
from fewshot_bench.datasets import open_dataset
from fewshot_bench.datasets.own_images import OwnOptions, import_own_images
from fewshot_bench.datasets.store import damaged_splits, is_stored

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree")
_MAKING = ("open", "os.mkdir", "os.rename", "os.fsync")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Interruption:
    """Counts the steps of this process and strikes at one of them."""

    def __init__(self, home: Path, step: int, how: str) -> None:
        self._home, self._left, self._how = str(home), step, how
        self._fsync = os.fsync
        os.fsync = self._flush
        sys.addaudithook(self._hear)

    def take(self, event: str) -> None:
        self._left -= 1
        if self._left >= 0:
            return
        if self._how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif event in _MAKING:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _flush(self, file: int) -> None:
        self.take("os.fsync")
        self._fsync(file)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        is_change = event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING)
        if is_change and str(arguments[0]).startswith(self._home):
            self.take(event)

    @contextmanager
    def step(self, description: str, total: int):
        """As a `Progress`: every image is a step."""
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.take("image")


def in_child(work: Callable[[], object]) -> tuple[int, Any]:
    """Exit status of a process that does the work, and what it returned; this process never gets threads of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            os.write(writer, json.dumps(work()).encode())
            code = 0
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return status, json.loads(text or "null")


def found() -> dict[str, Any]:
    """What somebody finds who opens the dataset."""
    if not is_stored("mine"):
        return {"fingerprint": None}
    return {"fingerprint": open_dataset("mine").fingerprint, "damaged": damaged_splits("mine")}


def imported(source: str) -> str:
    """Import without interruption."""
    return import_own_images("mine", source, OwnOptions(), replace_stored=True).fingerprint


def stopped(home: Path, source: str, step: int, how: str) -> object:
    """Import, and be stopped; a full disk is met on the command line."""
    interruption = Interruption(home, step, how)
    if how == "kill":
        import_own_images("mine", source, OwnOptions(), replace_stored=True, progress=interruption)
        return None
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = exit_code(["data", "import", "mine", "--from", source, "--replace"])
    return {"code": code, "said": said.getvalue(), "files": sorted(files_in(home))}


def main(home: Path, how: str, old: str, new: str) -> None:
    """Stop at the first step, at the second, and so on until the import is through."""
    os.environ["FEWSHOT_BENCH_HOME"] = str(home)
    reports = []
    for step in count():
        if old == "-":
            in_child(lambda: [path.unlink() for path in home.rglob("*") if path.is_file()])
        else:
            assert in_child(lambda: imported(old))[0] == 0
        before = in_child(found)[1]
        status, answer = in_child(lambda step=step: stopped(home, new, step, how))
        report = {"before": before, "status": status, "answer": answer, "after": in_child(found)[1]}
        reports.append(report)
        report["again"] = in_child(lambda: imported(new))[1]
        report["files"] = sorted(files_in(home))
        if status == 0 and (answer is None or answer["code"] == 0):
            break
    json.dump(reports, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
