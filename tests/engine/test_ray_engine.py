from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from fewshot_bench._io.versions import installed_versions
from fewshot_bench.cli.main import signals_interrupt
from fewshot_bench.engine.engine import Finished, WorkerPool
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.progress import Step
from fewshot_bench.study import Study, run_study

ray = pytest.importorskip("ray", reason="the extra ray is not installed")

import toy_workers  # noqa: E402  # below the line that may skip all of this
from ray_clusters import TwoNodes  # noqa: E402  # likewise
from toy_workers import PROTOCOL, UNLUCKY, Make, chunks, put_into_the_store, refuse, unmakeable, work  # noqa: E402  # likewise

from fewshot_bench.engine.ray_cluster import connected  # noqa: E402  # likewise
from fewshot_bench.engine.ray_engine import RayEngine  # noqa: E402  # likewise
from fewshot_bench.engine.ray_worker_pool import check_versions  # noqa: E402  # likewise

pytestmark = pytest.mark.slow

LONG_ENOUGH = 300
"""Seconds after which something is not going to happen."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoNodes]:
    ray.cloudpickle.register_pickle_by_value(toy_workers)
    nodes = TwoNodes(tmp_path_factory.mktemp("home of the nodes"))
    try:
        yield nodes
    finally:
        nodes.close()


@pytest.fixture(scope="module")
def shared_engine(cluster: TwoNodes) -> Iterator[RayEngine]:
    with RayEngine(cluster.address) as engine:
        yield engine


@pytest.fixture
def engine(cluster: TwoNodes, shared_engine: RayEngine) -> RayEngine:
    """An engine on both nodes, whatever the last test has done to one of them."""
    cluster.add()
    return shared_engine


def computed(pool: WorkerPool, size: int = 5, count: int = 8) -> list[Finished]:
    """What becomes of some chunks, as a study's loop would ask for it."""
    left, under_way, ended = chunks(size)[:count], 0, []
    while left or under_way:
        while left and under_way < pool.room:
            pool.start(left.pop(0))
            under_way += 1
        some = pool.finished()
        under_way -= len(some)
        ended += some
    return ended


def rows(ended: list[Finished]) -> pd.DataFrame:
    frames = [one.frame for one in ended if one.frame is not None]
    return pd.concat(frames).sort_values("episode", ignore_index=True)


def processes(engine: RayEngine) -> set[int]:
    with engine.workers(Make(np.arange(3))) as pool:
        return set(rows(computed(pool, 1, 8))["pid"])


def wait_for_both(engine: RayEngine) -> None:
    began = time.monotonic()
    while len(processes(engine)) < 2:
        assert time.monotonic() - began < LONG_ENOUGH


def small_study(results: Path, **changes: Any) -> Study:
    fields: dict[str, Any] = {
        "dataset": "glyphs", "backbone": "conv4_32", "base_losses": (), "adaptations": ("centroid", "finetune"),
        "hyper_parameters": {"epochs": 1}, "shots": (1,), "query": 2, "episodes": 12, "runs": 2, "chunk": 3,
        "device": "cpu", "results": results,
    }  # fmt: skip
    return Study.model_validate(fields | changes)


def outcomes(study: Study) -> list[pd.DataFrame]:
    """All that is stored, but for how long it took."""
    store = OutcomeStore(study.results / "outcomes")
    return [store.read(cell, with_predictions=True).drop(columns="seconds") for cell in store.cells()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[pd.DataFrame]:
    study = small_study(tmp_path_factory.mktemp("undisturbed"))
    run_study(study)
    return outcomes(study)


def assert_same(study: Study, undisturbed: list[pd.DataFrame]) -> None:
    found = outcomes(study)
    assert len(found) == len(undisturbed) == 2
    for one, other in zip(found, undisturbed, strict=True):
        pd.testing.assert_frame_equal(one, other)


class Disturbance:
    """A progress that does something when the first outcomes are stored."""

    def __init__(self, disturb: Callable[[], None]) -> None:
        self.disturb, self.done = disturb, False

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        yield _Disturbing(self, "finetune" in description)


class _Disturbing:
    def __init__(self, disturbance: Disturbance, is_wanted: bool) -> None:
        self.disturbance, self.is_wanted = disturbance, is_wanted

    def advance(self, amount: int = 1, note: str = "") -> None:
        if self.is_wanted and amount and not self.disturbance.done:
            self.disturbance.done = True
            self.disturbance.disturb()


def test_a_device_that_workers_do_not_have_is_told(cluster):
    with (
        pytest.raises(StudyError, match="a worker of the Ray cluster says: there is no device 'xpu:9'"),
        RayEngine(cluster.address, device="xpu:9", workers=1),
    ):
        pass
    assert not ray.is_initialized()  # it was not before


def test_a_cluster_without_room_is_told_what_a_worker_needs(cluster):
    with (
        pytest.raises(StudyError, match="a worker needs 64 CPU on one node, the cluster has 2 nodes with 2 CPUs"),
        RayEngine(cluster.address, cpus_per_worker=64, patience=0),
    ):
        pass


def test_a_worker_with_other_versions_is_refused():
    same = installed_versions()
    check_versions(same)
    with pytest.raises(StudyError, match=f"has torch 1.0 and not {re.escape(same['torch'])}. Install the same"):
        check_versions({**same, "torch": "1.0"})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_break_off_the_end_of_ray(monkeypatch, number):
    ended = []

    def shutdown() -> None:
        signal.raise_signal(number)
        ended.append(True)

    monkeypatch.setattr("fewshot_bench.engine.ray_cluster._connect", lambda address: None)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.util.register_serializer", lambda *_, **__: None)
    monkeypatch.setattr("ray.shutdown", shutdown)
    with signals_interrupt():
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt, match="the first"), connected(None):
            raise KeyboardInterrupt("the first")
        assert ended
        assert signal.getsignal(number) is before


