"""Leases: processes that work at one cell, on one machine or on many, divide its chunks by them.

<folder>/<cell key>/leases/run-000-episodes-00000-00512.0.lease

A lease is a file that one process alone can create. Its holder changes it every few seconds; a lease that stays as it
is has lost its holder, and the next generation of it may be taken: the highest generation counts, and of several
processes that try, one succeeds. What an observer measures is how long it has seen a lease unchanged, on its own
monotonic clock, so that no two machines need to agree on the time and no clock that goes backwards matters. On one
machine a holder that was killed is known to be gone at once. How long that is, $FEWSHOT_BENCH_LEASE_SECONDS says, alike
for all who work at a folder.

Leases save work and nothing else: outcomes are the same whoever computes them, so two holders would do no harm.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from fewshot_bench.atomic import create_exclusively, is_unchanged_for
from fewshot_bench.errors import StudyError
from fewshot_bench.paths import Place
from fewshot_bench.processes import is_gone, owner
from fewshot_bench.stored_files import files_under, read_bytes, remove

EXPIRY = 60.0
"""Seconds that a lease of another machine has to be seen unchanged before it is taken over, by default."""
EXPIRY_VARIABLE = "FEWSHOT_BENCH_LEASE_SECONDS"
_BEATS = 12
"""Signs of life that a holder gives before its lease expires."""

_NAME = re.compile(r"run-(\d{1,9})-episodes-(\d{1,9})-(\d{1,9})\.(\d{1,9})\.lease")
_LARGEST = 1000  # bytes


def expiry_seconds() -> float:
    """How long a lease has to be seen unchanged before it is taken over.

    Raises:
        StudyError: the environment says something else than a number of seconds.
    """
    text = os.environ.get(EXPIRY_VARIABLE, str(EXPIRY))
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise StudyError(f"{EXPIRY_VARIABLE} should be a number of seconds such as {EXPIRY:g}, not '{text}'.")


@dataclass(frozen=True, order=True)
class Stretch:
    """Episodes `first` up to but not including `end` of one run."""

    run: int
    first: int
    end: int


@dataclass(frozen=True)
class LeaseInfo:
    """A lease that lies in a cell's folder.

    Attributes:
        stretch: what it is for.
        generation: how often it was taken over.
        owner: of the holder, see `processes.owner`; empty where the file does not say.
    """

    stretch: Stretch
    generation: int
    owner: str


class Lease:
    """A lease that this process holds, and keeps alive until it lets go."""

    def __init__(self, leases: Leases, stretch: Stretch, generation: int) -> None:
        self.stretch = stretch
        self._leases, self._generation = leases, generation
        self._token, self._beats = secrets.token_hex(8), 0

    @property
    def place(self) -> Place:
        """Where it lies."""
        return self._leases.place(self.stretch, self._generation)

    def content(self) -> bytes:
        """The next sign of life, always as long as the one before."""
        self._beats += 1
        return json.dumps({"owner": owner(), "token": self._token, "beat": f"{self._beats:012d}"}).encode()

    def is_held(self) -> bool:
        """Whether it is still this process's: nobody took it for lost, and nobody removed it."""
        with suppress(OSError, ValueError):
            newest = self._leases.generations().get(self.stretch)
            told = json.loads(read_bytes(self.place)[:_LARGEST])
            return newest == self._generation and isinstance(told, dict) and told.get("token") == self._token
        return False

    def release(self) -> None:
        """Let go of it, stored or not; those of earlier generations go first, so that it counts to the last."""
        with self._leases.without_beats():
            for generation in range(self._generation + 1):
                with suppress(OSError):
                    remove(self._leases.place(self.stretch, generation))
            self._leases.forget(self)  # last, so that an interruption leaves it to `release_all`


