"""One command in several processes, as torchrun starts them and numbers them in environment variables."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
_MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")
"""Where the processes find each other; numbers without it are left over from something else."""
_TIMEOUT = timedelta(seconds=20)


@dataclass(frozen=True)
class Rank:
    """The number of this process among those of its command.

    Attributes:
        number: from 0, over all machines.
        count: of all processes.
        local: from 0, on this machine; the number of its GPU.
    """

    number: int
    count: int
    local: int


def own_rank() -> Rank | None:
    """The rank of this process; None if it is the only one of its command."""
    try:
        number, count, local = (int(os.environ[name]) for name in _VARIABLES)
    except (KeyError, ValueError):
        return None
    can_meet = all(os.environ.get(name) for name in _MEETING_POINT)
    return Rank(number, count, local) if count > 1 and can_meet else None


def is_main_process() -> bool:
    """Whether this process writes the files and prints: process 0, or the only one."""
    rank = own_rank()
    return rank is None or rank.number == 0


def is_first_to_end() -> bool:
    """Whether this process is the first of its command to end with an error or by a signal, and so prints the reason.

    The others fail for the same reason, or because this one has ended.
    """
    rank = own_rank()
    return rank is None or _is_first(rank)


@cache
def _is_first(rank: Rank) -> bool:
    """Ask a counter in the store of torchrun; where there is none, process 0 is the first."""
    try:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not say that it exports it

        port = int(os.environ["MASTER_PORT"])
        store = TCPStore(os.environ["MASTER_ADDR"], port, is_master=False, timeout=_TIMEOUT)
        ended = store.add(f"fewshot-bench/ended/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1)
    except Exception:  # it must not hide the reason that this process has
        return rank.number == 0
    return bool(ended == 1)
