"""The engine of many processes, on one machine or on many, which Ray starts and watches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any

from fewshot_bench.engine.engine import Crew, P, T, Worker
from fewshot_bench.engine.ray_actor import Answer, Replayed, fetched, taken_out
from fewshot_bench.engine.ray_cluster import Needs, cluster_has_gpus, connected, ray
from fewshot_bench.engine.ray_worker_pool import DEATHS, MOST_DEATHS, WORKER_DIED, Member, RayCrew, RayPool
from fewshot_bench.errors import StudyError
from fewshot_bench.progress import SILENT
from fewshot_bench.registry import WithCode

_LOOK = 0.5  # seconds between two looks at how far a function is


class RayEngine:
    """Computes on a Ray cluster; see `Engine`. It is a context: what it started ends with it.

    Attributes:
        device: that workers compute on.
    """

    device: str

    def __init__(
        self,
        address: str | None = None,
        *,
        device: str = "auto",
        workers: int | None = None,
        cpus_per_worker: int = 1,
        gpus_per_worker: float | None = None,
        patience: float = 60,
    ) -> None:
        """Say what is wanted; nothing is started yet.

        Args:
            address: of the head node, HOST:PORT; "auto" for the cluster that this machine belongs to; by default a
                cluster of this machine alone is started, and ended.
            device: a torch device without a number, for Ray chooses among GPUs; "auto" is decided by the workers.
            workers: how many; as many as the cluster has room for by default, also of nodes that join later.
            cpus_per_worker: cores that each takes, which are its threads.
            gpus_per_worker: GPUs that each takes, or a part of one; by default 1 if the cluster has GPUs and the
                device may be one, and otherwise 0.
            patience: seconds to wait for a node with room; five times that where others use the room.

        Raises:
            StudyError: these contradict each other.
        """
        if device.startswith("cuda:"):
            raise StudyError(f"--engine ray chooses among GPUs itself. Use --device cuda, not {device}.")
        if gpus_per_worker == 0 and device == "cuda":
            raise StudyError("--device cuda needs --gpus-per-worker above 0, such as 1 or 0.5.")
        if gpus_per_worker is not None and gpus_per_worker > 1 and gpus_per_worker != int(gpus_per_worker):
            raise StudyError(f"--gpus-per-worker takes a part of one GPU or a whole number, not {gpus_per_worker:g}.")
        self.device = device
        self._address, self._workers, self._patience = address, workers, patience
        self._cpus, self._gpus = cpus_per_worker, gpus_per_worker
        self._open = ExitStack()
        self._pool: RayPool | None = None

    def __enter__(self) -> RayEngine:
        """Connect, and wait for the first worker.

        Raises:
            StudyError: there is no cluster, or it has no room.
        """
        with ExitStack() as opening:
            opening.enter_context(connected(self._address))
            gpus = self._gpus
            if gpus is None:
                gpus = 1 if cluster_has_gpus() and self.device in ("auto", "cuda") else 0
            pool = RayPool(Needs(self._cpus, gpus), self.device, self._workers, self._patience)
            opening.callback(pool.close)
            pool.somebody()
            self._pool, self.device = pool, pool.device
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool = None
        self._open.close()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on a worker, with the threads of all workers of its node; `progress` is shown here.

        Raises:
            Exception: whatever was raised there.
            StudyError: its worker died again and again.
        """
        pool = self._entered()
        named: dict[str, Any] = dict(kwargs)
        progress = named.get("progress", SILENT)
        if "progress" in named:
            named["progress"] = None
        for _ in range(MOST_DEATHS):
            member = pool.somebody()
            threads = pool.needs.cpus * Counter(each.node for each in pool.members)[member.node]
            with Replayed(progress) as shown, suppress(*DEATHS):
                answer = _followed(member, member.actor.call.remote(threads, function, WithCode(args), named), shown)
                if answer.error is not None:
                    raise answer.error
                result: T = taken_out(answer.value)
                return result
            pool.lost(member)
        name = getattr(function, "__name__", "a function")
        raise StudyError(f"{name}: {WORKER_DIED}")

    @contextmanager
    def method(self, make: Callable[[], Worker]) -> Iterator[Crew]:
        """Workers at one method; see `Engine.method`."""
        crew = RayCrew(self._entered(), make)
        try:
            yield crew
        finally:
            crew.close()

    def facts(self) -> dict[str, Any]:
        """How many workers the cluster has room for now, on how many nodes, and what each takes."""
        pool = self._entered()
        return {
            "name": "ray",
            "version": ray.__version__,
            "workers": pool.size,
            "nodes": pool.nodes,
            "cpus_per_worker": pool.needs.cpus,
            "gpus_per_worker": pool.needs.gpus,
        }

    def _entered(self) -> RayPool:
        if self._pool is None:
            raise StudyError("a RayEngine is a context: with RayEngine() as engine: ...")
        return self._pool


def _followed(member: Member, reference: Any, shown: Replayed) -> Answer:
    """Wait for an answer, and show how far it is."""
    while not ray.wait([reference], timeout=_LOOK)[0]:
        with suppress(ray.exceptions.GetTimeoutError):
            shown.show(ray.get(member.actor.told.remote(), timeout=_LOOK))
    answer = fetched(reference)
    shown.show(answer.told)
    return answer
