"""Leases: processes that work at one cell, on one machine or on many, divide its chunks by them.

<folder>/<cell key>/leases/run-000-episodes-00000-00512.0.lease

A lease is a file that one process alone can create. Its holder changes it every few seconds; a lease that stays as it
is has lost its holder, and the next generation of it may be taken: the highest generation counts, and of several
processes that try, one succeeds. What an observer measures is how long it has seen a lease unchanged, on its own
monotonic clock, so that no two machines need to agree on the time and no clock that goes backwards matters. On one
machine a holder that was killed is known to be gone at once. How long that is, $FEWSHOT_BENCH_LEASE_SECONDS says, alike
for all who work at a folder.

Processes may cut a run into stretches of other sizes: a lease is for whoever holds it against all that overlap it. Who
has made one looks again, and of several that were made at that moment all but one are let go.

Leases save work and nothing else: outcomes are the same whoever computes them, so two holders would do no harm.

One lease that this process holds.

Lease files: what their names say, what lies in them, and how one is changed while others read it.

<folder>/<cell key>/leases/run-000-episodes-00000-00512.0.lease

The leases of a cell at one moment, as one process sees them.

How long a lease lasts without a sign of life from its holder, and what gives such signs.
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
from typing import Protocol

from fewshot_bench._io.locations import Place
from fewshot_bench._io.locks import is_gone, owner
from fewshot_bench._io.storage import create_exclusively, files_under, is_unchanged_for, read_bytes, remove
from fewshot_bench.errors import OutcomeError, StudyError
from fewshot_bench.outcomes.schema import mapping_in

_NAME = re.compile(r"run-(\d{1,9})-episodes-(\d{1,9})-(\d{1,9})\.(\d{1,9})\.lease")
_LARGEST = 1000  # bytes


@dataclass(frozen=True, order=True)
class Stretch:
    """Episodes `first` up to but not including `end` of one run."""

    run: int
    first: int
    end: int

    def overlaps(self, other: Stretch) -> bool:
        """Whether some episode is in both."""
        return self.run == other.run and self.first < other.end and other.first < self.end


def lease_name(stretch: Stretch, generation: int) -> str:
    """What the file of a lease is called."""
    return f"run-{stretch.run:03d}-episodes-{stretch.first:05d}-{stretch.end:05d}.{generation}.lease"


def lease_named(name: str) -> tuple[Stretch, int] | None:
    """What a file is the lease for, and its generation; None where it is none."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    run, first, end, generation = map(int, found.groups())
    return Stretch(run, first, end), generation


def lease_content(place: Place) -> bytes:
    """What lies in a lease; nothing where that is no small regular file, so that it says of no holder.

    Raises:
        FileNotFoundError: it is not there.
    """
    try:
        return read_bytes(place, _LARGEST)
    except OutcomeError:
        return b""


def owner_in(content: bytes) -> str:
    """What a lease says of its holder; empty where it says nothing that can be read."""
    holder = mapping_in(content).get("owner")
    return holder if isinstance(holder, str) else ""


def overwrite(place: Place, content: bytes) -> None:
    """Change a file that is there, and make none; no reader meets an empty one."""
    if isinstance(place, Path):
        with place.open("r+b", buffering=0) as file:
            file.write(content)
    elif place.exists():
        place.write_bytes(content)  # one object at once


_PAUSES = (0.0, 0.02, 0.05, 0.1, 0.2)  # seconds before each look at leases that were made at the same moment


class Lease:
    """A lease that this process holds, and keeps alive until it lets go."""

    def __init__(self, leases: Leases, stretch: Stretch, generation: int, lost: Mapping[Stretch, int]) -> None:
        """Make no file yet.

        Args:
            leases: of the cell.
            stretch: what it is for.
            generation: of this lease.
            lost: generations of the leases that it takes the place of, and that overlap it.
        """
        self.stretch = stretch
        self._leases, self._generation = leases, generation
        self._replaced = {other: newest for other, newest in lost.items() if other != stretch} | {stretch: generation}
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
        with suppress(OSError):
            newest = self._leases.generations().get(self.stretch)
            token = mapping_in(lease_content(self.place)).get("token")
            return newest == self._generation and token == self._token
        return False

    def prevails(self) -> bool:
        """Whether no other process has one that overlaps it.

        Of several processes that make theirs at one moment the first by stretch keeps it and waits until the others,
        who look too, have let go; if all let go, they might do so for ever.
        """
        for pause in _PAUSES:
            time.sleep(pause)
            near = self._leases.look().near(self.stretch)
            others = [other for other, generation in near.items() if self._replaced.get(other) != generation]
            if not others:
                return True
            if min(others) <= self.stretch:
                return False
        return False  # they looked before this one was made, or are slow

    def release(self) -> None:
        """Let go of it, stored or not; those that it took the place of go first, so that it counts to the last."""
        with self._leases.without_beats():
            for stretch, newest in self._replaced.items():  # its own is the last of them
                for generation in range(newest + 1):
                    with suppress(OSError):
                        remove(self._leases.place(stretch, generation))
            self._leases.forget(self)  # last, so that an interruption leaves it to `release_all`


