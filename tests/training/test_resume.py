"""A training that was stopped goes on as if it had not been."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from bars import are_equal, bars, conv4, train
from safetensors import safe_open
from torch import Tensor, nn

from fewshot_bench.errors import StudyError, WeightsError
from fewshot_bench.training import Computing, History, Selection, StateFile, TrainingResult


class StoppedError(Exception):
    """What a test stops a training with."""


def stopped_after(stop: int, **settings: Any) -> None:
    def kill(history: History) -> None:
        if len(history) == stop:
            raise StoppedError

    with pytest.raises(StoppedError):
        train(after_epoch=kill, **settings)


def brightness(network: nn.Module, head: nn.Module) -> Mapping[str, float]:
    """Some number that goes up and down with the weights, in place of a validation."""
    assert not network.training
    total = sum(float(value.double().sum()) for value in network.state_dict().values())
    torch.rand(3)
    return {"validation_1shot": total % 1, "validation_5shot": total * 7 % 1}


SETTINGS: dict[str, dict[str, Any]] = {
    "one-cycle": {"loss": "ce"},
    "cosine and adam": {"loss": "ce", "schedule": "cosine", "optimizer": "adam"},
    "warm-up": {"loss": "ce+schane", "schedule": "cosine", "warmup_epochs": 1.5, "label_smoothing": 0.1},
    "constant": {"loss": "ce", "schedule": "constant", "dropout": 0.5},
    "micro-batches": {"loss": "ce+schane", "computing": Computing(micro_batch=5)},
    "bf16": {"loss": "ce", "precision": "bf16"},
    "fp16": {"loss": "ce", "precision": "fp16"},
    "selection": {"loss": "ce", "selection": Selection(validate=brightness, every=2)},
    "average": {"loss": "ce", "ema": 0.8, "selection": Selection(validate=brightness, every=2, chooses=False)},
    "parts": {"loss": "ce", "train_share": 0.5, "validation_share": 0.2, "tune": "last:2", "layer_decay": 0.7},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("stop", [1, 3])
def test_the_weights_are_those_of_a_training_that_never_stopped_bit_for_bit(
    name: str, stop: int, tmp_path: Path
) -> None:
    settings = {"epochs": 4, "split": bars(channels=3), **SETTINGS[name]}
    without = train(**settings)
    state = StateFile(path=tmp_path / "state.safetensors")
    stopped_after(stop, state=state, **settings)
    torch.rand(11)
    resumed = train(state=state, **settings)
    assert are_equal(without, resumed)
    assert all(a.equal(b) for a, b in zip(weights_of_last(without), weights_of_last(resumed), strict=True))
    assert resumed.epoch == without.epoch
    varying = ("images_per_second", "seconds")
    for one, other in zip(without.history, resumed.history, strict=True):
        assert {k: v for k, v in one.items() if k not in varying} == {
            k: v for k, v in other.items() if k not in varying
        }


def weights_of_last(result: TrainingResult) -> list[Tensor]:
    return list(result.last.state_dict().values())


def test_only_what_is_left_is_trained(tmp_path: Path) -> None:
    state = StateFile(path=tmp_path / "state.safetensors", every=2)
    stopped_after(3, state=state, epochs=5)
    done: list[int] = []
    train(state=state, epochs=5, after_epoch=lambda history: done.append(len(history)))
    assert done == [3, 4, 5], "the state of epoch 2 is the newest"
    train(state=state, epochs=5, after_epoch=lambda history: done.append(len(history)))
    assert len(done) == 3, "nothing is left"


def test_the_state_holds_tensors_and_plain_data_alone(tmp_path: Path) -> None:
    state = StateFile(path=tmp_path / "state.safetensors", metadata={"plan": "{}"})
    train(state=state)
    with safe_open(state.path, framework="pt") as file:
        names, metadata = set(file.keys()), file.metadata()
    assert {"random.cpu", "optimizer.0.exp_avg", "optimizer.0.exp_avg_sq", "optimizer.0.step", "head.1.weight"} <= names
    assert set(metadata) == {"plan", "course", "tensors_sha256"}


def test_a_damaged_state_is_one_clear_line(tmp_path: Path) -> None:
    state = StateFile(path=tmp_path / "state.safetensors")
    train(state=state)
    content = bytearray(state.path.read_bytes())
    content[-9] ^= 1
    state.path.write_bytes(content)
    with pytest.raises(WeightsError, match="does not match its digest"):
        train(state=state)
    state.path.write_bytes(content[:100])
    with pytest.raises(WeightsError, match="cannot be read"):
        train(state=state)


@pytest.mark.parametrize("change", [{"network": nn.Flatten()}, {"optimizer": "adam", "schedule": "cosine"}])
def test_the_state_of_another_training_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    state = StateFile(path=tmp_path / "state.safetensors")
    train(state=state, split=bars(channels=3))
    if "network" not in change:
        with safe_open(state.path, framework="pt") as file:
            from fewshot_bench.training.checkpoints import save_tensors

            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
            save_tensors(state.path, tensors, {"course": '{"history": []}'})
    with pytest.raises(WeightsError, match="this training cannot resume from"):
        train(state=state, split=bars(channels=3), **change)


def test_the_best_epoch_is_the_result_and_the_last_is_there_too() -> None:
    scores = iter([0.5, 0.9, 0.9, 0.2])
    seen: list[list[Tensor]] = []

    def look(network: nn.Module, head: nn.Module) -> Mapping[str, float]:
        seen.append([value.clone() for value in network.state_dict().values()])
        return {"validation_1shot": next(scores)}

    result = train(epochs=4, selection=Selection(validate=look))
    assert result.epoch == 2, "the first of equals"
    assert all(a.equal(b) for a, b in zip(result.backbone.state_dict().values(), seen[1], strict=True))
    assert all(a.equal(b) for a, b in zip(result.last.state_dict().values(), seen[3], strict=True))
    assert [row["validation_1shot"] for row in result.history] == [0.5, 0.9, 0.9, 0.2]
    assert not result.last.training


def test_looking_changes_nothing_about_the_last_epoch() -> None:
    looked = train(epochs=3, selection=Selection(validate=brightness))
    plain = train(epochs=3)
    assert all(a.equal(b) for a, b in zip(weights_of_last(looked), weights_of_last(plain), strict=True))
    assert plain.last is plain.backbone
    assert plain.epoch == 3


def test_the_last_epoch_is_always_looked_at() -> None:
    result = train(epochs=5, selection=Selection(validate=brightness, every=2))
    assert [index for index, row in enumerate(result.history, 1) if "validation_5shot" in row] == [2, 4, 5]
    with pytest.raises(StudyError, match="1 or more, not 0"):
        Selection(validate=brightness, every=0)


def test_the_given_network_is_left_alone_when_going_on(tmp_path: Path) -> None:
    state = StateFile(path=tmp_path / "state.safetensors")
    train(state=state)
    network = conv4()
    before = [value.clone() for value in network.state_dict().values()]
    train(state=state, network=network)
    assert all(a.equal(b) for a, b in zip(network.state_dict().values(), before, strict=True))
