"""Equal computations are tried once per machine, and the fastest one is kept."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fewshot_bench.cache import cache_entries, clear_cache, trials
from fewshot_bench.cache.trials import Trial, choose, fastest

CPU = torch.device("cpu")


class Candidates:
    """Computations that do nothing but are counted; a clock says what each takes."""

    def __init__(self, **seconds: float | BaseException) -> None:
        self.seconds = seconds
        self.runs = dict.fromkeys(seconds, 0)
        self.last = ""

    def __call__(self, name: str) -> None:
        self.runs[name] += 1
        self.last = name
        seconds = self.seconds[name]
        if isinstance(seconds, BaseException):
            raise seconds

    def by_name(self) -> dict[str, Callable[[], Any]]:
        return {name: lambda name=name: self(name) for name in self.seconds}  # type: ignore[misc]

    def timer(self, run: Callable[[], Any]) -> float:
        run()
        seconds = self.seconds[self.last]
        assert not isinstance(seconds, BaseException)
        return seconds

    def fastest(self) -> str:
        return fastest(self.by_name(), CPU, self.timer)


@pytest.fixture(autouse=True)
def _new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "_KNOWN", {})
    monkeypatch.setattr(trials, "_MADE", {})


def as_if_in_a_new_process() -> None:
    trials._KNOWN.clear()
    trials._MADE.clear()


def trial(candidates: Candidates, key: str = "a shape") -> Trial:
    return Trial(key, candidates.by_name())


def with_clock(monkeypatch: pytest.MonkeyPatch, candidates: Candidates) -> None:
    monkeypatch.setattr(trials, "_clock", lambda device: candidates.timer)


def test_the_fastest_is_taken_and_the_slow_ones_are_not_run_again() -> None:
    candidates = Candidates(first=0.003, fast=0.001, slow=0.004)
    assert candidates.fastest() == "fast"
    assert candidates.runs["first"] == candidates.runs["slow"] == 2, "once to prepare, once timed"


def test_the_first_stays_unless_another_is_clearly_faster() -> None:
    assert Candidates(first=0.0100, other=0.0095).fastest() == "first"
    assert Candidates(first=0.0100, other=0.0080).fastest() == "other"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("unsupported shape"),
        NotImplementedError("no such kernel"),
    ],
    ids=repr,
)
def test_what_runs_out_of_memory_or_cannot_compute_a_shape_is_not_taken(error: BaseException) -> None:
    assert Candidates(first=0.002, fast=error, other=0.001).fastest() == "other"
    assert Candidates(first=error, other=0.001).fastest() == "other"
    assert Candidates(first=0.002, fast=error, other=error).fastest() == "first"
    assert Candidates(first=error, other=error).fastest() == "first"


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(KeyboardInterrupt):
        Candidates(first=0.002, other=KeyboardInterrupt()).fastest()


def test_memory_of_a_gpu_is_given_back_between_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(candidates.last))
    candidates = Candidates(first=torch.OutOfMemoryError("CUDA out of memory."), other=0.2)
    assert fastest(candidates.by_name(), torch.device("cuda"), candidates.timer) == "other"
    assert emptied[:2] == ["first", "other"]


def test_a_trial_is_made_once_in_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = Candidates(first=0.2, fast=0.1)
    with_clock(monkeypatch, candidates)
    assert choose([trial(candidates)], CPU) == {"a shape": "fast"}
    before = dict(candidates.runs)
    candidates.seconds["first"] = 0.01
    assert choose([trial(candidates)], CPU) == {"a shape": "fast"}
    assert candidates.runs == before


def test_a_choice_is_kept_for_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = Candidates(first=0.2, fast=0.1)
    with_clock(monkeypatch, candidates)
    choose([trial(candidates)], CPU)
    before = dict(candidates.runs)
    as_if_in_a_new_process()
    candidates.seconds["first"] = 0.01
    assert choose([trial(candidates)], CPU) == {"a shape": "fast"}
    assert candidates.runs == before
    assert choose([trial(candidates, "another shape")], CPU) == {"another shape": "first"}
    as_if_in_a_new_process()
    both = choose([trial(candidates), trial(candidates, "another shape")], CPU)
    assert both == {"a shape": "fast", "another shape": "first"}


def test_a_process_makes_a_trial_once_for_all_its_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    candidates = Candidates(first=0.2, fast=0.1)
    with_clock(monkeypatch, candidates)
    choose([trial(candidates)], CPU)
    before = dict(candidates.runs)
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(tmp_path / "another"))
    assert choose([trial(candidates)], CPU) == {"a shape": "fast"}
    assert candidates.runs == before
    as_if_in_a_new_process()
    assert choose([trial(candidates)], CPU) == {"a shape": "fast"}
    assert candidates.runs == before, "kept in the other cache, too"


def kept_file(monkeypatch: pytest.MonkeyPatch) -> Path:
    candidates = Candidates(first=0.2, fast=0.1)
    with_clock(monkeypatch, candidates)
    choose([trial(candidates)], CPU)
    as_if_in_a_new_process()
    return trials._file(CPU)[0]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"choices": 1}', '{"machine": "another", "choices": {"a shape": "fast"}}', "\x00\xff"],
)
def test_a_damaged_file_is_ignored_and_written_anew(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept_file(monkeypatch)
    path.write_text(content, encoding="latin-1")
    candidates = Candidates(first=0.1, fast=0.2)
    with_clock(monkeypatch, candidates)
    assert choose([trial(candidates)], CPU) == {"a shape": "first"}
    assert json.loads(path.read_text())["choices"] == {"a shape": "first"}


@pytest.mark.parametrize("name", ["removed in this version", 3, None])
def test_a_choice_that_is_no_candidate_is_made_again(name: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept_file(monkeypatch)
    content = json.loads(path.read_text())
    content["choices"]["a shape"] = name
    path.write_text(json.dumps(content))
    candidates = Candidates(first=0.1, fast=0.2)
    with_clock(monkeypatch, candidates)
    assert choose([trial(candidates)], CPU) == {"a shape": "first"}


def test_a_cache_that_cannot_be_written_to_costs_nothing_but_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(trials, "write_atomically", refuse)
    candidates = Candidates(first=0.2, fast=0.1)
    with_clock(monkeypatch, candidates)
    assert choose([trial(candidates)], CPU) == {"a shape": "fast"}


def test_other_threads_are_another_machine() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        of_one = trials._file(CPU)
        torch.set_num_threads(2)
        assert trials._file(CPU) != of_one
    finally:
        torch.set_num_threads(before)


def test_a_trial_within_a_trial_is_kept_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Candidates(first=0.2, fast=0.1)

    def timer(run: Callable[[], Any]) -> float:
        run()
        return 0.1

    monkeypatch.setattr(trials, "_clock", lambda device: timer)
    nested = Trial("outer", {"first": lambda: choose([trial(inner, "inner")], CPU), "other": lambda: None})
    assert choose([nested], CPU) == {"outer": "first"}
    assert json.loads(trials._file(CPU)[0].read_text())["choices"].keys() == {"outer", "inner"}


def _choose_in_a_process(number: int, results: Any) -> None:
    names = {f"candidate {number}": lambda: None, f"candidate {1 - number}": lambda: None}
    results.put(choose([Trial("a shape", names)], CPU)["a shape"])


@pytest.mark.slow
def test_processes_that_choose_at_the_same_time_choose_the_same() -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    processes = [context.Process(target=_choose_in_a_process, args=(number, results)) for number in range(2)]
    for process in processes:
        process.start()
    chosen = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert chosen[0] == chosen[1]


def test_choices_are_an_entry_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept_file(monkeypatch)
    (entry,) = cache_entries()
    assert (entry.path, entry.kind, entry.what) == (path, "trials", "fastest computations on one machine")
    assert clear_cache([entry]).removed == [entry]
    assert not path.exists()


def test_work_that_is_only_counted_makes_no_trial_and_keeps_nothing() -> None:
    candidates = Candidates(first=2.0, second=1.0)
    with trials.no_trials():
        assert choose([trial(candidates)], CPU) == {"a shape": "first"}
    assert candidates.runs == {"first": 0, "second": 0}
    assert not [entry for entry in cache_entries() if entry.kind == "trials"]
