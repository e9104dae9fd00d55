"""The workers of a study on a Ray cluster: as many processes as there is room for, those that die replaced.

Those who work at one method on a Ray cluster: chunks go to whoever is free, and to others where a worker dies.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.engine.engine import Chunk, Finished, Worker
from fewshot_bench.engine.ray_actor import Introduction, Method, RayActor, fetched
from fewshot_bench.engine.ray_cluster import Needs, described, ray, rooms
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.registry import WithCode

DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)
"""What Ray raises where a process, or its node, or what it answered, is no more."""

_STILLBORN = 3
_MORE_PATIENCE = 5  # times as long where there is room, which others use, or a machine is slow to start a process
_PAUSE = 1.0  # seconds between two looks at what the cluster has


@dataclass(eq=False)
class Member:
    """A process that is ready to work.

    Attributes:
        actor: Ray's handle of it.
        node: id of its node.
    """

    actor: Any
    node: str


@dataclass
class RayPool:
    """The processes.

    Attributes:
        needs: of each.
        device: that they are to compute on; after the first is ready, the one they do compute on.
        workers: how many are wanted; as many as there is room for by default.
        patience: seconds to wait for the first, and for another when all have died, while no node has room; five
            times that while one has.
        members: those that are ready.
    """

    needs: Needs
    device: str
    workers: int | None = None
    patience: float = 60
    members: list[Member] = field(default_factory=list)
    _starting: dict[Any, Any] = field(default_factory=dict)
    _rooms: dict[str, int] = field(default_factory=dict)
    _stillborn: int = 0
    _looked: float = -_PAUSE

    @property
    def size(self) -> int:
        """How many there are once those that have room now are ready."""
        room = sum(self._rooms.values())
        return max(1, min(self.workers or room, room))

    @property
    def nodes(self) -> int:
        """How many nodes have room for a worker."""
        return sum(room > 0 for room in self._rooms.values())

    def wait(self, references: Sequence[Any], seconds: float = _PAUSE) -> list[Any]:
        """Wait until one of some answers is there, a new process is ready, or the time is over; who is there."""
        everything = [*references, *self._starting]
        if everything:
            ray.wait(everything, timeout=seconds)
        else:
            time.sleep(seconds)
        self.tend()
        return list(ray.wait(list(references), num_returns=len(references), timeout=0)[0]) if references else []

    def tend(self) -> None:
        """Welcome processes that are ready, and start others where there is room.

        Raises:
            StudyError: processes do not start, or are not like this one.
        """
        ready = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=0)[0] if self._starting else []
        for reference in ready:
            self._welcome(reference, self._starting.pop(reference))
        if time.monotonic() - self._looked >= _PAUSE:
            self._looked = time.monotonic()
            self._rooms = rooms(self.needs)
            self.members = [member for member in self.members if member.node in self._rooms]
            self._fit(sum(self._rooms.values()) if self.workers is None else self.workers)

    def somebody(self) -> Member:
        """One that is ready, waiting for it if need be.

        Raises:
            StudyError: there is none after a while.
        """
        began = time.monotonic()
        self.tend()
        while not self.members:
            limit = self.patience * (_MORE_PATIENCE if self.nodes else 1)
            if time.monotonic() - began >= limit:
                raise StudyError(
                    f"the Ray cluster had no room for a worker in {limit:g} s: a worker needs {self.needs} on "
                    f"one node, the cluster has {described()}{', all in use' if self.nodes else ''}. "
                    "Use a smaller --cpus-per-worker or --gpus-per-worker, or a longer --ray-wait."
                )
            self.wait([])
        return self.members[0]

    def lost(self, member: Member) -> None:
        """Take note that one is no more, or is no longer wanted: another will take its place."""
        if member in self.members:
            self.members.remove(member)
        ray.kill(member.actor)
        self._looked = -_PAUSE

    def close(self) -> None:
        """End all of them."""
        for actor in [*(member.actor for member in self.members), *self._starting.values()]:
            ray.kill(actor)
        self.members.clear()
        self._starting.clear()

    def _fit(self, wanted: int) -> None:
        """Start what is missing, or stop waiting for what no longer has room."""
        missing = wanted - len(self.members) - len(self._starting)
        for _ in range(missing):
            actor = _started(self.needs)
            self._starting[actor.introduce.remote(self.device)] = actor
        for reference in list(self._starting)[::-1][: max(0, -missing)]:
            ray.kill(self._starting.pop(reference))

    def _welcome(self, reference: Any, actor: Any) -> None:
        try:
            introduction: Introduction = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise StudyError(f"a worker of the Ray cluster says: {error.cause}") from error
        except DEATHS as error:
            self._stillborn += 1
            if self._stillborn >= _STILLBORN:
                raise StudyError(
                    f"workers of the Ray cluster end before they begin: {_last_line(error)} "
                    "Has every node the same fewshot-bench installed?"
                ) from error
            return
        self._stillborn = 0
        check_versions(introduction.versions)
        self.device = introduction.device
        self.members.append(Member(actor, introduction.node))


def _started(needs: Needs) -> Any:
    decorate: Any = ray.remote
    kind = decorate(
        num_cpus=needs.cpus,
        num_gpus=needs.gpus,
        scheduling_strategy="SPREAD",
        concurrency_groups={"telling": 1},
    )(RayActor)
    return kind.remote(needs.cpus, needs.gpus)


def check_versions(theirs: Mapping[str, str]) -> None:
    """Refuse a worker whose outcomes would not be those of this process.

    Args:
        theirs: versions of its packages.

    Raises:
        StudyError: one differs.
    """
    differing = [
        f"{package} {theirs.get(package)} and not {version}"
        for package, version in installed_versions().items()
        if theirs.get(package) != version
    ]
    if differing:
        raise StudyError(f"a worker of the Ray cluster has {', '.join(differing)}. Install the same on every node.")


def _last_line(error: Exception) -> str:
    """The end of what Ray tells, where the cause stands."""
    return [line.strip() for line in str(error).splitlines() if line.strip()][-1]


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
