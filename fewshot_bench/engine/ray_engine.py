"""The engine of many processes, on one machine or on many, which Ray starts and watches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from types import TracebackType
from typing import Any

from fewshot_bench.engine.engine import P, T, Worker, WorkerPool
from fewshot_bench.engine.ray_actor import Answer, ProgressReplay, copied_from_store, fetched
from fewshot_bench.engine.ray_cluster import Needs, cluster_has_gpus, connected, ray
from fewshot_bench.engine.ray_worker_pool import DEATHS, MOST_DEATHS, WORKER_DIED, RayActors, RayWorkerPool, ReadyActor
from fewshot_bench.errors import StudyError
from fewshot_bench.progress import SILENT
from fewshot_bench.registry import WithCode

_PAUSE = 0.5  # seconds between two looks at the progress of a function


class RayEngine:
    """Computes on a Ray cluster; see `Engine`. It is a context manager: what it starts ends with it.

    Attributes:
        device: of the workers.
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
        """Start nothing yet.

        Args:
            address: of the head node, HOST:PORT; "auto" for the cluster of this machine; by default a cluster on this
                machine alone is started, and ended.
            device: a torch device without a number, since Ray chooses the GPU; the workers decide "auto".
            workers: how many; by default as many as the cluster has room for, including nodes that join later.
            cpus_per_worker: cores of each worker, which are its threads.
            gpus_per_worker: GPUs of each worker, or a part of one; by default 1 if the cluster has GPUs and the device
                may be one, otherwise 0.
            patience: seconds to wait for a node with room; five times that while others use the room.

        Raises:
            StudyError: the arguments contradict each other.
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
        self._actors: RayActors | None = None

    def __enter__(self) -> RayEngine:
        """Connect, and wait for the first worker; raises StudyError if there is no cluster, or it has no room."""
        with ExitStack() as opening:
            opening.enter_context(connected(self._address))
            gpus = self._gpus
            if gpus is None:
                gpus = 1 if cluster_has_gpus() and self.device in ("auto", "cuda") else 0
            actors = RayActors(Needs(self._cpus, gpus), self.device, self._workers, self._patience)
            opening.callback(actors.close)
            actors.first_ready()
            self._actors, self.device = actors, actors.device
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._actors = None
        self._open.close()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on a worker, with the threads of all workers of its node; `progress` is shown here.

        Raises:
            Exception: whatever the function raised.
            StudyError: workers died repeatedly.
        """
        actors = self._entered()
        named: dict[str, Any] = dict(kwargs)
        progress = named.get("progress", SILENT)
        if "progress" in named:
            named["progress"] = None
        for _ in range(MOST_DEATHS):
            ready = actors.first_ready()
            threads = actors.needs.cpus * Counter(each.node for each in actors.ready)[ready.node]
            with ProgressReplay(progress) as replay, suppress(*DEATHS):
                answer = _followed(ready, ready.actor.call.remote(threads, function, WithCode(args), named), replay)
                if answer.error is not None:
                    raise answer.error
                result: T = copied_from_store(answer.value)
                return result
            actors.drop(ready)
        name = getattr(function, "__name__", "a function")
        raise StudyError(f"{name}: {WORKER_DIED}")

    @contextmanager
    def workers(self, make: Callable[[], Worker]) -> Iterator[WorkerPool]:
        """See `Engine`."""
        with closing(RayWorkerPool(self._entered(), make)) as pool:
            yield pool

    def facts(self) -> dict[str, Any]:
        """How many workers the cluster has room for now, on how many nodes, and what each takes."""
        actors = self._entered()
        return {
            "name": "ray",
            "version": ray.__version__,
            "workers": actors.size,
            "nodes": actors.nodes,
            "cpus_per_worker": actors.needs.cpus,
            "gpus_per_worker": actors.needs.gpus,
        }

    def _entered(self) -> RayActors:
        if self._actors is None:
            raise StudyError("a RayEngine is a context manager: with RayEngine() as engine: ...")
        return self._actors


def _followed(ready: ReadyActor, reference: Any, replay: ProgressReplay) -> Answer:
    """Wait for an answer, and show its progress."""
    while not ray.wait([reference], timeout=_PAUSE)[0]:
        with suppress(ray.exceptions.GetTimeoutError):
            replay.show(ray.get(ready.actor.progress.remote(), timeout=_PAUSE))
    answer = fetched(reference)
    replay.show(answer.progress)
    return answer
