"""A step becomes a CUDA graph on the device of its tensors, or runs without one: on a stand-in for `torch.cuda`."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from small_task import EPISODES, SHOT, WAY, parts, recipe, task
from torch import Tensor

from fewshot_bench.errors import PluginError
from fewshot_bench.finetuning import trainer as module
from fewshot_bench.finetuning.episode_tasks import EpisodeKeys, StepViews
from fewshot_bench.finetuning.memory import fit_by_halving
from fewshot_bench.finetuning.trainer import CaptureError, EpisodeTrainer, cuda_graph

SECOND = torch.device("cuda:1")
REFUSED = "CUDA error: operation not permitted when stream is capturing\nFor debugging consider ..."


@dataclass(eq=False)
class Stream:
    """A stream of a device, and the streams that it waited for."""

    device: int
    waited_for: list[Stream] = field(default_factory=list)

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


@dataclass
class Cuda:
    """Two devices, the first of them current, with the behaviour of torch.cuda as its source has it."""

    current: int = 0
    streams: list[Stream] = field(default_factory=lambda: [Stream(0), Stream(1)])
    capturing: Stream | None = None
    replays: int = 0
    fails_at_end: bool = False

    def put_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("current_stream", "stream", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "Stream", lambda device=None: Stream(self._number(device)))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(self))

    def _number(self, device: torch.device | None) -> int:
        return self.current if device is None or device.index is None else device.index

    def current_stream(self, device: torch.device | None = None) -> Stream:
        return self.streams[self._number(device)]

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        """Makes its device current, too; restores both."""
        device, before = self.current, self.streams[stream.device]
        self.current, self.streams[stream.device] = stream.device, stream
        try:
            yield
        finally:
            self.current, self.streams[stream.device] = device, before

    @contextmanager
    def graph(self, graph: Graph, stream: Stream) -> Iterator[None]:
        """If its end fails, the stream of the capture stays current."""
        assert self.current == stream.device == graph.device
        before = self.streams[stream.device]
        self.streams[stream.device] = self.capturing = stream
        try:
            yield
        finally:
            self.capturing = None
            if self.fails_at_end:
                raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")
            self.streams[stream.device] = before


class Graph:
    def __init__(self, cuda: Cuda) -> None:
        self.device, self._cuda = cuda.current, cuda

    def replay(self) -> None:
        self._cuda.replays += 1


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    made.put_in(monkeypatch)
    module._tell_once.cache_clear()
    return made


@pytest.mark.parametrize("device", [torch.device("cuda:0"), SECOND, torch.device("cuda")], ids=str)
def test_work_is_captured_on_its_own_device_and_in_one_side_stream(cuda: Cuda, device: torch.device) -> None:
    first, ran_on, captured_on = list(cuda.streams), [], []

    def run() -> Tensor:
        ran_on.append(cuda.current_stream())
        captured_on.extend([cuda.capturing] if cuda.capturing else [])
        return torch.ones(2)

    replay = cuda_graph(run, device)
    index = device.index or 0
    assert len(ran_on) == 4
    assert len(set(map(id, ran_on))) == 1
    assert captured_on == ran_on[:1]
    side = ran_on[0]
    assert side.device == index
    assert side not in first, "the default stream cannot be captured"
    assert side.waited_for == [first[index]]
    assert first[index].waited_for == [side]
    assert (cuda.current, cuda.streams) == (0, first), "what was current is so again"
    replay()
    assert cuda.replays == 1
    assert len(ran_on) == 4


class Failing:
    """Work that fails while it is captured."""

    def __init__(self, cuda: Cuda, error: Exception) -> None:
        self.cuda, self.error = cuda, error

    def __call__(self) -> Tensor:
        if self.cuda.capturing:
            raise self.error
        return torch.ones(2)


@pytest.mark.parametrize("fails_at_end", [True, False])
def test_work_that_cannot_be_captured_is_an_error_and_leaves_the_streams(cuda: Cuda, fails_at_end: bool) -> None:
    cuda.fails_at_end = fails_at_end
    before = list(cuda.streams)
    with pytest.raises(CaptureError, match=r"^CUDA error: operation not permitted when stream is capturing$"):
        cuda_graph(Failing(cuda, torch.AcceleratorError(REFUSED)), SECOND)
    assert (cuda.current, cuda.streams) == (0, before)


@pytest.mark.parametrize("fails_at_end", [True, False])
def test_memory_that_runs_out_in_a_capture_is_told_apart(cuda: Cuda, fails_at_end: bool) -> None:
    cuda.fails_at_end = fails_at_end
    with pytest.raises(torch.OutOfMemoryError, match=r"^CUDA out of memory\.$"):
        cuda_graph(Failing(cuda, torch.OutOfMemoryError("CUDA out of memory.\nTried")), SECOND)


def test_a_plug_in_that_reads_a_value_is_no_failure_of_the_study(cuda: Cuda) -> None:
    with pytest.raises(CaptureError, match=r"^loss\.py:3: item"):
        cuda_graph(Failing(cuda, PluginError("loss.py:3: item is not permitted")), SECOND)
    with pytest.raises(CaptureError, match=r"^ValueError$"):
        cuda_graph(Failing(cuda, ValueError()), SECOND)


def test_gradients_are_gone_before_the_capture_which_allocates_its_own(cuda: Cuda) -> None:
    chosen = recipe(epochs=1, query_entropy=1.0)
    prepared = parts(chosen)
    held = []

    def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        run()
        held.extend(weight.grad for group in made.optimizer.param_groups for weight in group["params"])
        return run

    made = trainer(chosen, prepared, capture)
    made.adapt(task(prepared, chosen))
    assert held
    assert not any(gradient is not None for gradient in held)


def test_an_error_of_the_work_itself_passes(cuda: Cuda) -> None:
    def run() -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        cuda_graph(run, SECOND)
    assert cuda.current == 0


def trainer(chosen: Any, prepared: Any, capture: Any, *, episodes: int = EPISODES) -> EpisodeTrainer:
    made = EpisodeTrainer(prepared, chosen, episodes=episodes, way=WAY, shot=SHOT)
    made._capture = capture
    made.stack.prepare = lambda inputs: None  # type: ignore[method-assign]  # the clock has no say
    return made


class Refusing:
    """A capture that runs the work a few times and then fails."""

    def __init__(self, error: Exception, *, successes: int = 0) -> None:
        self.error, self.successes, self.tried = error, successes, 0

    def __call__(self, run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.tried += 1
        run()
        run()
        if self.tried > self.successes:
            raise type(self.error)(*self.error.args)
        return run


CHANGES: list[dict[str, Any]] = [{"dropout": 0.3, "loss": "ce+schane"}, {"query_entropy": 1.0, "batch_size": 4}]


@pytest.mark.slow
@pytest.mark.parametrize("successes", [0, 1])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_training_whose_steps_cannot_be_captured_is_the_same_to_the_bit(
    changes: dict[str, Any], successes: int, cuda: Cuda
) -> None:
    chosen = recipe(**changes)
    prepared = parts(chosen)
    refusing = Refusing(CaptureError(REFUSED), successes=successes)
    plain, other = trainer(chosen, prepared, None), trainer(chosen, prepared, refusing)
    for first in (0, EPISODES):
        expected = plain.adapt(task(prepared, chosen, first=first))
        found = other.adapt(task(prepared, chosen, first=first))
        assert torch.equal(found.losses, expected.losses)
        assert torch.equal(found.logits, expected.logits)
        assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())
    recorded = 1 + chosen.sees_queries
    assert refusing.tried == (successes + 1 if successes < recorded else recorded), "once is enough"


def test_a_process_says_once_that_steps_are_not_captured(cuda: Cuda, caplog: pytest.LogCaptureFixture) -> None:
    chosen = recipe(epochs=1)
    prepared = parts(chosen)
    for _ in range(2):
        trainer(chosen, prepared, Refusing(CaptureError("operation not permitted"))).adapt(task(prepared, chosen))
    assert [record.getMessage() for record in caplog.records] == [
        "note: fine-tuning steps run one by one, slower than as a CUDA graph: operation not permitted"
    ]


def test_a_trainer_that_falls_back_is_freed_without_the_garbage_collector(cuda: Cuda) -> None:
    chosen = recipe(epochs=1)
    prepared = parts(chosen)
    gc.disable()
    try:
        made = trainer(chosen, prepared, Refusing(CaptureError("no")))
        made.adapt(task(prepared, chosen))
        freed = weakref.ref(made)
        del made
        assert freed() is None
    finally:
        gc.enable()


@pytest.mark.slow
def test_where_a_graph_lacks_memory_half_as_many_episodes_are_tried_and_one_does_without(
    cuda: Cuda, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = recipe(epochs=1)
    prepared = parts(chosen)
    whole = task(prepared, chosen)
    expected = trainer(chosen, prepared, None).adapt(whole).logits
    tried = []

    def attempt(episodes: int) -> Tensor:
        tried.append(episodes)
        refusing = Refusing(torch.OutOfMemoryError("CUDA out of memory."))
        made = trainer(chosen, prepared, refusing, episodes=episodes)
        return made.adapt(first_of(task(prepared, chosen), episodes)).logits

    episodes, logits = fit_by_halving(EPISODES, attempt)
    assert caplog.messages[-1].endswith("CUDA out of memory.")
    assert (episodes, tried) == (1, [3, 2, 1])
    assert torch.allclose(logits, expected[:1], atol=1e-5)


def first_of(whole: Any, episodes: int) -> Any:
    class First(StepViews):
        def at(self, step: int, chosen: Tensor | None) -> Tensor:
            return whole.views.at(step, chosen)[:episodes]

    keys = EpisodeKeys(whole.keys.on_cpu[:episodes], whole.keys.on_device[:episodes])
    return replace(
        whole,
        keys=keys,
        support=whole.support[:episodes],
        views=First(),
        query=lambda part: whole.query(part)[:episodes],
    )
