"""Which base stages a helper trains beside a run, with which bits, and how many helpers there are."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager

import pytest

from fewshot_bench._io.locations import cache_folder
from fewshot_bench.cache import BASE_STAGES
from fewshot_bench.cache.entries import lock_file
from fewshot_bench.engine.engine import LocalEngine
from fewshot_bench.errors import StudyError
from fewshot_bench.progress import SILENT
from fewshot_bench.study import Study, resolve_study, training_ahead
from fewshot_bench.study.networks import Network
from fewshot_bench.study.resolved import ResolvedStudy
from fewshot_bench.study.training_ahead import helpers_that_pay, train_ahead
from fewshot_bench.training import load_network

pytestmark = pytest.mark.slow

CPU = LocalEngine("cpu")


def resolved(**changes) -> ResolvedStudy:
    """Two base stages on three images per class."""
    fields = {"base_epochs": 1, "base_batch": 64, "base_settings": {"train_share": 0.05}, **changes}
    return resolve_study(Study(**fields))


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr(training_ahead, "WORTH_A_PROCESS", 1)


def trained() -> list[str]:
    """The losses of the checkpoints in the cache, in the order in which they were written."""
    paths = sorted((cache_folder() / BASE_STAGES).glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
    return [path.name.split("-")[3] for path in paths]


def digests() -> dict[str, str]:
    """The weights of each checkpoint in the cache."""
    found = {}
    for path in (cache_folder() / BASE_STAGES).glob("*.safetensors"):
        tensors = load_network(path, 32)[0]
        content = b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))
        found[path.name] = hashlib.sha256(content).hexdigest()
    return found


@contextmanager
def held(study: ResolvedStudy, number: int):
    """Another process trains one of the base stages."""
    from filelock import FileLock

    path = training_ahead._untrained([study])[number].path
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_file(path)):
        yield


def test_a_helper_begins_elsewhere_and_its_weights_are_those_of_the_run(monkeypatch, tmp_path):
    train_ahead([resolved()], 1)
    assert trained() == ["ce+schane", "ce"]
    ahead = digests()
    monkeypatch.setenv("FEWSHOT_BENCH_HOME", str(tmp_path / "alone"))
    study = resolved()
    for network in study.networks:
        network.trained(study.dataset, CPU, SILENT)
    assert trained() == ["ce", "ce+schane"]
    assert digests() == ahead


def test_a_helper_leaves_alone_what_another_process_trains():
    study = resolved()
    with held(study, 1):
        train_ahead([study], 1)
    assert trained() == ["ce"]


def test_a_helper_goes_on_after_a_training_that_fails_and_leaves_the_message_to_the_run(monkeypatch):
    train = Network.trained

    def failing(network: Network, *arguments):
        if network.stage == "base-ce+schane@batch_size=64,epochs=1,train_share=0.05":
            raise StudyError("the loss is nan.")
        return train(network, *arguments)

    monkeypatch.setattr(Network, "trained", failing)
    train_ahead([resolved()], 1)
    assert trained() == ["ce"]


def test_there_are_as_many_helpers_as_trainings_cores_and_memory_allow(many_cores, monkeypatch):
    study = resolved(training_seeds=2)
    assert helpers_that_pay([study], CPU) == 3
    assert helpers_that_pay([study, study], CPU) == 3
    needed = max(stage.bytes for stage in training_ahead._untrained([study]))
    for free, count in ((3.5 * needed, 2), (2.5 * needed, 1), (0.5 * needed, 0)):
        with monkeypatch.context() as patch:
            patch.setattr(training_ahead, "free_bytes", lambda device, free=free: int(free))
            assert helpers_that_pay([study], CPU) == count
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    assert helpers_that_pay([study], CPU) == 1
    with held(study, 0):  # two processes share the work, on two cores: one trains, this one waits
        assert helpers_that_pay([study], CPU) == 1
    with held(study, 0), held(study, 1):
        assert helpers_that_pay([study], CPU) == 0


def test_what_a_helper_has_trained_needs_none(many_cores):
    study = resolved()
    assert helpers_that_pay([study], CPU) == 1
    train_ahead([study], 1)
    assert helpers_that_pay([study], CPU) == 0


@pytest.mark.parametrize(
    ("changes", "engine"),
    [
        ({}, LocalEngine("cuda")),
        ({}, object()),  # such as Ray's
        ({"base_losses": ("ce",)}, CPU),
        ({"base_settings": {"train_share": 0.05, "threads": 8}}, CPU),
    ],
    ids=["a GPU", "Ray", "one training", "trainings on all cores"],
)
def test_where_cores_are_not_idle_there_are_no_helpers(many_cores, changes, engine):
    assert helpers_that_pay([resolved(**changes)], engine) == 0


def test_a_training_that_is_shorter_than_the_start_of_a_process_has_no_helper(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert helpers_that_pay([resolved()], CPU) == 0
    assert helpers_that_pay([resolve_study(Study())], CPU) == 1, "the default study"
