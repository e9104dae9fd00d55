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
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from fewshot_bench.atomic import create_exclusively, is_unchanged_for
from fewshot_bench.outcomes.heart import BEATS, expiry_seconds
from fewshot_bench.outcomes.lease import Lease
from fewshot_bench.outcomes.lease_file import (
    Stretch,
    lease_content,
    lease_name,
    lease_named,
    overwrite,
    owner_in,
)
from fewshot_bench.outcomes.lease_look import Look
from fewshot_bench.paths import Place
from fewshot_bench.processes import is_gone
from fewshot_bench.stored_files import files_under, remove


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
