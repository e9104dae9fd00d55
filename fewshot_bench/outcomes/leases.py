"""Leases: how processes on one machine or on many divide work.

<cell folder>/leases/run-000-episodes-00000-00512.0.lease    a range of a cell's episodes
<sweep folder>/leases/point-0123456789abcdef.0.lease         a point of a sweep

A lease is a file that only one process can create. Its holder rewrites it every few seconds: the heartbeat. A lease
that stays unchanged has lost its holder, and another process may create the next generation; the highest generation
counts. Each observer measures on its own monotonic clock how long a lease has been unchanged, so machines need not
agree on the time. On one machine a killed holder is noticed at once. FEWSHOT_BENCH_LEASE_SECONDS sets how long a lease
lasts without a heartbeat; all processes of a folder need the same value.

Processes may cut a run into different ranges, so a lease excludes all that overlap it. A process that has created one
lists the folder again; of several overlapping leases created at the same moment all but one are released.

Leases only save work: outcomes do not depend on who computes them, so two holders do no harm.
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeAlias

from fewshot_bench._io.locations import Location
from fewshot_bench._io.locks import is_gone, owner
from fewshot_bench._io.storage import create_exclusively, files_under, is_unchanged_for, read_bytes, remove
from fewshot_bench.errors import OutcomeError, StudyError
from fewshot_bench.outcomes.schema import mapping_in

_LARGEST = 1000  # bytes


@dataclass(frozen=True)
class EpisodeRange:
    """Episodes `first` up to but not including `end` of one run."""

    run: int
    first: int
    end: int

    def overlaps(self, other: LeaseKey) -> bool:
        """Whether an episode is in both."""
        if not isinstance(other, EpisodeRange) or self.run != other.run:
            return False
        return self.first < other.end and other.first < self.end

    def __str__(self) -> str:
        return f"run-{self.run:03d}-episodes-{self.first:05d}-{self.end:05d}"


@dataclass(frozen=True)
class PointKey:
    """A point of a sweep, by its 16 hexadecimal digits."""

    digits: str

    def overlaps(self, other: LeaseKey) -> bool:
        """Whether it is the same point."""
        return self == other

    def __str__(self) -> str:
        return f"point-{self.digits}"


LeaseKey: TypeAlias = EpisodeRange | PointKey
"""What a lease is for; all leases of a folder are of one kind."""

_RANGE = re.compile(r"run-(\d{1,9})-episodes-(\d{1,9})-(\d{1,9})\.(\d{1,9})\.lease")
_POINT = re.compile(r"point-([0-9a-f]{16})\.(\d{1,9})\.lease")


def _parsed(file_name: str) -> tuple[LeaseKey, int] | None:
    """What a file is the lease for, and its generation; None for other files."""
    if match := _RANGE.fullmatch(file_name):
        run, first, end, generation = map(int, match.groups())
        return EpisodeRange(run, first, end), generation
    if match := _POINT.fullmatch(file_name):
        return PointKey(match[1]), int(match[2])
    return None


def lease_content(place: Location) -> bytes:
    """The content of a lease; empty unless it is a small regular file. An absent one is a FileNotFoundError."""
    try:
        return read_bytes(place, _LARGEST)
    except OutcomeError:
        return b""


def _owner_in(content: bytes) -> str:
    """The holder that a lease names; empty if it cannot be read."""
    holder = mapping_in(content).get("owner")
    return holder if isinstance(holder, str) else ""


def overwrite(place: Location, content: bytes) -> None:
    """Change an existing file, without ever creating it or showing readers an empty one."""
    if isinstance(place, Path):
        with place.open("r+b", buffering=0) as file:
            file.write(content)
    elif place.exists():
        place.write_bytes(content)  # one object at once


_PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2)  # seconds before each listing of leases that were created at the same moment


class Lease:
    """A lease that this process holds until it releases it."""

    def __init__(self, leases: Leases, key: LeaseKey, lost: Mapping[LeaseKey, int]) -> None:
        """Create no file yet; `lost` are the generations of the overlapping leases that it replaces."""
        self.key = key
        self._leases, self._generation = leases, lost.get(key, -1) + 1
        self._replaced = {other: newest for other, newest in lost.items() if other != key} | {key: self._generation}
        self._token, self._beats = secrets.token_hex(8), 0

    @property
    def place(self) -> Location:
        """Its file."""
        return self._leases.place(self.key, self._generation)

    def content(self) -> bytes:
        """The next heartbeat; every one has the same length."""
        self._beats += 1
        return json.dumps({"owner": owner(), "token": self._token, "beat": f"{self._beats:012d}"}).encode()

    def is_held(self) -> bool:
        """Whether this process still holds it: it was neither taken over nor removed."""
        with suppress(OSError):
            newest = self._leases.generations().get(self.key)
            token = mapping_in(lease_content(self.place)).get("token")
            return newest == self._generation and token == self._token
        return False

    def prevails(self) -> bool:
        """Whether no other process has an overlapping one.

        Of several that are created at one moment, the first by name waits until the others have been released; if all
        were released, this might repeat for ever.
        """
        for pause in _PAUSES:
            time.sleep(pause)
            near = self._leases.snapshot().near(self.key)
            others = [other for other, generation in near.items() if self._replaced.get(other) != generation]
            if not others:
                return True
            if min(map(str, others)) <= str(self.key):
                return False
        return False  # the others listed the folder before this one was created, or are slow

    def release(self) -> None:
        """Remove it, after the leases that it replaced, so that it counts until the end."""
        with self._leases.lock:
            for key, newest in self._replaced.items():  # its own is the last
                self._leases.remove(key, newest)
            self._leases.held.discard(self)  # last, so that an interruption leaves it to `release_all`


class LeaseSnapshot:
    """The leases of a folder at one moment; each file is read once at most, and only if needed."""

    def __init__(self, generations: Mapping[LeaseKey, int], is_lost: Callable[[LeaseKey, int], bool]) -> None:
        """Read nothing yet.

        Args:
            generations: the highest of every lease.
            is_lost: whether a lease, by key and generation, has lost its holder.
        """
        self._generations, self._is_lost = generations, is_lost
        self._held: dict[LeaseKey, bool] = {}

    def near(self, key: LeaseKey) -> dict[LeaseKey, int]:
        """Generations of the leases that overlap a key, including its own."""
        return {other: newest for other, newest in self._generations.items() if other.overlaps(key)}

    def held(self, key: LeaseKey) -> list[LeaseKey]:
        """Keys of the leases that overlap a key and have a holder, sorted by name."""
        near = self.near(key)
        for other, newest in near.items():
            if other not in self._held:
                self._held[other] = not self._is_lost(other, newest)
        return sorted((other for other in near if self._held[other]), key=str)


EXPIRY = 60.0
"""Seconds without a heartbeat after which a lease of another machine is taken over, by default."""
EXPIRY_VARIABLE = "FEWSHOT_BENCH_LEASE_SECONDS"
BEATS = 12
"""Heartbeats before a lease expires."""


def expiry_seconds() -> float:
    """Seconds that a lease lasts without a heartbeat; raises StudyError if the variable is not a number."""
    text = os.environ.get(EXPIRY_VARIABLE, str(EXPIRY))
    with suppress(ValueError):
        if 0 < (seconds := float(text)) < math.inf:
            return seconds
    raise StudyError(f"{EXPIRY_VARIABLE} should be a number of seconds such as {EXPIRY:g}, not '{text}'.")


class HasHeartbeat(Protocol):
    """What other processes have to see alive."""

    def beat(self) -> None:
        """Give a heartbeat; never raises an error of the disk."""


class Heartbeat:
    """Beats for leases and records from a thread of its own while it is entered."""

    def __init__(self, targets: Sequence[HasHeartbeat], *, every: float | None = None) -> None:
        """Start no thread yet.

        Args:
            targets: what beats.
            every: seconds between two heartbeats; by default what leases need.
        """
        self._targets, self._every = targets, every or expiry_seconds() / BEATS
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._every):
            for target in self._targets:
                target.beat()


class Leases:
    """The leases of one cell or sweep, as one process sees them.

    Attributes:
        folder: of the leases.
        held: those that this process holds.
        lock: pauses the heartbeat while it is held.
    """

    def __init__(
        self, folder: Location, *, expiry: float | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Read nothing yet.

        Args:
            folder: of the cell or the sweep.
            expiry: seconds that a lease lasts without a heartbeat; see `expiry_seconds`.
            now: seconds of a clock that never goes back.
        """
        self.folder = folder / "leases"
        self._expiry, self._now = expiry_seconds() if expiry is None else expiry, now
        self._seen: dict[tuple[LeaseKey, int], tuple[bytes, float]] = {}
        self.held: set[Lease] = set()
        self.lock = threading.Lock()
        self._being_taken: Lease | None = None

    def place(self, key: LeaseKey, generation: int) -> Location:
        """The file of a lease."""
        return self.folder / f"{key}.{generation}.lease"

    def generations(self) -> dict[LeaseKey, int]:
        """The highest generation of every lease."""
        newest: dict[LeaseKey, int] = {}
        for key, generation in filter(None, map(_parsed, files_under(self.folder))):
            newest[key] = max(generation, newest.get(key, 0))
        return newest

    def snapshot(self) -> LeaseSnapshot:
        """The leases at this moment."""
        return LeaseSnapshot(self.generations(), self._is_lost)

    def take(self, key: LeaseKey, snapshot: LeaseSnapshot | None = None) -> Lease | None:
        """Take a lease, unless another process holds one that overlaps it.

        Args:
            key: what the lease is for.
            snapshot: a recent one; taken now by default.

        Raises:
            OSError: the lease cannot be written, or the folder is gone, as with a network disk that is away: nothing
                is created in its place.
        """
        snapshot = snapshot or self.snapshot()
        if snapshot.held(key):
            return None
        self.check_folder()
        self._being_taken = lease = Lease(self, key, snapshot.near(key))
        is_ours = create_exclusively(lease.place, lease.content())
        if is_ours:
            with self.lock:
                self.held.add(lease)
        self._being_taken = None
        if is_ours and not lease.prevails():
            lease.release()
            return None
        return lease if is_ours else None

    def release_all(self) -> None:
        """Release whatever is held, even if an interruption came between creating a lease and noting it."""
        with self.lock:
            held = set(self.held)
        if self._being_taken is not None and self._being_taken.is_held():
            held.add(self._being_taken)
        for lease in held:
            lease.release()

    def check_folder(self) -> None:
        """Raise FileNotFoundError if the cell's folder is gone, as with a network disk that is away."""
        if not self.folder.parent.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder.parent))

    def owners(self) -> dict[LeaseKey, str]:
        """The holder of every lease, see `locks.owner`, unless it is known to have ended; "" if the file is damaged."""
        contents = {key: self._content(key, generation) for key, generation in self.generations().items()}
        owners = {key: _owner_in(content) for key, content in contents.items() if content is not None}
        return {key: holder for key, holder in owners.items() if not is_gone(holder)}

    def clean(self) -> None:
        """Remove the leases of processes that have ended, and those that name no holder.

        A holder on another machine has ended if, by the clock of the disk, it gave no heartbeat until the expiry.
        """
        for key, generation in self.generations().items():
            holder = _owner_in(self._content(key, generation) or b"")
            if not holder or is_gone(holder) or is_unchanged_for(self.place(key, generation), self._expiry):
                self.remove(key, generation)

    def remove(self, key: LeaseKey, newest: int) -> None:
        """Remove the generations of a lease up to the newest, which goes last."""
        for generation in range(newest + 1):
            with suppress(OSError):
                remove(self.place(key, generation))

    def beat(self) -> None:
        """Give a heartbeat for every lease that this process holds, even while the disk is away."""
        with self.lock:
            held = tuple(self.held)
        for lease in held:
            with self.lock, suppress(Exception):  # file systems behind URLs raise anything; no release meanwhile
                if lease in self.held:
                    overwrite(lease.place, lease.content())

    def _is_lost(self, key: LeaseKey, generation: int) -> bool:
        """Whether the holder of a lease is gone or has been silent for too long; a process never reads its own."""
        with self.lock:
            if any(lease.key == key for lease in self.held):
                return False
        content = self._content(key, generation)
        if content is None:
            return False  # released a moment ago
        holder = _owner_in(content)
        if is_gone(holder):
            return True
        known, since = self._seen.get((key, generation), (None, 0.0))
        if known != content:
            self._seen[key, generation] = (content, self._now())
            return False
        return self._now() - since >= (self._expiry if holder else self._expiry / BEATS)  # died while writing

    def _content(self, key: LeaseKey, generation: int) -> bytes | None:
        try:
            return lease_content(self.place(key, generation))
        except FileNotFoundError:
            return None
