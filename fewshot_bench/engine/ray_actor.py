"""A process of a Ray cluster: it makes one worker per method, computes chunks, and reports its progress."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.devices import chosen_device, limit_to_share, release_unused
from fewshot_bench.engine.engine import Chunk, Worker, computed
from fewshot_bench.engine.ray_cluster import ray
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.errors import FewshotBenchError, StudyError, keep_traceback
from fewshot_bench.progress import Progress, Step


@dataclass(frozen=True)
class StageProgress:
    """How far a stage is; see `Progress`."""

    description: str
    total: int
    unit: str
    done: int = 0
    note: str = ""
    is_open: bool = True


class ProgressRecorder:
    """A `Progress` that another thread can read."""

    def __init__(self) -> None:
        self._stages: list[StageProgress] = []

    def stages(self) -> Sequence[StageProgress]:
        """All stages so far, in the order they began."""
        return tuple(self._stages)

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Open a stage; see `Progress`."""
        place = len(self._stages)
        self._stages.append(StageProgress(description, total, unit))
        try:
            yield _RecordedStep(self._stages, place)
        finally:
            self._stages[place] = replace(self._stages[place], is_open=False)


class _RecordedStep:
    def __init__(self, stages: list[StageProgress], place: int) -> None:
        self._stages, self._place = stages, place

    def advance(self, amount: int = 1, note: str = "") -> None:
        before = self._stages[self._place]
        self._stages[self._place] = replace(before, done=before.done + amount, note=note or before.note)


class ProgressReplay(ExitStack):
    """Shows the stages of a recorder in this process while it is entered."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._shown: list[tuple[StageProgress, Step, ExitStack]] = []

    def show(self, stages: Sequence[StageProgress]) -> None:
        """Show what has changed."""
        for place, now in enumerate(stages):
            if place == len(self._shown):
                opened = self.enter_context(ExitStack())
                step = opened.enter_context(self._progress.step(now.description, now.total, unit=now.unit))
                self._shown.append((StageProgress(now.description, now.total, now.unit), step, opened))
            before, step, opened = self._shown[place]
            if (now.done, now.note) != (before.done, before.note):
                step.advance(now.done - before.done, now.note)
            if before.is_open and not now.is_open:
                opened.close()
            self._shown[place] = (now, step, opened)


@dataclass(frozen=True)
class ActorInfo:
    """The id of a process's node, its device, and its versions of the packages that can change a result."""

    node: str
    device: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Method:
    """A method that needs workers.

    Attributes:
        number: unique within an engine.
        factory: a reference to the worker factory, in a list, because Ray would fetch a plain one every time.
    """

    number: int
    factory: list[Any]


@dataclass(frozen=True)
class Answer:
    """The value of a call or its error; it is lost if the worker factory has vanished from the object store."""

    value: Any = None
    error: Exception | None = None
    peak_bytes: int = 0
    is_lost: bool = False
    progress: Sequence[StageProgress] = field(default=())


class RayActor:
    """The process. Its methods return an `Answer` instead of raising: a method may be third-party code."""

    def __init__(self, threads: int, gpus: float) -> None:
        """Limit torch to a number of threads, and to a share of the memory of a GPU."""
        self._threads = threads
        torch.set_num_threads(threads)
        if 0 < gpus < 1 and torch.cuda.is_available():
            limit_to_share(gpus, torch.device("cuda"))
        self._workers: dict[int, Worker] = {}
        self._recorder = ProgressRecorder()

    def info(self, device: str) -> ActorInfo:
        """Where it runs, once it has a torch device or that for "auto"; raises StudyError for an absent device."""
        node = ray.get_runtime_context().get_node_id()
        return ActorInfo(node, chosen_device(device), installed_versions())

    def call(
        self, threads: int, function: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> Answer:
        """Call a function with more threads, while other processes of the node are idle; `progress` is recorded."""
        self._recorder = ProgressRecorder()
        if "progress" in named:
            named = {**named, "progress": self._recorder}
        torch.set_num_threads(threads)
        try:
            return Answer(_on_cpu(function(*arguments, **named)), progress=self._recorder.stages())
        except Exception as error:
            return Answer(error=portable(error), progress=self._recorder.stages())
        finally:
            torch.set_num_threads(self._threads)
            release_unused()  # other processes may share the GPU

    @ray.method(concurrency_group="progress")
    def progress(self) -> Sequence[StageProgress]:
        """The progress of the current call."""
        return self._recorder.stages()

    def chunk_size(self, method: Method, protocol: Protocol) -> Answer:
        """See `Worker.chunk`."""
        return self._with_worker(method, lambda worker: Answer(worker.chunk(protocol)))

    def compute(self, method: Method, chunk: Chunk) -> Answer:
        """The outcomes of a chunk."""

        def answer(worker: Worker) -> Answer:
            finished = computed(worker, chunk)
            error = None if finished.error is None else portable(finished.error)
            return Answer(finished.frame, error, finished.peak_bytes)

        return self._with_worker(method, answer)

    def forget(self, number: int) -> None:
        """Forget the worker of a method."""
        if self._workers.pop(number, None) is not None:
            release_unused()

    def _with_worker(self, method: Method, ask: Callable[[Worker], Answer]) -> Answer:
        try:
            if method.number not in self._workers:
                self._workers[method.number] = ray.get(method.factory[0])()
            return ask(self._workers[method.number])
        except ray.exceptions.ObjectLostError:
            return Answer(is_lost=True)
        except Exception as error:
            return Answer(error=portable(error))


def portable(error: Exception) -> Exception:
    """An error that can be pickled: the same, or one with its sentence."""
    keep_traceback(error)
    error.__traceback__ = error.__cause__ = error.__context__ = None
    try:
        copy.copy(error)
        ray.cloudpickle.dumps(error)
    except Exception:
        kind = f"{type(error).__name__}: "
        same = StudyError(str(error)) if isinstance(error, FewshotBenchError) else RuntimeError(f"{kind}{error}")
        keep_traceback(same, error)
        return same
    return error


def fetched(reference: Any) -> Answer:
    """The answer behind a reference of Ray's, or why the process could not read the question.

    Raises:
        RayError: the process has died.
    """
    try:
        answer: Answer = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Answer(error=error.cause if isinstance(error.cause, Exception) else error)
    return answer


def _on_cpu(result: Any) -> Any:
    """A result for a process without the device; the network of a backbone is moved to the CPU."""
    network = getattr(result, "network", None)
    if isinstance(network, torch.nn.Module):
        network.cpu()
    return result.cpu() if isinstance(result, (torch.Tensor, torch.nn.Module)) else result


def copied_from_store(result: Any) -> Any:
    """A result that outlives the object store, which holds arrays that were not copied."""
    if isinstance(result, np.ndarray) and not result.flags.writeable:
        copied: NDArray[Any] = result.copy()
        return copied
    return result
