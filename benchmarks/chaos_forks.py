"""Many processes of the command line, quickly: one process imports everything and forks when it is asked to.

    python chaos_forks.py    reads requests from stdin, a line of JSON each, and answers with a line each

A forked process does what `python -m fewshot_bench` does after its imports, in a group of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import Any, NoReturn

_PAUSE = 0.01


class Forked:
    """A process that a fork server has made; see `chaos_kills.Running`."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self._server = server

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        code: int | None = self._server.ask({"poll": self.pid})
        return code

    def wait(self, timeout: float) -> int:
        """Wait for its exit code.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(_PAUSE)
        return code

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class ForkServer:
    """A process that has imported everything, while it is entered."""

    def __init__(self, paths: Sequence[Path] = ()) -> None:
        """Import nothing yet.

        Args:
            paths: further folders to import from.
        """
        self._paths = [Path(__file__).parent, *paths]

    def __enter__(self) -> ForkServer:
        path = os.pathsep.join([*map(str, self._paths), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def start(self, arguments: Sequence[str], log: Path, environment: Mapping[str, str], before: str = "") -> Forked:
        """Start a process.

        Args:
            arguments: of the command line.
            log: what it prints.
            environment: variables that it has beside those of the server.
            before: a function to call first, as "module:function".
        """
        log.touch()
        request = {"arguments": list(arguments), "log": str(log), "environment": dict(environment), "before": before}
        return Forked(self, int(self.ask(request)))

    def ask(self, request: Mapping[str, Any]) -> Any:
        """The answer to a request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def import_what_run_needs() -> None:
    """Import what `fewshot-bench run` imports on its way to a report, which is most of a short command's time."""
    import itables  # noqa: F401  # only that it is imported counts, here and below
    import pandas.io.formats.style  # noqa: F401
    import timm  # noqa: F401
    import torchvision.transforms.v2  # noqa: F401

    from fewshot_bench import study, training

    for package in (study, training):  # their names are imported on first use
        for name in package.__all__:
            getattr(package, name)


def serve() -> None:
    """Answer requests until there are no more; processes that still run are killed."""
    import_what_run_needs()
    codes: dict[int, int | None] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            pid = request["poll"]
            codes[pid] = codes[pid] if codes[pid] is not None else _exit_code(pid)
            answer = codes[pid]
        else:
            answer = os.fork() or _become(request)
            codes[answer] = None
        print(json.dumps(answer), flush=True)
    for pid in [pid for pid, code in codes.items() if code is None and _exit_code(pid) is None]:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _become(request: Mapping[str, Any]) -> NoReturn:
    """Be the process that was asked for."""

    def work() -> None:
        from fewshot_bench.cli import progress_bars
        from fewshot_bench.cli.main import main

        progress_bars._EVERY = 0.0  # what is written can be waited for
        take_streams(Path(request["log"]))
        os.environ.update(request["environment"])
        if request["before"]:
            resolve_name(request["before"])()
        sys.argv = ["fewshot-bench", *request["arguments"]]  # as in a process of its own
        main()

    end_after(work)


def take_streams(log: Path) -> None:
    """Lead a group of its own, with nothing to read, and write into a file."""
    os.setsid()
    nothing, out = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream, target in ((nothing, 0), (out, 1), (out, 2)):
        os.dup2(stream, target)


def end_after(work: Callable[[], None]) -> NoReturn:
    """End a forked process as a command ends, without what its parent does at its own end."""
    code = 1
    try:
        try:
            work()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