def test_a_cluster_stores_what_one_process_stores(engine, tmp_path, undisturbed):
    study = small_study(tmp_path)
    result = run_study(study, engine=engine)
    assert_same(study, undisturbed)
    told = result.cells[0].provenance
    assert told["engine"] == {
        "name": "ray", "version": ray.__version__, "workers": 2, "nodes": 2, "cpus_per_worker": 1, "gpus_per_worker": 0,
    }  # fmt: skip
    assert told["hardware"]["device"] == "cpu"


def test_a_study_starts_in_one_process_and_finishes_on_a_cluster(engine, tmp_path, undisturbed):
    run_study(small_study(tmp_path, episodes=5))
    study = small_study(tmp_path)
    run_study(study, engine=engine)
    assert_same(study, undisturbed)


def test_a_worker_killed_in_mid_run_costs_nothing_that_is_stored(engine, tmp_path, undisturbed):
    wait_for_both(engine)
    victim = engine.call(os.getpid)
    killing = Disturbance(lambda: os.kill(victim, signal.SIGKILL))
    study = small_study(tmp_path)
    run_study(study, engine=engine, progress=killing)
    assert killing.done
    assert_same(study, undisturbed)
    assert victim not in processes(engine)


def test_a_node_removed_in_mid_run_is_survived_and_one_that_joins_gets_a_worker(engine, cluster, tmp_path, undisturbed):
    wait_for_both(engine)
    removal = Disturbance(cluster.remove)
    study = small_study(tmp_path)
    run_study(study, engine=engine, progress=removal)
    assert removal.done
    assert_same(study, undisturbed)
    assert len(processes(engine)) == 1
    cluster.add()
    wait_for_both(engine)


def test_a_chunk_whose_worker_dies_goes_to_another(engine, tmp_path):
    with engine.workers(Make(np.arange(3), "die-once", tmp_path / "died")) as pool:
        ended = computed(pool)
    assert (tmp_path / "died").exists()
    assert rows(ended)["episode"].tolist() == list(range(40))
    assert {one.peak_bytes for one in ended} == {5}


def test_a_chunk_that_kills_every_worker_fails_and_the_others_do_not(engine, tmp_path):
    with engine.workers(Make(np.arange(3), "die", tmp_path / "died")) as pool:
        ended = computed(pool)
    failed = [one for one in ended if one.frame is None]
    assert [str(one.error) for one in failed] == ["its worker died 3 times, perhaps because memory ran out."]
    assert UNLUCKY in failed[0].chunk.numbers
    assert len(rows(ended)) == 35


@pytest.mark.parametrize(
    ("at_unlucky", "kind", "sentence"),
    [("raise", ValueError, "thirteen"), ("raise-odd", RuntimeError, "NeedsTwoError: this and that")],
)
def test_what_a_method_raises_is_the_end_of_its_chunk_alone(engine, at_unlucky, kind, sentence):
    with engine.workers(Make(np.arange(3), at_unlucky)) as pool:
        ended = computed(pool)
    failed = [one for one in ended if one.frame is None]
    assert [(type(one.error), str(one.error)) for one in failed] == [(kind, sentence)]
    assert len(rows(ended)) == 35


def test_arrays_and_memory_maps_arrive_whole_and_are_shared(engine, tmp_path):
    data = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(300, 50, 50, 3))
    data[:] = np.arange(300, dtype=np.uint8)[:, None, None, None]
    for array in (data[10:], np.asarray(data[10:])):
        with engine.workers(Make(array)) as pool:
            found = rows(computed(pool))
        assert set(found["sum"]) == {int(data[10:].sum(dtype=np.int64))}
        assert not found["copied"].any()
        assert set(found["kind"]) == {"ndarray"}


def test_what_makes_workers_is_put_again_where_it_was_lost(engine):
    make = Make(np.arange(1 << 20))
    lost, keeper = engine.call(put_into_the_store, make)
    os.kill(keeper, signal.SIGKILL)
    with engine.workers(make) as pool:
        pool._method.factory[:] = lost
        assert set(rows(computed(pool))["sum"]) == {int(np.arange(1 << 20).sum())}


def test_chunks_are_small_enough_for_every_worker_to_have_some(engine):
    wait_for_both(engine)
    with engine.workers(Make(np.arange(3))) as pool:
        assert pool.chunk(PROTOCOL) == 5
        assert pool.room == 4


class Shown:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.steps: list[list[Any]] = []

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[Step]:
        self.steps.append([description, total, unit, 0, ""])
        yield self
        self.steps[-1].append("closed")

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.steps[-1][3] += amount
        self.steps[-1][4] = note


def test_a_function_is_called_on_a_worker_and_its_progress_shown_here(engine):
    shown = Shown()
    assert engine.call(work, 3, progress=shown) != os.getpid()
    assert shown.steps == [["working", 3, "images", 3, "2", "closed"]]


def test_what_a_function_raises_is_raised_here(engine):
    with pytest.raises(ValueError, match="invalid literal"):
        engine.call(int, "seven")
    with pytest.raises(StudyError, match="there is no backbone called 'resnet'"):
        engine.call(refuse)


def test_what_a_function_returns_can_be_changed_and_outlives_the_cluster(engine):
    array = engine.call(np.zeros, 1 << 20)
    array += 1
    assert array.flags.owndata
    assert isinstance(engine.call(torch.nn.Linear, 2, 3), torch.nn.Linear)


def test_a_method_that_cannot_be_made_says_why(engine):
    with engine.workers(unmakeable) as pool, pytest.raises(StudyError, match="nothing to tune"):
        pool.chunk(PROTOCOL)
