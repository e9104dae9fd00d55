"""The workers of a study on a Ray cluster: as many processes as there is room for; those that die are replaced."""

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
from fewshot_bench.engine.ray_actor import ActorInfo, Method, RayActor, fetched
from fewshot_bench.engine.ray_cluster import Needs, described, ray, room_by_node
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
"""What Ray raises when a process, its node, or its answer is gone."""

_MOST_FAILED_STARTS = 3
_MORE_PATIENCE = 5  # times as long if nodes have room: others use it, or a machine is slow to start a process
_PAUSE = 1.0  # seconds between two looks at the nodes of the cluster


@dataclass(eq=False)
class ReadyActor:
    """A process that is ready to work: Ray's handle, and the id of its node."""

    actor: Any
    node: str


@dataclass
class RayActors:
    """The processes of an engine, which compute for one method after another.

    Attributes:
        needs: of each process.
        device: the one asked for; once a process is ready, the one that it computes on.
        workers: how many to start; by default as many as there is room for.
        patience: seconds to wait until a process is ready while no node has room; five times that while one has.
        ready: the processes that are ready.
    """

    needs: Needs
    device: str
    workers: int | None = None
    patience: float = 60
    ready: list[ReadyActor] = field(default_factory=list)
    _starting: dict[Any, Any] = field(default_factory=dict)
    _room: dict[str, int] = field(default_factory=dict)
    _failed_starts: int = 0
    _refreshed: float = -_PAUSE

    @property
    def size(self) -> int:
        """How many there will be once those that have room now are ready."""
        room = sum(self._room.values())
        return max(1, min(self.workers or room, room))

    @property
    def nodes(self) -> int:
        """How many nodes have room for a worker."""
        return sum(room > 0 for room in self._room.values())

    def wait(self, references: Sequence[Any], seconds: float = _PAUSE) -> list[Any]:
        """Wait for an answer, a new process, or the end of the time; returns the references that have an answer."""
        everything = [*references, *self._starting]
        if everything:
            ray.wait(everything, timeout=seconds)
        else:
            time.sleep(seconds)
        self.refresh()
        return list(ray.wait(list(references), num_returns=len(references), timeout=0)[0]) if references else []

    def refresh(self) -> None:
        """Add ready processes and start more where there is room; raises StudyError on failure or other versions."""
        ready = ray.wait(list(self._starting), num_returns=len(self._starting), timeout=0)[0] if self._starting else []
        for reference in ready:
            self._add(reference, self._starting.pop(reference))
        if time.monotonic() - self._refreshed >= _PAUSE:
            self._refreshed = time.monotonic()
            self._room = room_by_node(self.needs)
            self.ready = [each for each in self.ready if each.node in self._room]
            self._resize(sum(self._room.values()) if self.workers is None else self.workers)

    def first_ready(self) -> ReadyActor:
        """A process that is ready; waits for one. Raises StudyError if none is ready in time."""
        began = time.monotonic()
        self.refresh()
        while not self.ready:
            limit = self.patience * (_MORE_PATIENCE if self.nodes else 1)
            if time.monotonic() - began >= limit:
                raise StudyError(
                    f"the Ray cluster had no room for a worker in {limit:g} s: a worker needs {self.needs} on "
                    f"one node, the cluster has {described()}{', all in use' if self.nodes else ''}. "
                    "Use a smaller --cpus-per-worker or --gpus-per-worker, or a longer --ray-wait."
                )
            self.wait([])
        return self.ready[0]

    def drop(self, lost: ReadyActor) -> None:
        """Drop a process that has died or is not needed; another takes its place."""
        if lost in self.ready:
            self.ready.remove(lost)
        ray.kill(lost.actor)
        self._refreshed = -_PAUSE

    def close(self) -> None:
        """End all processes."""
        for actor in [*(each.actor for each in self.ready), *self._starting.values()]:
            ray.kill(actor)
        self.ready.clear()
        self._starting.clear()

    def _resize(self, wanted: int) -> None:
        """Start missing processes, or stop waiting for those that no longer have room."""
        missing = wanted - len(self.ready) - len(self._starting)
        for _ in range(missing):
            actor = _started(self.needs)
            self._starting[actor.info.remote(self.device)] = actor
        for reference in list(self._starting)[::-1][: max(0, -missing)]:
            ray.kill(self._starting.pop(reference))

    def _add(self, reference: Any, actor: Any) -> None:
        try:
            info: ActorInfo = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise StudyError(f"a worker of the Ray cluster says: {error.cause}") from error
        except DEATHS as error:
            self._failed_starts += 1
            if self._failed_starts >= _MOST_FAILED_STARTS:
                cause = [line.strip() for line in str(error).splitlines() if line.strip()][-1]
                raise StudyError(
                    f"workers of the Ray cluster end before they begin: {cause} "
                    "Has every node the same fewshot-bench installed?"
                ) from error
            return
        self._failed_starts = 0
        check_versions(info.versions)
        self.device = info.device
        self.ready.append(ReadyActor(actor, info.node))


