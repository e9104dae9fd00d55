"""Which of several equal computations is fastest on this machine: found by a short trial, and kept.

The results of such computations differ by rounding, so a choice, once made, is reused by this process, by others that
share the cache, and by a study that goes on tomorrow.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import torch

from fewshot_bench._io.locations import machine_cache_folder
from fewshot_bench._io.storage import read_bytes, write_atomically
from fewshot_bench.cache.entries import TRIALS, entry_lock, read_entry
from fewshot_bench.devices import processor_name, tf32_on
from fewshot_bench.errors import OutcomeError
from fewshot_bench.progress import SILENT

Timer = Callable[[Callable[[], Any]], float]
"""From something to run to the seconds that it takes."""

_ROUNDS = 12
_ENOUGH = 0.1
"""Seconds after which a trial ends with the round that it is in, but never before the second."""
_CLEARLY = 0.9
"""A candidate replaces the first one only if it takes less than that share of its time."""
_LARGEST_FILE = 16 << 20
_ARE_MADE: ContextVar[bool] = ContextVar("trials are made", default=True)
_THREADS = RLock()
_HELD: set[Path] = set()
_KNOWN: dict[tuple[Path, str], str] = {}
"""By file and key."""
_MADE: dict[tuple[str, str], str] = {}
"""By machine and key: a process that uses several caches makes each trial once."""


@dataclass(frozen=True)
class Trial:
    """Computations with equal results.

    Attributes:
        key: everything that decides which is faster, besides the machine.
        candidates: by name; the first one always works, the others may fail or run out of memory.
    """

    key: str
    candidates: Mapping[str, Callable[[], Any]]


def choose(trials: Sequence[Trial], device: torch.device, timer: Timer | None = None) -> dict[str, str]:
    """The name of the fastest candidate of each trial, by key.

    One process makes the trials that are missing on this machine; the others wait and take its choices.

    Args:
        trials: their keys differ.
        device: where the candidates compute.
        timer: instead of the clock; nothing is kept then.
    """
    if not _ARE_MADE.get():
        return {trial.key: next(iter(trial.candidates)) for trial in trials}
    if timer is not None:
        return {trial.key: fastest(trial.candidates, device, timer) for trial in trials}
    path, machine = _file(device)
    missing = [trial for trial in trials if _KNOWN.get((path, trial.key)) not in trial.candidates]
    if missing:
        found = _kept(path, machine)
        if any(found.get(trial.key) not in trial.candidates for trial in missing):
            with _only_process(path):
                found = _kept(path, machine)  # another process may have made some of them meanwhile
                new = {
                    trial.key: _made(trial, machine, device)
                    for trial in missing
                    if found.get(trial.key) not in trial.candidates
                }
                found = {**_kept(path, machine), **new}  # candidates may have made trials of their own
                with suppress(OSError):  # a folder that cannot be written to costs the trials of the next process
                    content = {"machine": machine, "choices": dict(sorted(found.items()))}
                    write_atomically(path, json.dumps(content, indent=0).encode())
        _KNOWN.update({(path, trial.key): found[trial.key] for trial in missing})
    return {trial.key: _KNOWN[path, trial.key] for trial in trials}


@contextmanager
def no_trials() -> Iterator[None]:
    """Take the first candidate of every trial and keep nothing, to count work that another machine is going to do."""
    before = _ARE_MADE.set(False)
    try:
        yield
    finally:
        _ARE_MADE.reset(before)


@contextmanager
def _only_process(path: Path) -> Iterator[None]:
    """Hold the lock of a file; a trial within a trial of the same process passes."""
    with _THREADS, ExitStack() as held:
        if path not in _HELD:
            _HELD.add(path)
            held.callback(_HELD.discard, path)
            held.enter_context(entry_lock(path, "trials of equal computations", SILENT))
        yield


def _made(trial: Trial, machine: str, device: torch.device) -> str:
    if _MADE.get((machine, trial.key)) not in trial.candidates:
        _MADE[machine, trial.key] = fastest(trial.candidates, device, _clock(device))
    return _MADE[machine, trial.key]


def fastest(candidates: Mapping[str, Callable[[], Any]], device: torch.device, timer: Timer) -> str:
    """The candidate with the shortest of several alternating runs; the first one if none is clearly faster.

    A candidate that fails, as one that runs out of memory does, is left out.
    """
    first, *_ = candidates
    shortest: dict[str, float] = {}
    remaining, total = list(candidates), 0.0
    for number in range(_ROUNDS):
        for name in list(remaining):
            seconds = _seconds_or_none(candidates[name], timer)
            if device.type == "cuda":
                torch.cuda.empty_cache()
            if seconds is None:
                remaining.remove(name)
                shortest.pop(name, None)
            elif number:  # the first round prepares
                shortest[name] = min(seconds, shortest.get(name, seconds))
                total += seconds
        # The shortest of many runs is the one that other processes disturbed least.
        least = min(shortest.values(), default=math.inf)
        remaining = [name for name in remaining if shortest.get(name, 0) <= 2 * least]
        if total > _ENOUGH or len(remaining) < 2:
            break
    if not shortest:  # at most one of them works
        return remaining[0] if remaining else first
    best = min(shortest, key=lambda name: shortest[name])
    is_clear = first not in shortest or shortest[best] < _CLEARLY * shortest[first]
    return best if is_clear else first


def _seconds_or_none(run: Callable[[], Any], timer: Timer) -> float | None:
    """The error, and the tensors that its traceback holds, are gone when this returns."""
    try:
        return timer(run)
    except (RuntimeError, MemoryError):
        return None


def _clock(device: torch.device) -> Timer:
    # A single thread's own time does not contain what other processes take.
    is_alone = device.type == "cpu" and torch.get_num_threads() == 1
    now = time.thread_time if is_alone else time.perf_counter

    def seconds(run: Callable[[], Any]) -> float:
        _wait(device)
        started = now()
        run()
        _wait(device)
        return now() - started

    return seconds


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _file(device: torch.device) -> tuple[Path, str]:
    """The file of a machine, and the machine in words."""
    parts = [f"torch {torch.__version__}"]
    if device.type == "cuda":
        parts += [torch.cuda.get_device_name(device), f"CUDA {torch.version.cuda}"]
        parts += ["TF32"] if tf32_on(device).convolutions else []
    else:
        capability = torch.backends.cpu.get_cpu_capability()
        parts += [processor_name() or device.type, capability, f"{torch.get_num_threads()} threads"]
    machine = ", ".join(parts)
    return machine_cache_folder() / TRIALS / f"{hashlib.sha256(machine.encode()).hexdigest()[:16]}.json", machine


def _kept(path: Path, machine: str) -> dict[str, str]:
    return read_entry(path, lambda path: _read(path, machine)) or {}


def _read(path: Path, machine: str) -> dict[str, str] | None:
    """The choices in a file; None if it is damaged."""
    try:
        content = json.loads(read_bytes(path, _LARGEST_FILE))
        choices = content["choices"] if content["machine"] == machine else {}
        return {key: name for key, name in choices.items() if isinstance(name, str)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OutcomeError):
        return None


def kept_text(key: str, device: torch.device) -> str | None:
    """What `keep_text` kept for this machine; None if there is nothing."""
    return _kept(*_file(device)).get(key)


def keep_text(key: str, text: str, device: torch.device) -> None:
    """Keep a measurement of this machine beside the choices; a folder that cannot be written to keeps none."""
    path, machine = _file(device)
    with entry_lock(path, "a measurement of this machine", SILENT), suppress(OSError):
        content = {"machine": machine, "choices": dict(sorted({**_kept(path, machine), key: text}.items()))}
        write_atomically(path, json.dumps(content, indent=0).encode())
