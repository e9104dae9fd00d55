"""Stages of benchmarks/gpu.py: each a process with a time limit, whose lines become a report as they are printed.

A stage prints Markdown. Rows of tables and lines that begin with `problem: ` also become records of a JSON Lines file.
A crash of the device or a stage that hangs ends this stage only. Standard library only: a broken installation of
PyTorch is something to report.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

PROBLEM = "problem: "
BENCHMARKS = Path(__file__).resolve().parent
_TO_START = 8.0  # seconds that the imports of a stage may take
_GRACE = 5.0  # seconds between the signal that prints a traceback and the one that ends a process
_TAIL = 40  # lines of a failed stage's error output in the report


# In the process of a stage


def problem(what: str, details: str = "") -> None:
    """Report that something went wrong, and go on."""
    print(PROBLEM + json.dumps({"what": what, "details": details}), flush=True)


@contextmanager
def attempt(what: str) -> Iterator[None]:
    """Report whatever is raised inside, with its traceback, and go on after the block."""
    try:
        yield
    except Exception as error:  # whatever a device does, the next check should run
        problem(f"{what}: {type(error).__name__}: {error}", traceback.format_exc())


# In the process of the benchmark


@dataclass(frozen=True)
class Stage:
    """A part of the benchmark.

    Attributes:
        name: on the command line.
        title: in the report.
        share: of the time that is left, relative to the shares of the stages after it.
        least: seconds below which it does not begin.
        script: name of a file in this folder.
        options: of the script.
        is_timed: whether the script takes `--minutes` and ends by itself.
    """

    name: str
    title: str
    share: float
    least: float
    script: str
    options: Sequence[str]
    is_timed: bool = True

    def command(self, seconds: float) -> list[str]:
        """The script and its options, with a time that ends before the limit."""
        minutes = 0.9 * max(1.0, seconds - _TO_START) / 60
        timed = ["--minutes", f"{minutes:.3f}"] if self.is_timed else []
        return [str(BENCHMARKS / f"{self.script}.py"), *self.options, *timed]


def allotted(stages: Sequence[Stage], left: float) -> float:
    """Seconds of the first stage: its share of what is left, and as many as it needs at least if there are so many.

    What a stage does not use goes to the ones after it.
    """
    share = left * stages[0].share / sum(stage.share for stage in stages)
    return min(left, max(share, stages[0].least))


@dataclass
class Report:
    """What has been found so far, in files that are complete after every line.

    Attributes:
        folder: of `report.md`, `results.jsonl` and `log.txt`.
        problems: what went wrong, by stage: a sentence and its details.
    """

    folder: Path
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    _head: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("report.md", "results.jsonl", "log.txt"):
            (self.folder / name).write_text("", encoding="utf-8")

    @property
    def log(self) -> Path:
        """Error output of all stages."""
        return self.folder / "log.txt"

    def line(self, stage: str, text: str) -> None:
        """Take a line that a stage has printed."""
        if text.startswith(PROBLEM):
            with suppress(ValueError, KeyError, TypeError):
                found = json.loads(text.removeprefix(PROBLEM))
                self.problem(stage, found["what"], found["details"])
                return
        print(text, flush=True)
        self._append("report.md", text)
        cells = table_cells(text)
        if cells and set("".join(cells)) <= set("-: "):
            return
        if cells and len(cells) == len(self._head):
            self.record(stage, "row", dict(zip(self._head, cells, strict=True)))
        else:
            self._head = cells

    def problem(self, stage: str, what: str, details: str = "") -> None:
        """Note that something went wrong."""
        self.problems.append((stage, what, details))
        print(f"went wrong: {what}", flush=True)
        self.record(stage, "problem", {"what": what, "details": details})

    def record(self, stage: str, kind: str, content: Mapping[str, Any]) -> None:
        """Append a JSON object."""
        self._append("results.jsonl", json.dumps({"stage": stage, "kind": kind, **content}))

    def finish(self) -> None:
        """End with everything that went wrong."""
        self.line("", "\n## What went wrong\n")
        if not self.problems:
            self.line("", "Nothing.")
        for stage, what, details in self.problems:
            self.line("", f"- **{stage}**: {what}" + (f"\n\n```\n{details.rstrip()}\n```\n" if details else ""))

    def _append(self, name: str, text: str) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def table_cells(line: str) -> list[str]:
    """The cells of a row of a Markdown table; none for another line."""
    is_row = line.startswith("|") and line.endswith("|") and len(line) > 1
    return [cell.strip() for cell in line[1:-1].split("|")] if is_row else []


def run_stages(
    stages: Sequence[Stage], report: Report, *, until: float, environment: Mapping[str, str] | None = None
) -> None:
    """Run the stages one after the other, each within its share of the time.

    Args:
        stages: in order of worth.
        report: what they print and what goes wrong.
        until: end of all, by `time.monotonic`.
        environment: of their processes.
    """
    for number, stage in enumerate(stages):
        seconds = allotted(stages[number:], until - time.monotonic())
        report.line(stage.name, f"\n## {stage.title}\n")
        if seconds < stage.least:
            report.line(stage.name, f"Not begun: it needs {stage.least:.0f} s or more, and {seconds:.0f} s are left.")
            report.record(stage.name, "end", {"status": "skipped"})
            continue
        began = time.monotonic()
        status = run_process(stage.command(seconds), seconds, stage.name, report, environment)
        took = round(time.monotonic() - began, 1)
        report.line(stage.name, f"\n({stage.name}: {status}, {took:.0f} of {seconds:.0f} s)")
        report.record(stage.name, "end", {"status": status, "seconds": took, "limit": round(seconds, 1)})


def run_process(
    command: Sequence[str], seconds: float, name: str, report: Report, environment: Mapping[str, str] | None = None
) -> str:
    """Run one stage in a process of its own, and end it and what it started when its time is over.

    Returns:
        "done", "failed" or "stopped".
    """
    where = report.log.stat().st_size
    with report.log.open("a", encoding="utf-8") as errors:
        errors.write(f"\n== {name}: {' '.join(command)}\n")
        errors.flush()
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-u", *command],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            env=dict(environment) if environment is not None else None,
            start_new_session=True,
        )
        assert process.stdout is not None
        reader = threading.Thread(target=_read, args=(process.stdout, name, report), daemon=True)
        reader.start()
        try:
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        reader.join(timeout=_GRACE)
    if code is None:
        report.problem(name, f"stopped after {seconds:.0f} s: its time was over", _tail(report.log, where))
        return "stopped"
    if code:
        died = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        report.problem(name, f"ended with {died}", _tail(report.log, where))
        return "failed"
    return "done"


def _read(lines: TextIO, name: str, report: Report) -> None:
    for line in lines:
        report.line(name, line.rstrip("\n"))


def _end(process: subprocess.Popen[str]) -> None:
    """End a process, which prints its traceback first, and everything that it started."""
    if process.poll() is None:
        with suppress(OSError):
            os.kill(process.pid, signal.SIGABRT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE)
    with suppress(OSError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # a driver that hangs can keep it from ending
        process.wait(timeout=_GRACE)


def _tail(log: Path, where: int) -> str:
    """The end of the error output of a stage: its last traceback, without what Python does to import."""
    with log.open("rb") as file:
        file.seek(where)
        lines = file.read().decode(errors="replace").splitlines()[2:]
    starts = [number for number, line in enumerate(lines) if line.startswith(("Traceback", "Fatal Python error"))]
    lines = lines[starts[-1] :] if starts else lines[-_TAIL:]
    return "\n".join(line for line in lines[:_TAIL] if "importlib._boot" not in line and "Extension mod" not in line)
