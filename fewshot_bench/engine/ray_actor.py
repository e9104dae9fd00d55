"""One process of a Ray cluster at work: it makes the workers of methods once each, and computes chunks.

The progress of a function in another process, shown in this one.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.engine.engine import Chunk, Worker, chosen_device
from fewshot_bench.engine.local import computed
from fewshot_bench.engine.ray_cluster import ray
from fewshot_bench.episodes.protocol import Protocol
from fewshot_bench.errors import FewshotBenchError, StudyError, keep_traceback
from fewshot_bench.progress import Progress, Step


@dataclass(frozen=True)
class Told:
    """How far one stage is.

    Attributes:
        description: of the stage.
        total: units, 0 if that is not known.
        unit: that they are counted in.
        done: how many.
        note: the last one.
        is_open: whether it goes on.
    """

    description: str
    total: int
    unit: str
    done: int = 0
    note: str = ""
    is_open: bool = True


class Recorder:
    """A `Progress` that another thread can ask."""

    def __init__(self) -> None:
        self._told: list[Told] = []

    def told(self) -> Sequence[Told]:
        """All stages so far, in the order they began."""
        return tuple(self._told)

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        """Open a stage; see `Progress`."""
        place = len(self._told)
        self._told.append(Told(description, total, unit))
        try:
            yield _RecordedStep(self._told, place)
        finally:
            self._told[place] = replace(self._told[place], is_open=False)


class _RecordedStep:
    def __init__(self, told: list[Told], place: int) -> None:
        self._told, self._place = told, place

    def advance(self, amount: int = 1, note: str = "") -> None:
        before = self._told[self._place]
        self._told[self._place] = replace(before, done=before.done + amount, note=note or before.note)


class Replayed:
    """Shows what a recorder told, as often as it is asked."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._shown: list[tuple[Told, Step, ExitStack]] = []

    def show(self, told: Sequence[Told]) -> None:
        """Bring what is shown up to date."""
        for place, now in enumerate(told):
            if place == len(self._shown):
                opened = ExitStack()
                step = opened.enter_context(self._progress.step(now.description, now.total, unit=now.unit))
                self._shown.append((replace(now, done=0, note="", is_open=True), step, opened))
            before, step, opened = self._shown[place]
            if (now.done, now.note) != (before.done, before.note):
                step.advance(now.done - before.done, now.note)
            if before.is_open and not now.is_open:
                opened.close()
            self._shown[place] = (now, step, opened)

    def __enter__(self) -> Replayed:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, _, opened in reversed(self._shown):
            opened.close()


@dataclass(frozen=True)
class Introduction:
    """What a new process says of itself.

    Attributes:
        node: id of its node.
        device: that it computes on.
        versions: of the packages that can change a result.
    """

    node: str
    device: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Method:
    """A method that workers are made for.

    Attributes:
        number: unique among those of an engine.
        make: a reference to what makes the worker, in a list, because Ray would fetch a plain one every time.
    """

    number: int
    make: list[Any]


@dataclass(frozen=True)
class Answer:
    """What has become of something that was asked for.

    Attributes:
        value: if it went well.
        error: if not.
        peak_bytes: see `Worker.peak_bytes`.
        is_lost: whether what makes the worker is in the object store no more.
        told: of its progress.
    """

    value: Any = None
    error: Exception | None = None
    peak_bytes: int = 0
    is_lost: bool = False
    told: Sequence[Told] = field(default=())


class RayActor:
    """The process. What others may ask of it returns an `Answer`, never raises: a method is anybody's code."""

    def __init__(self, threads: int, gpus: float) -> None:
        """Take a share of the node.

        Args:
            threads: of torch.
            gpus: the share of its GPU, whose memory it keeps to.
        """
        self._threads = threads
        torch.set_num_threads(threads)
        if 0 < gpus < 1 and torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(gpus)
        self._workers: dict[int, Worker] = {}
        self._recorder = Recorder()

    def introduce(self, device: str) -> Introduction:
        """Who it is.

        Args:
            device: a torch device, or "auto".

        Raises:
            StudyError: there is no such device.
        """
        node = ray.get_runtime_context().get_node_id()
        return Introduction(node, chosen_device(device), installed_versions())

    def call(
        self, threads: int, function: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> Answer:
        """Call a function with more threads, while nobody else on the node has anything to do.

        Args:
            threads: of torch.
            function: to be called.
            arguments: of the function.
            named: likewise; `progress` is replaced by one that others can ask for, see `told`.
        """
        self._recorder = Recorder()
        if "progress" in named:
            named = {**named, "progress": self._recorder}
        torch.set_num_threads(threads)
        try:
            return Answer(_on_cpu(function(*arguments, **named)), told=self._recorder.told())
        except Exception as error:
            return Answer(error=portable(error), told=self._recorder.told())
        finally:
            torch.set_num_threads(self._threads)

    @ray.method(concurrency_group="telling")
    def told(self) -> Sequence[Told]:
        """How far the function is that is being called."""
        return self._recorder.told()

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
        """Let a method's worker go."""
        if self._workers.pop(number, None) is not None:
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _with_worker(self, method: Method, ask: Callable[[Worker], Answer]) -> Answer:
        try:
            if method.number not in self._workers:
                self._workers[method.number] = ray.get(method.make[0])()
            return ask(self._workers[method.number])
        except ray.exceptions.ObjectLostError:
            return Answer(is_lost=True)
        except Exception as error:
            return Answer(error=portable(error))


def portable(error: Exception) -> Exception:
    """An error that another process can be told: itself, or one with the same sentence.

    Args:
        error: whose class may ask for more than its message, or hold what cannot be pickled.
    """
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
    """What a process answered, or why it could not even read the question.

    Args:
        reference: Ray's, of an answer that is there or will be.

    Raises:
        RayError: the process is no more.
    """
    try:
        answer: Answer = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        return Answer(error=error.cause if isinstance(error.cause, Exception) else error)
    return answer


def _on_cpu(result: Any) -> Any:
    """A result that a process without the device can take; of a backbone the network is moved."""
    network = getattr(result, "network", None)
    if isinstance(network, torch.nn.Module):
        network.cpu()
    return result.cpu() if isinstance(result, (torch.Tensor, torch.nn.Module)) else result


def taken_out(result: Any) -> Any:
    """A result that does not end with the object store, where arrays lie that were not copied."""
    if isinstance(result, np.ndarray) and not result.flags.writeable:
        copied: NDArray[Any] = result.copy()
        return copied
    return result
