"""Those who work at one method on a Ray cluster: chunks go to whoever is free, and to others where a worker dies."""

from __future__ import annotations

import itertools
import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from fewshot_bench.engine.engine import Chunk, Finished, Worker
from fewshot_bench.engine.ray_actor import Method, fetched
from fewshot_bench.engine.ray_package import ray
from fewshot_bench.engine.ray_pool import DEATHS, Member, RayPool
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.registry import WithCode

MOST_DEATHS = 3
"""Workers that may die at one chunk before it counts as failed."""
WORKER_DIED = f"its worker died {MOST_DEATHS} times, perhaps for want of memory."

_CHUNKS_PER_WORKER = 4
_NUMBERS = itertools.count()


class RayCrew:
    """See `Crew`. A few chunks more than there are workers wait here, so that nobody waits for the driver."""

    def __init__(self, pool: RayPool, make: Callable[[], Worker]) -> None:
        """Put what makes workers into the object store, once for all of them."""
        self._pool, self._make = pool, make
        self._method = Method(next(_NUMBERS), [ray.put(WithCode(make))])
        self._waiting: deque[Chunk] = deque()
        self._under_way: dict[Any, tuple[Member, Chunk]] = {}
        self._deaths: Counter[Chunk] = Counter()

    @property
    def room(self) -> int:
        """How many chunks should be under way or waiting."""
        return 2 * max(1, len(self._pool.members))

    def chunk(self, protocol: Protocol) -> int:
        """What a worker asks for, or less, so that all have a few."""
        asked: int = self._asked("chunk_size", protocol)
        fair = math.ceil(protocol.runs * protocol.episodes / (_CHUNKS_PER_WORKER * self._pool.size))
        return max(1, min(asked, fair))

    def start(self, chunk: Chunk) -> None:
        """Give it to a worker as soon as one is free."""
        self._waiting.append(chunk)
        self._hand_out()

    def finished(self) -> list[Finished]:
        """See `Crew`; a chunk whose workers die again and again has failed.

        Raises:
            StudyError: no worker is left, and no other starts.
        """
        while self._waiting or self._under_way:
            self._pool.somebody()
            self._hand_out()
            ended = [self._end(reference) for reference in self._pool.wait(list(self._under_way))]
            self._hand_out()
            if told := [one for one in ended if one is not None]:
                return told
        return []

    def close(self) -> None:
        """Let the method go; who is still at work for it is stopped."""
        for member in {member for member, _ in self._under_way.values()}:
            self._pool.lost(member)
        for member in self._pool.members:
            member.actor.forget.remote(self._method.number)
        self._under_way.clear()
        self._method.make.clear()

    def _hand_out(self) -> None:
        busy = {member for member, _ in self._under_way.values()}
        for member in self._pool.members:
            if self._waiting and member not in busy:
                chunk = self._waiting.popleft()
                self._under_way[member.actor.compute.remote(self._method, chunk)] = (member, chunk)

    def _end(self, reference: Any) -> Finished | None:
        """What has become of a chunk; None where it has to be computed again."""
        member, chunk = self._under_way.pop(reference)
        try:
            answer = fetched(reference)
        except DEATHS as error:
            return self._died(member, chunk, error)
        if answer.is_lost:
            self._put_again()
            self._waiting.appendleft(chunk)
            return None
        self._deaths.pop(chunk, None)
        return Finished(chunk, answer.value, answer.error, answer.peak_bytes)

    def _died(self, member: Member, chunk: Chunk, error: Exception) -> Finished | None:
        self._pool.lost(member)
        self._deaths[chunk] += 1
        if self._deaths[chunk] < MOST_DEATHS:
            self._waiting.appendleft(chunk)
            return None
        del self._deaths[chunk]
        reason = StudyError(WORKER_DIED)
        reason.__cause__ = error
        return Finished(chunk, None, reason)

    def _asked(self, question: str, *arguments: Any) -> Any:
        """What one of the workers answers.

        Raises:
            Exception: whatever was raised there.
        """
        for _ in range(MOST_DEATHS):
            member = self._pool.somebody()
            try:
                answer = fetched(getattr(member.actor, question).remote(self._method, *arguments))
            except DEATHS:
                self._pool.lost(member)
                continue
            if answer.is_lost:
                self._put_again()
            elif answer.error is not None:
                raise answer.error
            else:
                return answer.value
        raise StudyError(f"a method could not be made: {WORKER_DIED}")

    def _put_again(self) -> None:
        """What makes workers went with a node."""
        self._method = Method(self._method.number, [ray.put(WithCode(self._make))])
