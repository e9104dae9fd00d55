"""Lease files: what their names say, what lies in them, and how one is changed while others read it.

<folder>/<cell key>/leases/run-000-episodes-00000-00512.0.lease
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fewshot_bench.errors import OutcomeError
from fewshot_bench.outcomes.kinds import mapping_in
from fewshot_bench.paths import Place
from fewshot_bench.stored_files import read_bytes

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
