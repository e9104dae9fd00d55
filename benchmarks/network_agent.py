"""What runs on a machine of network_disk.py: it takes requests from a folder that the host sees too.

    python network_agent.py DESK ROLE

A request is a file `<name>.request` of JSON: {"shell": "a command"}, or {"arguments": [...], "environment": {...}} of
the command line, which is forked from a process that has imported everything. What it prints lands in `<name>.log`, the
number of its process in `<name>.process`, and its exit code in `<name>.code`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from chaos_forks import end_after, import_what_run_needs, take_streams

_PAUSE = 0.05


def serve(desk: Path, role: str) -> None:
    """Answer requests for ever."""
    if role == "client":
        import_what_run_needs()
    _say(desk / "ready", "")
    running: dict[int, str] = {}
    while True:
        for path in sorted(desk.glob("*.request")):
            request = json.loads(path.read_text())
            path.unlink()
            number = os.fork() or _become(request, path.with_suffix(".log"))
            running[number] = path.stem
            _say(path.with_suffix(".process"), str(number))
        for number in list(running):
            ended, status = os.waitpid(number, os.WNOHANG)
            if ended:
                _say(desk / f"{running.pop(number)}.code", str(os.waitstatus_to_exitcode(status)))
        time.sleep(_PAUSE)


def _become(request: dict[str, Any], log: Path) -> NoReturn:
    """Be the process that was asked for."""

    def work() -> None:
        take_streams(log)
        os.environ.update(request.get("environment", {}))
        if "shell" in request:
            sys.exit(subprocess.run(["bash", "-c", request["shell"]]).returncode)
        from fewshot_bench.cli.main import main

        main(request["arguments"])

    end_after(work)


def _say(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text)
    unfinished.rename(path)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