def _started(needs: Needs) -> Any:
    remote: Any = ray.remote
    decorate = remote(
        num_cpus=needs.cpus,
        num_gpus=needs.gpus,
        scheduling_strategy="SPREAD",
        concurrency_groups={"progress": 1},
    )
    return decorate(RayActor).remote(needs.cpus, needs.gpus)


def check_versions(theirs: Mapping[str, str]) -> None:
    """Raise StudyError for a worker with other versions of packages, whose outcomes could differ."""
    differing = [
        f"{package} {theirs.get(package)} and not {version}"
        for package, version in installed_versions().items()
        if theirs.get(package) != version
    ]
    if differing:
        raise StudyError(f"a worker of the Ray cluster has {', '.join(differing)}. Install the same on every node.")


MOST_DEATHS = 3
"""Workers that may die while they compute a chunk before it counts as failed."""
WORKER_DIED = f"its worker died {MOST_DEATHS} times, perhaps because memory ran out."

_CHUNKS_PER_WORKER = 4
_NUMBERS = itertools.count()


class RayWorkerPool:
    """See `WorkerPool`. Free workers take chunks that wait here, a few more than workers, and need no driver."""

    def __init__(self, actors: RayActors, make: Callable[[], Worker]) -> None:
        """Put the worker factory into the object store, once for all workers."""
        self._actors, self._make = actors, make
        self._method = Method(next(_NUMBERS), [ray.put(WithCode(make))])
        self._queued: deque[Chunk] = deque()
        self._running: dict[Any, tuple[ReadyActor, Chunk]] = {}
        self._deaths: Counter[Chunk] = Counter()

    @property
    def room(self) -> int:
        """How many chunks to have running or waiting."""
        return 2 * max(1, len(self._actors.ready))

    def chunk(self, protocol: Protocol) -> int:
        """What a worker wants, or less, so that every worker gets several."""
        asked: int = self._asked("chunk_size", protocol)
        fair = math.ceil(protocol.runs * protocol.episodes / (_CHUNKS_PER_WORKER * self._actors.size))
        return max(1, min(asked, fair))

    def start(self, chunk: Chunk) -> None:
        """Give a chunk to a worker as soon as one is free."""
        self._queued.append(chunk)
        self._hand_out()

    def finished(self) -> list[Finished]:
        """See `WorkerPool`; a chunk whose workers die repeatedly has failed. Raises StudyError without workers."""
        while self._queued or self._running:
            self._actors.first_ready()
            self._hand_out()
            results = [self._result(reference) for reference in self._actors.wait(list(self._running))]
            self._hand_out()
            if finished := [result for result in results if result is not None]:
                return finished
        return []

    def close(self) -> None:
        """Forget the method, and stop the processes that still compute for it."""
        for busy in {actor for actor, _ in self._running.values()}:
            self._actors.drop(busy)
        for ready in self._actors.ready:
            ready.actor.forget.remote(self._method.number)
        self._running.clear()
        self._method.factory.clear()

    def _hand_out(self) -> None:
        busy = {actor for actor, _ in self._running.values()}
        for ready in self._actors.ready:
            if self._queued and ready not in busy:
                chunk = self._queued.popleft()
                self._running[ready.actor.compute.remote(self._method, chunk)] = (ready, chunk)

    def _result(self, reference: Any) -> Finished | None:
        """A finished chunk; None if it has to be computed again."""
        actor, chunk = self._running.pop(reference)
        try:
            answer = fetched(reference)
        except DEATHS as error:
            return self._died(actor, chunk, error)
        if answer.is_lost:
            self._send_factory()
            self._queued.appendleft(chunk)
            return None
        self._deaths.pop(chunk, None)
        return Finished(chunk, answer.value, answer.error, answer.peak_bytes)

    def _died(self, actor: ReadyActor, chunk: Chunk, error: Exception) -> Finished | None:
        self._actors.drop(actor)
        self._deaths[chunk] += 1
        if self._deaths[chunk] < MOST_DEATHS:
            self._queued.appendleft(chunk)
            return None
        del self._deaths[chunk]
        reason = StudyError(WORKER_DIED)
        reason.__cause__ = error
        return Finished(chunk, None, reason)

    def _asked(self, question: str, *arguments: Any) -> Any:
        """The answer of any worker.

        Raises:
            Exception: whatever the worker raised.
        """
        for _ in range(MOST_DEATHS):
            ready = self._actors.first_ready()
            try:
                answer = fetched(getattr(ready.actor, question).remote(self._method, *arguments))
            except DEATHS:
                self._actors.drop(ready)
                continue
            if answer.is_lost:
                self._send_factory()
            elif answer.error is not None:
                raise answer.error
            else:
                return answer.value
        raise StudyError(f"a method could not be made: {WORKER_DIED}")

    def _send_factory(self) -> None:
        """Send the worker factory anew, after it was lost with a node."""
        self._method = Method(self._method.number, [ray.put(WithCode(self._make))])