class Look:
    """What a listing has shown; each lease is read once at most, when it comes to that."""

    def __init__(self, generations: Mapping[Stretch, int], is_lost: Callable[[Stretch, int], bool]) -> None:
        """Read nothing yet.

        Args:
            generations: the highest of every lease.
            is_lost: whether a lease, by stretch and generation, has lost its holder.
        """
        self._generations, self._is_lost = generations, is_lost
        self._held: dict[Stretch, bool] = {}

    def near(self, stretch: Stretch) -> dict[Stretch, int]:
        """The leases that overlap a stretch, itself included, with their generations."""
        return {other: newest for other, newest in self._generations.items() if other.overlaps(stretch)}

    def held(self, stretch: Stretch) -> list[Stretch]:
        """What of a stretch somebody is at: the stretches of leases that overlap it and are not lost, sorted."""
        near = self.near(stretch)
        for other, newest in near.items():
            if other not in self._held:
                self._held[other] = not self._is_lost(other, newest)
        return sorted(other for other in near if self._held[other])


EXPIRY = 60.0
"""Seconds that a lease of another machine has to be seen unchanged before it is taken over, by default."""
EXPIRY_VARIABLE = "FEWSHOT_BENCH_LEASE_SECONDS"
BEATS = 12
"""Signs of life that a holder gives before its lease expires."""


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


class Beating(Protocol):
    """What others have to see alive."""

    def beat(self) -> None:
        """Give a sign of life; never raises what a disk may."""


class Heart:
    """Gives signs of life, for leases above all, from a thread of its own, while it is entered."""

    def __init__(self, alive: Sequence[Beating], *, every: float | None = None) -> None:
        """Begin with nothing yet.

        Args:
            alive: what the signs are for.
            every: so many seconds; as often as leases need it by default.
        """
        self._alive, self._every = alive, every or expiry_seconds() / BEATS
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
            for one in self._alive:
                one.beat()


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
        return self.folder / lease_name(stretch, generation)

    def generations(self) -> dict[Stretch, int]:
        """The highest generation of every lease."""
        newest: dict[Stretch, int] = {}
        for stretch, generation in filter(None, map(lease_named, files_under(self.folder))):
            newest[stretch] = max(generation, newest.get(stretch, 0))
        return newest

    def look(self) -> Look:
        """The leases as they are now."""
        return Look(self.generations(), self._is_lost)

    def take(self, stretch: Stretch, look: Look | None = None) -> Lease | None:
        """Take a lease, unless another process holds one that overlaps it.

        Args:
            stretch: what it is for.
            look: a moment ago; now by default.

        Raises:
            OSError: it cannot be written, or the cell's folder is gone, as with a disk of the network: nothing is made
                where that would be.
        """
        look = look or self.look()
        if look.held(stretch):
            return None
        self.check_folder()
        lost = look.near(stretch)
        lease = Lease(self, stretch, lost.get(stretch, -1) + 1, lost)
        self._being_taken = lease
        is_ours = create_exclusively(lease.place, lease.content())
        if is_ours:
            with self._lock:
                self._held.add(lease)
        self._being_taken = None
        if is_ours and not lease.prevails():
            lease.release()
            return None
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
            holder = owner_in(content or b"")
            if content is not None and not is_gone(holder):
                found.append(LeaseInfo(stretch, generation, holder))
        return found

    def clean(self) -> None:
        """Remove what holders that have ended have left, and what says of no holder.

        A holder of another machine has ended where it gave no sign of life, by the clock of the disk, for as long as it
        takes to be taken for lost: as a machine that went down after it had stored its chunk.
        """
        for stretch, generation in self.generations().items():
            holder = owner_in(self._content(stretch, generation) or b"")
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
                    overwrite(lease.place, lease.content())

    def without_beats(self) -> threading.Lock:
        """While it is held, nobody gives a sign of life."""
        return self._lock

    def forget(self, lease: Lease) -> None:
        """Give no more signs of life for a lease."""
        self._held.discard(lease)

    def _is_lost(self, stretch: Stretch, generation: int) -> bool:
        """Whether a lease's holder is gone, or was not heard of for too long; nobody reads his own."""
        with self._lock:
            if any(lease.stretch == stretch for lease in self._held):
                return False
        content = self._content(stretch, generation)
        if content is None:
            return False  # released a moment ago
        if is_gone(owner_in(content)):
            return True
        known, since = self._seen.get((stretch, generation), (None, 0.0))
        if known != content:
            self._seen[stretch, generation] = (content, self._now())
            return False
        expiry = self._expiry if owner_in(content) else self._expiry / BEATS  # its holder ended while it wrote
        return self._now() - since >= expiry

    def _content(self, stretch: Stretch, generation: int) -> bytes | None:
        try:
            return lease_content(self.place(stretch, generation))
        except FileNotFoundError:
            return None


def leases_of(cell_folder: Place) -> list[LeaseInfo]:
    """Who works at a cell."""
    return Leases(cell_folder).listed()
