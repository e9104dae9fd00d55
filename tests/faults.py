"""What goes wrong with a disk or a clock, for a process of the command line to meet: called before it begins."""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import resource
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

_SOME = 9  # calls that go well: enough for manifests and a few parts


def _fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


def flush_fails_after_a_while() -> None:
    """A disk of the network that is lost: what was written does not arrive."""
    flush, calls = os.fsync, itertools.count()
    os.fsync = lambda file: flush(file) if next(calls) < _SOME else _fail(errno.EIO)


def disk_is_full_after_a_while() -> None:
    """As ENOSPC comes with delayed allocation: when a file is flushed."""
    flush, calls = os.fsync, itertools.count()
    os.fsync = lambda file: flush(file) if next(calls) < _SOME else _fail(errno.ENOSPC)


def rename_fails_after_a_while() -> None:
    """The handle of a file that another machine has removed."""
    rename, calls = os.replace, itertools.count()
    os.replace = lambda *paths, **more: rename(*paths, **more) if next(calls) < _SOME else _fail(errno.ESTALE)


def nothing_can_be_opened_after_a_while() -> None:
    """A mount that hangs, then gives up, for everything below the results."""
    calls = itertools.count()

    def unreachable(opened: Callable[..., Any]) -> Callable[..., Any]:
        def answered(file: Any, *rest: Any, **more: Any) -> Any:
            if "outcomes" in str(file) and next(calls) >= 6 * _SOME:
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT), str(file))
            return opened(file, *rest, **more)

        return answered

    io.open = builtins.open = unreachable(io.open)
    os.open = unreachable(os.open)


def files_stay_small() -> None:
    """A limit on the size of a file, which the page of results is too large for."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))


def clock_goes_back() -> None:
    """The time of day is set back, by an hour at every look."""
    now, looks = time.time(), itertools.count()
    time.time = lambda: now - 3600.0 * next(looks)
    time.time_ns = lambda: int(1e9 * time.time())


def clock_goes_back_and_leases_expire_by_waiting() -> None:
    """Leases count the seconds that a process waits for others, so that a slow machine does not let them expire."""
    from fewshot_bench.outcomes.leases import Leases
    from fewshot_bench.study import scheduler

    waited = [0.0]

    def pause(seconds: float) -> None:
        waited[0] += seconds
        time.sleep(seconds)

    scheduler.time = SimpleNamespace(sleep=pause)  # type: ignore[assignment]  # all that it takes of the module
    Leases.__init__.__kwdefaults__["now"] = lambda: waited[0]
    clock_goes_back()


def terminal_does_not_matter() -> None:
    """As nohup has it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
