"""The leases of a cell at one moment, as one process sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fewshot_bench.outcomes.lease_file import Stretch


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
