"""A backbone is trained under a name: validated, stopped, gone on with, and never mixed up with another."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fewshot_bench._io.locations import cache_folder, checkpoints_folder
from fewshot_bench.datasets import DATASETS, Dataset
from fewshot_bench.errors import DatasetError, StudyError, UnknownNameError, WeightsError
from fewshot_bench.registry import Entry
from fewshot_bench.study import Checkpoint, TrainingPlan, read_checkpoint, train_backbone
from fewshot_bench.study.checkpoints import checkpoint_entries, checkpoint_file, state_file
from fewshot_bench.training import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def toy_is_known(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setitem(DATASETS._entries, "toy", Entry("toy", lambda: toy, "three small splits"))
    return toy


def train(name: str = "mine", *, progress: Any = None, **settings: Any) -> Checkpoint:
    of_plan = {key: settings.pop(key) for key in list(settings) if key in TrainingPlan.__dataclass_fields__}
    recipe = {"epochs": 3, "batch_size": 48, **settings}
    plan = TrainingPlan(name=name, recipe=recipe, **{"dataset": "toy", "backbone": "conv4_32", **of_plan})
    return train_backbone(plan, **({"progress": progress} if progress else {}))


def tensors(name: str) -> dict[str, torch.Tensor]:
    return load_checkpoint(checkpoint_file(name))[0]


def are_equal(one: str, other: str) -> bool:
    return all(torch.equal(value, tensors(other)[key]) for key, value in tensors(one).items())


class StopsAt:
    """A progress that is interrupted after some steps, as by Ctrl-C or a kill."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextmanager
    def step(self, description: str, total: int, *, unit: str = "") -> Iterator[StopsAt]:
        yield self

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.left -= amount
        if self.left <= 0:
            raise KeyboardInterrupt


def test_what_is_trained_is_kept_in_the_users_data_with_all_that_it_came_from(toy: Dataset) -> None:
    checkpoint = train(loss="ce+schane", tau=0.3)
    assert checkpoint.path == checkpoints_folder() / "mine.safetensors"
    assert cache_folder() not in checkpoint.path.parents
    assert read_checkpoint("mine") == checkpoint
    assert (checkpoint.card.dataset, checkpoint.card.base_split) == ("toy", toy.base.fingerprint)
    assert (checkpoint.recipe.loss, checkpoint.recipe.tau, checkpoint.recipe.epochs) == ("ce+schane", 0.3, 3)
    assert set(checkpoint.accuracies) == {"validation_1shot", "validation_5shot"}
    assert not state_file("mine").exists()