class Leases:
    """The leases of one cell, as one process sees them."""

    def __init__(
        self, folder: Place, *, expiry: float | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Look at no file yet.

        Args:
            folder: of the cell.
            expiry: seconds that a lease has to be seen unchanged before it is taken over; see `expiry_seconds`.
            now: seconds of a clock that never goes back.
        """
        self.folder = folder / "leases"
        self._expiry, self._now = expiry_seconds() if expiry is None else expiry, now
        self._seen: dict[tuple[Stretch, int], tuple[bytes, float]] = {}
        self._held: set[Lease] = set()
        self._being_taken: Lease | None = None
        self._lock = threading.Lock()

    def place(self, stretch: Stretch, generation: int) -> Place:
        """Where a lease lies."""
        name = f"run-{stretch.run:03d}-episodes-{stretch.first:05d}-{stretch.end:05d}.{generation}.lease"
        return self.folder / name

    def generations(self) -> dict[Stretch, int]:
        """The highest generation of every lease."""
        newest: dict[Stretch, int] = {}
        for match in filter(None, map(_NAME.fullmatch, files_under(self.folder))):
            run, first, end, generation = map(int, match.groups())
            stretch = Stretch(run, first, end)
            newest[stretch] = max(generation, newest.get(stretch, 0))
        return newest

    def take(self, stretch: Stretch, generations: dict[Stretch, int] | None = None) -> Lease | None:
        """Take a lease, unless another process holds it.

        Args:
            stretch: what it is for.
            generations: as seen a moment ago; looked up by default.

        Raises:
            OSError: it cannot be written, or the cell's folder is gone, as with a disk of the network: nothing is made
                where that would be.
        """
        newest = (self.generations() if generations is None else generations).get(stretch)
        if newest is not None and not self._is_lost(stretch, newest):
            return None
        self.check_folder()
        lease = Lease(self, stretch, 0 if newest is None else newest + 1)
        self._being_taken = lease
        is_ours = create_exclusively(lease.place, lease.content())
        if is_ours:
            with self._lock:
                self._held.add(lease)
        self._being_taken = None
        return lease if is_ours else None

    def release_all(self) -> None:
        """Let go of whatever is held: an interruption may come between taking a lease and taking note of it."""
        with self._lock:
            held = set(self._held)
        if self._being_taken is not None and self._being_taken.is_held():
            held.add(self._being_taken)
        for lease in held:
            lease.release()

    def check_folder(self) -> None:
        """See that the cell's folder is there: a disk of the network that is away leaves nothing where it was.

        Raises:
            FileNotFoundError: it is not.
        """
        if not self.folder.parent.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder.parent))

    def listed(self) -> list[LeaseInfo]:
        """The leases that lie here, but for those whose holder is known to have ended; sorted."""
        found = []
        for stretch, generation in sorted(self.generations().items()):
            content = self._content(stretch, generation)
            holder = _owner_in(content or b"")
            if content is not None and not is_gone(holder):
                found.append(LeaseInfo(stretch, generation, holder))
        return found

    def clean(self) -> None:
        """Remove what holders that have ended have left, and what says of no holder.

        A holder of another machine has ended where it gave no sign of life, by the clock of the disk, for as long as it
        takes to be taken for lost: as a machine that went down after it had stored its chunk.
        """
        for stretch, generation in self.generations().items():
            holder = _owner_in(self._content(stretch, generation) or b"")
            if not holder or is_gone(holder) or is_unchanged_for(self.place(stretch, generation), self._expiry):
                for each in range(generation + 1):
                    with suppress(OSError):
                        remove(self.place(stretch, each))

    def beat(self) -> None:
        """Give a sign of life for every lease that this process holds; a disk that is away is no reason to stop."""
        with self._lock:
            held = tuple(self._held)
        for lease in held:
            with self._lock, suppress(Exception):  # of a URL's file system it may be any; nobody lets go meanwhile
                if lease in self._held:
                    _overwrite(lease.place, lease.content())

    def without_beats(self) -> threading.Lock:
        """While it is held, nobody gives a sign of life."""
        return self._lock

    def forget(self, lease: Lease) -> None:
        """Give no more signs of life for a lease."""
        self._held.discard(lease)

    def _is_lost(self, stretch: Stretch, generation: int) -> bool:
        """Whether a lease's holder is gone, or was not heard of for too long."""
        content = self._content(stretch, generation)
        if content is None:
            return False  # released a moment ago
        if is_gone(_owner_in(content)):
            return True
        known, since = self._seen.get((stretch, generation), (None, 0.0))
        if known != content:
            self._seen[stretch, generation] = (content, self._now())
            return False
        expiry = self._expiry if _owner_in(content) else self._expiry / _BEATS  # its holder ended while it wrote
        return self._now() - since >= expiry

    def _content(self, stretch: Stretch, generation: int) -> bytes | None:
        try:
            return read_bytes(self.place(stretch, generation))[:_LARGEST]
        except FileNotFoundError:
            return None


def leases_of(cell_folder: Place) -> list[LeaseInfo]:
    """Who works at a cell."""
    return Leases(cell_folder).listed()


class Heart:
    """Gives signs of life for some leases, from a thread of its own, while it is entered."""

    def __init__(self, leases: list[Leases], *, every: float | None = None) -> None:
        self._leases, self._every = leases, every or expiry_seconds() / _BEATS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            for leases in self._leases:
                leases.beat()


def _overwrite(place: Place, content: bytes) -> None:
    """Change a file that is there, and make none; no reader meets an empty one."""
    if isinstance(place, Path):
        with place.open("r+b", buffering=0) as file:
            file.write(content)
    elif place.exists():
        place.write_bytes(content)  # one object at once


def _owner_in(content: bytes) -> str:
    """What a lease says of its holder; empty where it says nothing that can be read."""
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    holder = told.get("owner") if isinstance(told, dict) else None
    return holder if isinstance(holder, str) else ""
