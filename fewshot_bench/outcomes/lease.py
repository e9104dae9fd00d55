"""One lease that this process holds."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from fewshot_bench.outcomes.kinds import mapping_in
from fewshot_bench.outcomes.lease_file import Stretch, lease_content
from fewshot_bench.paths import Place
from fewshot_bench.processes import owner
from fewshot_bench.stored_files import remove

if TYPE_CHECKING:
    from fewshot_bench.outcomes.leases import Leases

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