def test_the_log_has_a_row_per_epoch(toy: Dataset) -> None:
    checkpoint = train(validate_every=2)
    rows = list(csv.DictReader(checkpoint.path.with_suffix(".csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["3", "6", "9"]
    assert [bool(row["validation_1shot"]) for row in rows] == [False, True, True]
    assert all(float(row["loss"]) > 0 and float(row["images_per_second"]) > 0 for row in rows)


def test_the_best_epoch_on_the_validation_split_is_kept_and_the_last_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([{"validation_1shot": 0.2}, {"validation_1shot": 0.9}, {"validation_1shot": 0.4}] * 2)
    monkeypatch.setattr("fewshot_bench.study.train.validation", lambda *_: lambda network, head: next(looks))
    best = train(keeps_last=True)
    last = read_checkpoint("mine.last")
    assert (best.epoch, best.accuracies) == (2, {"validation_1shot": 0.9})
    assert (last.epoch, last.accuracies) == (3, {"validation_1shot": 0.4})
    train("plain", validate_every=0)
    assert are_equal("mine.last", "plain")
    assert not are_equal("mine", "plain")
    train(is_fresh=True)
    assert not checkpoint_file("mine.last").exists(), "it belonged to the training that was forgotten"


def test_the_novel_split_decides_nothing(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    train("before")
    noise = np.random.default_rng(0).integers(0, 256, toy.novel.images.shape, dtype=np.uint8)
    changed = Dataset("toy", {**toy.splits, "novel": replace(toy.novel, images=noise)})
    monkeypatch.setitem(DATASETS._entries, "toy", Entry("toy", lambda: changed, ""))
    assert train("after").history[-1]["validation_1shot"] == read_checkpoint("before").history[-1]["validation_1shot"]
    assert are_equal("before", "after")


def test_there_are_about_ten_looks_by_default() -> None:
    history = train(epochs=21, batch_size=200, validation_episodes=5).history
    assert [epoch for epoch, row in enumerate(history, 1) if "validation_1shot" in row] == [*range(2, 21, 2), 21]


def test_without_a_validation_split_the_last_epoch_is_kept(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    without = Dataset("toy", {"base": toy.base, "novel": toy.novel})
    monkeypatch.setitem(DATASETS._entries, "toy", Entry("toy", lambda: without, ""))
    assert (train().epoch, train().accuracies, train().card.selection) == (3, {}, {})
    with pytest.raises(DatasetError, match="toy has no validation split"):
        train("other", validate_every=1)


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_the_same_command_goes_on_after_a_stop_with_the_weights_of_no_stop_bit_for_bit(steps: int) -> None:
    train("whole", loss="ce+schane", micro_batch=20)
    with pytest.raises(KeyboardInterrupt):
        train(loss="ce+schane", micro_batch=20, progress=StopsAt(steps))
    assert not checkpoint_file("mine").exists()
    assert state_file("mine").exists() == (steps >= 4)
    train(loss="ce+schane", micro_batch=20)
    assert are_equal("whole", "mine")
    assert not state_file("mine").exists()


def test_a_finished_training_is_not_repeated() -> None:
    first = train()
    assert train(progress=StopsAt(1)) == first


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "epochs": ({"epochs": 4}, "epochs 4 instead of 3"),
    "loss": ({"loss": "ce+schane"}, r"loss ce\+schane instead of ce"),
    "backbone": ({"backbone": "conv4_64"}, "backbone conv4_64 instead of conv4_32"),
    "later setting": ({"label_smoothing": 0.1}, "label_smoothing 0.1 instead of None"),
    "size": ({"image_size": 32}, "image_size 32 instead of None"),
    "looks": ({"validate_every": 3}, "selection every 3 instead of 1"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("is_finished", [True, False])
def test_another_training_under_the_same_name_is_refused_by_what_differs(name: str, is_finished: bool) -> None:
    if is_finished:
        train()
    else:
        with pytest.raises(KeyboardInterrupt):
            train(progress=StopsAt(5))
    change, words = CHANGES[name]
    before = {path: path.read_bytes() for path in checkpoints_folder().glob("*.safetensors")}
    with pytest.raises(StudyError, match=f"mine was trained otherwise: this command has {words}. .* --fresh"):
        train(**change)
    assert {path: path.read_bytes() for path in checkpoints_folder().glob("*.safetensors")} == before
    assert train(**change, is_fresh=True).recipe.epochs == change.get("epochs", 3)


def test_other_images_under_the_same_name_are_refused(toy: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    train()
    other = Dataset("toy", {**toy.splits, "base": replace(toy.base, fingerprint="f" * 64)})
    monkeypatch.setitem(DATASETS._entries, "toy", Entry("toy", lambda: other, ""))
    with pytest.raises(StudyError, match=r"base_split ffffffffffff\.\.\. instead of [0-9a-f]{12}\.\.\."):
        train()


def test_a_damaged_state_is_one_clear_line_and_fresh_forgets_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        train(progress=StopsAt(5))
    content = bytearray(state_file("mine").read_bytes())
    content[-9] ^= 1
    state_file("mine").write_bytes(content)
    with pytest.raises(WeightsError, match=r"mine\.state\.safetensors does not match its digest"):
        train()
    state_file("mine").write_bytes(content[:50])
    with pytest.raises(WeightsError, match=r"mine\.state\.safetensors cannot be read"):
        train()
    assert [entry.summary for entry in checkpoint_entries()] == ["not finished: damaged"]
    assert train(is_fresh=True).epoch >= 1


def test_the_micro_batch_is_what_fits_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert train("roomy").micro_batches == [48]
    monkeypatch.setattr("fewshot_bench.training.optimisation.free_bytes", lambda device: 8_000_000)
    small = train("small").micro_batches[0]
    assert small < 48
    assert small & (small - 1) == 0
    assert train("asked", micro_batch=5).micro_batches == [5]


def test_a_training_goes_on_with_its_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(micro_batch=6, progress=StopsAt(4))
    assert train().micro_batches == [6]
    with pytest.raises(KeyboardInterrupt):
        train("other", micro_batch=6, progress=StopsAt(4))
    assert train("other", micro_batch=12).micro_batches == [6, 12]


def test_the_micro_batch_is_halved_where_memory_runs_out_and_only_where_it_was_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fewshot_bench.study import base_stage as module

    whole = module.train_on_base

    def scarce(*arguments: Any, **settings: Any) -> Any:
        if settings["computing"].micro_batch > 12:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(*arguments, **settings)

    monkeypatch.setattr(module, "train_on_base", scarce)
    assert train().micro_batches == [48, 24, 12]
    with pytest.raises(StudyError, match=r"a micro-batch of 48 images does not fit .* --micro-batch 24"):
        train("asked", micro_batch=48)


def test_two_trainings_under_one_name_at_the_same_time_are_refused() -> None:
    class TrainsAgain(StopsAt):
        def advance(self, amount: int = 1, note: str = "") -> None:
            Context().run(train)  # as if another process began it

    with pytest.raises(StudyError, match="mine is being trained by another process"):
        train(progress=TrainsAgain(1))


def test_tensorboard_gets_every_epoch_once_over_a_stop(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(KeyboardInterrupt):
        train(tensorboard=tmp_path, progress=StopsAt(5))
    train(tensorboard=tmp_path)
    events = EventAccumulator(str(tmp_path / "mine"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert {"accuracy", "validation_1shot", "learning_rate"} <= set(events.Tags()["scalars"])


def test_without_tensorboard_its_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(StudyError, match=r"pip install 'fewshot-bench\[tensorboard\]'"):
        train(tensorboard=tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"name": "../mine"}, StudyError, "a checkpoint's name should be of letters"),
        ({"name": "mine.state"}, StudyError, "a checkpoint's name should be of letters"),
        ({"name": "mine.last"}, StudyError, r"end with \.last"),
        ({"loss": "ce+shane"}, UnknownNameError, r"Did you mean .*ce\+schane"),
        ({"backbone": "conv5"}, UnknownNameError, "no backbone called 'conv5'"),
        ({"interpolation": "cubic"}, StudyError, "one of bicubic, bilinear, nearest, not cubic"),
        ({"save_every": 0}, StudyError, "--save-every should be 1 or more"),
        ({"validation_episodes": 0}, StudyError, "--validation-episodes should be 1 or more"),
        ({"validate_every": -1}, StudyError, "should be 1 or more, not -1"),
        ({"micro_batch": 0}, StudyError, "1 image or more, not 0"),
        ({"validation_share": 0.1}, StudyError, "validation_share has no effect .* --protocol full"),
        ({"kept_epoch": "best"}, StudyError, "kept_epoch has no effect .* --protocol full"),
        ({"seed": 1 << 70}, StudyError, "seed .* should be a whole number of 64 bits"),
        ({"inner_steps": 3}, StudyError, "inner_steps has no effect .* maml, anil and meta-sgd"),
        ({"momentum": 0.8}, StudyError, "momentum has no effect .* the optimizer sgd"),
        ({"schedule": "step"}, StudyError, "schedule .* one of constant, cosine, one-cycle"),
    ],
)
def test_what_cannot_be_trained_is_refused(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(**settings)
    assert not list(checkpoints_folder().glob("*.safetensors"))


def test_trainings_are_listed_with_what_they_are() -> None:
    assert checkpoint_entries() == []
    train("done", loss="ce+schane")
    with pytest.raises(KeyboardInterrupt):
        train("stopped", progress=StopsAt(4))
    done, stopped = checkpoint_entries()
    assert done.name == "done"
    assert "conv4_32, base split of toy, ce+schane" in done.summary
    assert "of 3, validation 1-shot " in done.summary
    assert done.facts["validation_5shot"] == read_checkpoint("done").accuracies["validation_5shot"]
    assert (stopped.name, stopped.summary) == ("stopped", "not finished: epoch 1 of 3")
